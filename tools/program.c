/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
#include "program.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#if defined __x86_64__
#define OWN_MACHINE EM_X86_64
#elif defined __aarch64__
#define OWN_MACHINE EM_AARCH64
#else
#define OWN_MACHINE EM_NONE
#endif

/* The oldest glibc that the shim loads in: shim/base/libc.h. */
#ifdef __riscv
#define OLDEST_GLIBC "GLIBC_2.27"
#else
#define OLDEST_GLIBC "GLIBC_2.17"
#endif

bool program_find(const char *command, char *out, size_t size)
{
    const char *path = getenv("PATH");
    struct stat status;
    if (strchr(command, '/')) {
        snprintf(out, size, "%s", command);
        return access(out, X_OK) == 0;
    }
    path = path ? path : "/bin:/usr/bin";
    while (*path) {
        size_t length = strcspn(path, ":");
        snprintf(out, size, "%.*s/%s", (int)length, path, command);
        if (length && access(out, X_OK) == 0 && stat(out, &status) == 0 && S_ISREG(status.st_mode))
            return true;
        path += length + (path[length] == ':');
    }
    return false;
}

/* Whether the code loads the number of system call `number` shortly before it makes one. */
static bool makes_call(const uint8_t *code, size_t size, unsigned number)
{
#ifdef __x86_64__
    enum { REACH = 24 }; /* bytes between `mov $number,%eax` and `syscall` */
    for (size_t i = 0; i + 7 <= size; i++) {
        if (code[i] != 0xb8 || (code[i + 1] | code[i + 2] << 8) != (int)number || code[i + 3] ||
            code[i + 4])
            continue;
        size_t end = i + 5 + REACH < size ? i + 5 + REACH : size;
        for (size_t j = i + 5; j + 1 < end; j++)
            if (code[j] == 0x0f && code[j + 1] == 0x05)
                return true;
    }
#else
    (void)code, (void)size, (void)number;
#endif
    return false;
}

static void read_code(Elf_Scn *section, struct program *program)
{
    Elf_Data *data = elf_rawdata(section, NULL);
    if (!data || !data->d_buf)
        return;
    if (makes_call(data->d_buf, data->d_size, SYS_accept) ||
        makes_call(data->d_buf, data->d_size, SYS_accept4))
        program->traits |= PROGRAM_RAW_ACCEPT;
    if (makes_call(data->d_buf, data->d_size, SYS_io_uring_setup))
        program->traits |= PROGRAM_IO_URING;
}

static void read_imports(Elf *elf, Elf_Scn *section, const GElf_Shdr *header,
                         struct program *program)
{
    Elf_Data *data = elf_getdata(section, NULL);
    GElf_Sym symbol;
    size_t count = data && header->sh_entsize ? data->d_size / header->sh_entsize : 0;
    for (size_t i = 0; i < count && gelf_getsym(data, (int)i, &symbol); i++) {
        const char *name = elf_strptr(elf, header->sh_link, symbol.st_name);
        if (!name || symbol.st_shndx != SHN_UNDEF)
            continue;
        if (strcmp(name, "syscall") == 0)
            program->traits |= PROGRAM_SYSCALL;
        if (strncmp(name, "io_uring_", 9) == 0)
            program->traits |= PROGRAM_IO_URING;
    }
}

static void read_needed(Elf *elf, Elf_Scn *section, const GElf_Shdr *header,
                        struct program *program)
{
    Elf_Data *data = elf_getdata(section, NULL);
    GElf_Dyn entry;
    size_t count = data && header->sh_entsize ? data->d_size / header->sh_entsize : 0;
    for (size_t i = 0; i < count && gelf_getdyn(data, (int)i, &entry); i++) {
        const char *name =
            entry.d_tag == DT_NEEDED ? elf_strptr(elf, header->sh_link, entry.d_un.d_val) : NULL;
        if (name && strncmp(name, "liburing.so", 11) == 0)
            program->traits |= PROGRAM_IO_URING;
    }
}

static void read_sections(Elf *elf, struct program *program)
{
    size_t names;
    GElf_Shdr header;
    if (elf_getshdrstrndx(elf, &names) < 0)
        return;
    for (Elf_Scn *section = NULL; (section = elf_nextscn(elf, section));) {
        const char *name;
        if (!gelf_getshdr(section, &header))
            continue;
        name = elf_strptr(elf, names, header.sh_name);
        if (name && (strcmp(name, ".go.buildinfo") == 0 || strcmp(name, ".note.go.buildid") == 0))
            program->traits |= PROGRAM_GO;
        if (header.sh_type == SHT_DYNSYM)
            read_imports(elf, section, &header, program);
        if (header.sh_type == SHT_DYNAMIC)
            read_needed(elf, section, &header, program);
        if (header.sh_type == SHT_PROGBITS && header.sh_flags & SHF_EXECINSTR)
            read_code(section, program);
    }
}

/* Whether one of the versions that the section defines has this name. */
static bool is_defined(Elf *elf, Elf_Scn *section, const GElf_Shdr *header, const char *version)
{
    Elf_Data *data = elf_getdata(section, NULL);
    GElf_Verdef entry;
    GElf_Verdaux name;
    int offset = 0;
    for (size_t i = 0; data && i < header->sh_info; i++) {
        if (!gelf_getverdef(data, offset, &entry) ||
            !gelf_getverdaux(data, offset + (int)entry.vd_aux, &name))
            return false;
        const char *text = elf_strptr(elf, header->sh_link, name.vda_name);
        if (text && strcmp(text, version) == 0)
            return true;
        offset += (int)entry.vd_next;
    }
    return false;
}

