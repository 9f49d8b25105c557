# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
VERSION := 0.1.0
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
CFLAGS ?= -O2 -g
SANITIZE ?=

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 \
	-Wundef -Wpointer-arith -Wno-format-nonliteral -Werror
COMMON := -std=c11 -D_GNU_SOURCE $(WARNINGS) $(CFLAGS) $(SANITIZE) -MMD -MP
SHIM_FLAGS := $(COMMON) -fPIC -fvisibility=hidden -fno-plt
TOOL_FLAGS := $(COMMON) -DBACKPRESSURE_VERSION='"$(VERSION)"' -DBACKPRESSURE_LIBDIR='"$(LIBDIR)"'

SHIM_SOURCES := $(wildcard shim/*.c)
SHIM_OBJECTS := $(SHIM_SOURCES:%.c=$(BUILD)/%.o)
# The rooms of the shim that bpctl shares: the grammar, the segment, and how to ask the kernel.
SHARED := limits segment sockdiag gate real
TOOL_SOURCES := $(wildcard tools/*.c)
TOOL_OBJECTS := $(TOOL_SOURCES:%.c=$(BUILD)/%.o) $(SHARED:%=$(BUILD)/shim/%.o)

.PHONY: all
all: $(BUILD)/libbackpressure.so $(BUILD)/bpctl

$(BUILD)/libbackpressure.so: $(SHIM_OBJECTS)
	$(CC) -shared $(CFLAGS) $(SANITIZE) $(LDFLAGS) -Wl,-z,relro,-z,now,-z,nodelete,--as-needed \
		$(if $(SANITIZE),,-Wl$(comma)--no-undefined) -Wl,-soname,libbackpressure.so -o $@ $^

$(BUILD)/bpctl: $(TOOL_OBJECTS)
	$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ -ljansson

comma := ,

$(BUILD)/shim/%.o: shim/%.c
	@mkdir -p $(@D)
	$(CC) $(SHIM_FLAGS) -c -o $@ $<

$(BUILD)/tools/%.o: tools/%.c
	@mkdir -p $(@D)
	$(CC) $(TOOL_FLAGS) -c -o $@ $<

-include $(SHIM_OBJECTS:.o=.d) $(TOOL_OBJECTS:.o=.d)
