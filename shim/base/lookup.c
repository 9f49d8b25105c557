/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "base/lookup.h"

#include <elf.h>
#include <link.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef ElfW(Addr) elf_address;
typedef ElfW(Dyn) elf_dynamic;
typedef ElfW(Phdr) elf_part;
typedef ElfW(Sym) elf_symbol;
typedef ElfW(Half) elf_version;

#define FILTER_BITS (8 * sizeof(elf_address))
/* Of a version that only programs linked long ago ask for: the GNU symbol versioning extension. */
#define VERSION_HIDDEN 0x8000

struct search {
    struct lookup *lookups;
    unsigned count, found;
    bool passed_own; /* this library: what comes after it is searched */
};

/* One library's dynamic symbols. */
struct symbols {
    uintptr_t base, end;
    const elf_symbol *table;
    const char *names;
    const uint32_t *gnu_hash, *hash;
    const elf_version *versions;
};

/* The hash function of DT_GNU_HASH: Bernstein's, as binutils and every loader compute it. */
static uint32_t hash_of(const char *name)
{
    uint32_t hash = 5381;
    for (; *name; name++)
        hash = hash * 33 + (unsigned char)*name;
    return hash;
}

/* glibc adds the library's base to these addresses in place, musl does not, and nobody does it for
 * the kernel's own library. */
static const void *address_in(const struct symbols *symbols, elf_address address)
{
    bool in_place = address >= symbols->base && address < symbols->end;
    return (const void *)(in_place ? address : symbols->base + address);
}

/* False when it has no symbols to search. */
static bool read_dynamic(const elf_dynamic *entry, struct symbols *symbols)
{
    for (; entry->d_tag != DT_NULL; entry++) {
        const void *address = address_in(symbols, entry->d_un.d_ptr);
        if (entry->d_tag == DT_SYMTAB)
            symbols->table = address;
        else if (entry->d_tag == DT_STRTAB)
            symbols->names = address;
        else if (entry->d_tag == DT_GNU_HASH)
            symbols->gnu_hash = address;
        else if (entry->d_tag == DT_HASH)
            symbols->hash = address;
        else if (entry->d_tag == DT_VERSYM)
            symbols->versions = address;
    }
    return symbols->table && symbols->names && (symbols->gnu_hash || symbols->hash);
}

static bool is_wanted(const struct symbols *symbols, uint32_t index, const char *name)
{
    const elf_symbol *symbol = &symbols->table[index];
    return symbol->st_shndx != SHN_UNDEF && ELF32_ST_TYPE(symbol->st_info) == STT_FUNC &&
           !(symbols->versions && symbols->versions[index] & VERSION_HIDDEN) &&
           strcmp(symbols->names + symbol->st_name, name) == 0;
}

/*
 * The layout: four words (buckets, first symbol, words of the filter, shift), the filter, the
 * buckets, and a chain of hashes whose lowest bit says that it ends. Index 0 is no symbol.
 */
static uint32_t find_by_gnu_hash(const struct symbols *symbols, const struct lookup *lookup)
{
    const uint32_t *table = symbols->gnu_hash;
    uint32_t buckets = table[0], first = table[1], filter_words = table[2], shift = table[3];
    const elf_address *filter = (const void *)(table + 4);
    const uint32_t *bucket = (const void *)(filter + filter_words), *chain = bucket + buckets;
    if (!buckets || !filter_words)
        return 0;
    elf_address word = filter[lookup->hash / FILTER_BITS % filter_words];
    if (!(word >> lookup->hash % FILTER_BITS & word >> (lookup->hash >> shift) % FILTER_BITS & 1))
        return 0;
    for (uint32_t i = bucket[lookup->hash % buckets]; i >= first && i > 0; i++) {
        uint32_t hash = chain[i - first];
        if ((hash | 1) == (lookup->hash | 1) && is_wanted(symbols, i, lookup->name))
            return i;
        if (hash & 1)
            break;
    }
    return 0;
}

/* DT_HASH, where there is no other, only for its count of symbols: elf(5). */
static uint32_t find_one_by_one(const struct symbols *symbols, const char *name)
{
    for (uint32_t i = 1; i < symbols->hash[1]; i++)
        if (is_wanted(symbols, i, name))
            return i;
    return 0;
}

static void look_up_all(const struct symbols *symbols, struct search *search)
{
    for (unsigned i = 0; i < search->count; i++) {
        struct lookup *lookup = &search->lookups[i];
        if (lookup->found)
            continue;
        uint32_t index = symbols->gnu_hash ? find_by_gnu_hash(symbols, lookup)
                                           : find_one_by_one(symbols, lookup->name);
        if (!index)
            continue;
        lookup->found = (void *)(symbols->base + symbols->table[index].st_value);
        search->found++;
    }
}

/* For dl_iterate_phdr(3), which goes through the libraries in the order in which they are searched:
 * what was there when the program started, the preloaded ones first. */
static int look(struct dl_phdr_info *info, size_t size, void *context)
{
    struct search *search = context;
    struct symbols symbols = {.base = info->dlpi_addr, .end = info->dlpi_addr};
    const elf_dynamic *dynamic = NULL;
    uintptr_t own = (uintptr_t)lookup_next;
    bool is_own = false;

    (void)size;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const elf_part *part = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + part->p_vaddr, end = start + part->p_memsz;
        if (part->p_type == PT_DYNAMIC)
            dynamic = (const void *)start;
        if (part->p_type != PT_LOAD)
            continue;
        is_own |= own >= start && own < end;
        symbols.end = end > symbols.end ? end : symbols.end;
    }
    if (search->passed_own && dynamic && read_dynamic(dynamic, &symbols))
        look_up_all(&symbols, search);
    search->passed_own |= is_own;
    return search->found == search->count;
}

void lookup_next(struct lookup *lookups, unsigned count)
{
    struct search search = {.lookups = lookups, .count = count};
    for (unsigned i = 0; i < count; i++) {
        lookups[i].hash = hash_of(lookups[i].name);
        search.found += lookups[i].found != NULL;
    }
    dl_iterate_phdr(look, &search);
}