/* Whether the file at `path` is a library that defines versions, but not this one. */
static bool lacks_version(const char *path, const char *version)
{
    bool defines = false, defines_it = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    Elf *elf = fd < 0 ? NULL : elf_begin(fd, ELF_C_READ, NULL);
    for (Elf_Scn *section = NULL; elf && (section = elf_nextscn(elf, section));) {
        GElf_Shdr header;
        if (!gelf_getshdr(section, &header) || header.sh_type != SHT_GNU_verdef)
            continue;
        defines = true;
        defines_it |= is_defined(elf, section, &header, version);
    }
    elf_end(elf);
    if (fd >= 0)
        close(fd);
    return defines && !defines_it;
}

/* A program that brings a glibc of its own has it in the directory of its loader. */
static void judge_loader(struct program *program)
{
    /* As the ABI of each machine names them; the last two are other machines'. */
    static const char *const glibcs[] = {"ld-linux", "ld.so.", "ld64.so."};
    char path[PATH_MAX], libc[PATH_MAX + sizeof "/libc.so.6"];
    const char *name = strrchr(program->loader, '/');
    bool is_glibcs = false;

    name = name ? name + 1 : program->loader;
    if (strncmp(name, "ld-musl-", 8) == 0)
        return;
    for (size_t i = 0; i < sizeof glibcs / sizeof *glibcs; i++)
        is_glibcs |= strncmp(name, glibcs[i], strlen(glibcs[i])) == 0;
    if (!is_glibcs)
        program->traits |= PROGRAM_OTHER_LIBC;
    if (!is_glibcs || program->traits & PROGRAM_OTHER_ABI || !realpath(program->loader, path))
        return;
    snprintf(libc, sizeof libc, "%.*s/libc.so.6", (int)(strrchr(path, '/') - path), path);
    if (lacks_version(libc, OLDEST_GLIBC))
        program->traits |= PROGRAM_OLD_LIBC;
}

static void read_loader(int fd, Elf *elf, struct program *program)
{
    size_t count;
    GElf_Phdr header;
    if (elf_getphdrnum(elf, &count) < 0)
        return;
    for (size_t i = 0; i < count; i++) {
        if (!gelf_getphdr(elf, (int)i, &header) || header.p_type != PT_INTERP)
            continue;
        size_t size =
            header.p_filesz < sizeof program->loader ? header.p_filesz : sizeof program->loader - 1;
        if (pread(fd, program->loader, size, (off_t)header.p_offset) != (ssize_t)size)
            program->loader[0] = '\0';
        program->loader[size] = '\0';
        judge_loader(program);
        return;
    }
    program->traits |= PROGRAM_STATIC; /* elf(5): a dynamically linked program names its loader */
}

static void read_elf(int fd, struct program *program)
{
    GElf_Ehdr header;
    Elf *elf = elf_version(EV_CURRENT) == EV_NONE ? NULL : elf_begin(fd, ELF_C_READ, NULL);
    if (elf && elf_kind(elf) == ELF_K_ELF && gelf_getehdr(elf, &header)) {
        program->traits |= PROGRAM_ELF;
        if (gelf_getclass(elf) != ELFCLASS64 ||
            (OWN_MACHINE != EM_NONE && header.e_machine != OWN_MACHINE))
            program->traits |= PROGRAM_OTHER_ABI;
        read_loader(fd, elf, program);
        read_sections(elf, program);
    }
    elf_end(elf);
}

static void read_script(int fd, struct program *program)
{
    char line[256] = "";
    if (pread(fd, line, sizeof line - 1, 0) < 4 || line[0] != '#' || line[1] != '!')
        return;
    const char *start = line + 2 + strspn(line + 2, " \t");
    size_t length = strcspn(start, " \t\n");
    /* `#!/usr/bin/env python3` runs python3 */
    if (length >= 4 && strncmp(start + length - 4, "/env", 4) == 0 && start[length] == ' ' &&
        start[length + 1] != '-')
        start += length + strspn(start + length, " \t");
    snprintf(program->interpreter, sizeof program->interpreter, "%.*s",
             (int)strcspn(start, " \t\n"), start);
}

bool program_read(const char *path, struct program *program)
{
    struct stat status;
    memset(program, 0, sizeof *program);
    snprintf(program->path, sizeof program->path, "%s", path);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return false;
    if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode)) {
        close(fd);
        errno = ENOEXEC;
        return false;
    }
    if ((status.st_mode & S_ISUID && status.st_uid != geteuid()) ||
        (status.st_mode & S_ISGID && status.st_gid != getegid()))
        program->traits |= PROGRAM_SET_ID;
    if (geteuid() != 0 && fgetxattr(fd, "security.capability", NULL, 0) > 0)
        program->traits |= PROGRAM_CAPABILITIES;
    read_elf(fd, program);
    if (!(program->traits & PROGRAM_ELF))
        read_script(fd, program);
    close(fd);
    return true;
}
