# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
# The tests, and the servers that they drive, as programs of musl: `make musl-tests`, into BUILD/musl.
# What they test is what is shipped: the library that was linked for glibc, and its very objects.

MUSL := $(BUILD)/musl
MUSL_CC := musl-gcc
MUSL_FLAGS := -std=c11 -D_GNU_SOURCE -Ishim $(WARNINGS) -Wno-clobbered $(CFLAGS) -MMD -MP -isystem $(MUSL)/include
MUSL_UNIT := $(patsubst $(BUILD)/tests/%,$(MUSL)/tests/%,$(UNIT))
MUSL_CONFORMANCE := $(patsubst $(BUILD)/tests/%,$(MUSL)/tests/%,$(filter-out %/test_scale,$(CONFORMANCE)))
MUSL_SERVERS := $(MUSL)/tests/acceptor $(MUSL)/tests/echo
MUSL_ANSWERER := $(patsubst %,$(MUSL)/tests/servers/%.o,answerer answerer_http answerer_blocking answerer_events)
MUSL_OBJECTS := $(filter-out $(BUILD)/shim/base/libc.o,$(UNIT_ROOMS)) $(MUSL)/libc.o

.PHONY: musl-tests
musl-tests: all $(MUSL_UNIT) $(MUSL_CONFORMANCE) $(MUSL_SERVERS) $(MUSL)/tests/answerer

# Headers of the kernel, and of cmocka, which musl-gcc does not look for.
$(MUSL)/include/cmocka.h: /usr/include/cmocka.h
	@mkdir -p $(@D)
	ln -sfn /usr/include/linux $(@D)/linux
	ln -sfn /usr/include/asm-generic $(@D)/asm-generic
	ln -sfn /usr/include/$(shell uname -m)-linux-gnu/asm $(@D)/asm
	cp $< $@

# Debian's libcmocka, built for glibc. It needs glibc's loader: that name is given to what it misses in musl.
$(MUSL)/lib/libcmocka.so.0: tests/musl/fortified.c $(MADE_WITH)/compiler
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)cp $$($(CC) -print-file-name=libcmocka.so) $@
	$(Q)for name in $$(readelf -d $@ | sed -n 's/.*NEEDED.*\[\(ld-linux.*\)\]/\1/p'); do \
		$(MUSL_CC) -Wall -Wextra -Werror -O2 -fPIC -shared -o $(@D)/$$name $< || exit 1; done

# ld asks for versions of glibc's symbols where the loader of musl ignores them.
$(MUSL)/libc.o: $(BUILD)/shim/base/libc.o
	@mkdir -p $(@D)
	$(Q)nm -u $< | awk '$$2 ~ /@/ { split($$2, part, "@"); print $$2, part[1] }' > $(MUSL)/versions
	$(Q)objcopy --redefine-syms=$(MUSL)/versions $< $@

$(MUSL)/tests/%.o: tests/%.c tests/musl/missing.h $(MUSL)/include/cmocka.h $(MADE_WITH)/compiler
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(MUSL_CC) $(MUSL_FLAGS) -include tests/musl/missing.h -c -o $@ $<

MUSL_LINK = $(MUSL_CC) -o $@ $^ -Wl,-rpath,$(abspath $(MUSL)/lib) -Wl,--allow-shlib-undefined

object_of_musl_unit = $(MUSL)/tests/$(basename $(notdir $(1))): $(MUSL)/$(1:.c=.o)
$(foreach source,$(UNIT_SOURCES),$(eval $(call object_of_musl_unit,$(source))))

$(MUSL_UNIT): $(MUSL_OBJECTS) $(MUSL)/lib/libcmocka.so.0
	$(call say,LD)
	$(Q)$(MUSL_LINK)

$(MUSL_CONFORMANCE): $(MUSL)/tests/%: $(MUSL)/tests/conformance/%.o $(MUSL)/lib/libcmocka.so.0
	$(call say,LD)
	$(Q)$(MUSL_LINK)

$(MUSL_SERVERS): $(MUSL)/tests/%: $(MUSL)/tests/servers/%.o
	$(call say,LD)
	$(Q)$(MUSL_CC) -o $@ $^

$(MUSL)/tests/answerer: $(MUSL_ANSWERER)
	$(call say,LD)
	$(Q)$(MUSL_CC) -o $@ $^

-include $(wildcard $(MUSL)/tests/*/*.d $(MUSL)/tests/*/*/*.d)
