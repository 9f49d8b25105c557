# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
#
#   make            build/libbackpressure.so and build/bpctl
#   make demo       a real server, overloaded before and after (under a minute)
#   make test       builds and runs everything; on a fresh machine it installs its needs first
#   make install    PREFIX=/usr/local DESTDIR=; on a fresh machine it installs what building needs first
#   make deb        build/backpressure_VERSION_ARCH.deb
#   make deps       installs what a bare Debian 12 lacks (as root)
#   make bench      what ceilings cost and save, and what overload does with and without them
#   make fuzz       hostile input for FUZZ_SECONDS each (3600)
#   make test-kernels   the probe, the units and real servers on Debian's kernels, under qemu
#   make lint       clang-format, cppcheck, floors, the segment's layout, and what the library asks of libc
VERSION := 0.1.0
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
SYSCONFDIR ?= /etc
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
DOCDIR ?= $(DATADIR)/doc/backpressure
UNITDIR ?= $(PREFIX)/lib/systemd/system
BASHDIR ?= $(DATADIR)/bash-completion/completions
ZSHDIR ?= $(DATADIR)/zsh/site-functions
BUILD ?= build
ifeq ($(origin CC),default)
CC := gcc
endif
CFLAGS ?= -O2 -g
SANITIZE ?=

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wformat=2 \
	-Wundef -Wpointer-arith -Wno-format-nonliteral -Werror
COMMON := -std=c11 -D_GNU_SOURCE -Ishim $(WARNINGS) $(CFLAGS) $(SANITIZE) -MMD -MP
# Fortified calls are glibc's alone, and the library loads in musl, too (shim/base/libc.h).
SHIM_FLAGS := $(COMMON) -fPIC -fvisibility=hidden -U_FORTIFY_SOURCE
TOOL_FLAGS := $(COMMON)
# Who is told the version, and where things will be.
PLACES := -DBACKPRESSURE_VERSION='"$(VERSION)"' -DBACKPRESSURE_LIBDIR='"$(LIBDIR)"' \
	-DBACKPRESSURE_SYSCONFDIR='"$(SYSCONFDIR)"'
TOLD_PLACES := $(patsubst %,$(BUILD)/tools/%.o,bpctl run exposition)
comma := ,
# `make V=1` shows whole commands.
V ?=
Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1) $@")

SHIM_OBJECTS := $(patsubst %.c,$(BUILD)/%.o,$(wildcard shim/*/*.c))
# The rooms of the shim that others share: the grammar, the segment, and how to ask the kernel.
SHARED_ROOMS := limits/limits limits/exempt_path limits/grammar limits/grammar_read limits/grammar_write segment/segment base/histogram base/sockdiag base/proc fd/gate base/real base/sandbox base/libc base/lookup base/clock segment/growth process/liveness segment/finding process/joining
SHARED := $(patsubst %,$(BUILD)/shim/%.o,$(SHARED_ROOMS))
# Recognising what a client speaks, and refusing it in that.
DIALECT_ROOMS := base/chance $(patsubst shim/%.c,%,$(wildcard shim/dialects/*.c))
DIALECTS := $(patsubst %,$(BUILD)/shim/%.o,$(DIALECT_ROOMS))
POLICIES := $(patsubst %.c,$(BUILD)/%.o,$(wildcard shim/policy/*.c))
# PROBE=yes: bpctl has the eBPF probe in it; no: it has not; auto: where clang, bpftool and libbpf-dev are at hand.
# Debian has bpftool where the PATH of ordinary users does not lead.
PROBE ?= auto
BPF_CLANG ?= clang
BPFTOOL ?= $(or $(shell PATH="$$PATH:/usr/sbin:/sbin" command -v bpftool),bpftool)
HAS_PROBE := $(PROBE)
ifeq ($(PROBE),auto)
PROBE_LACKS := $(strip $(if $(shell command -v $(BPF_CLANG)),,clang) $(if $(shell command -v $(BPFTOOL)),,bpftool) \
	$(if $(wildcard /usr/include/bpf/libbpf.h),,libbpf-dev))
HAS_PROBE := $(if $(PROBE_LACKS),no,yes)
endif
ifeq ($(HAS_PROBE),no)
WITHOUT := tools/loader.c
else
WITHOUT := tools/loader_absent.c
PROBE_LIBS := -lbpf
endif
TOOL_OBJECTS := $(patsubst %.c,$(BUILD)/%.o,$(filter-out $(WITHOUT),$(wildcard tools/*.c))) $(SHARED)

.PHONY: all
all: $(BUILD)/libbackpressure.so $(BUILD)/bpctl

# What a build was made with is kept in files that change only when that does: whoever depends on them is made
# anew when the compiler, flags, places, or the choice of the probe are others, or a source file came or went.
MADE_WITH := $(BUILD)/made-with

$(MADE_WITH)/compiler: export SETTING = $(CC) $(shell $(CC) --version 2> /dev/null | head -n 1) $(COMMON) $(LDFLAGS)
$(MADE_WITH)/places: export SETTING = $(PLACES)
$(MADE_WITH)/objects: export SETTING = $(SHIM_OBJECTS) $(TOOL_OBJECTS)
$(MADE_WITH)/probe: export SETTING = $(BPF_CLANG) $(shell $(BPF_CLANG) --version 2> /dev/null | head -n 1) $(BPFTOOL)

$(addprefix $(MADE_WITH)/,compiler places objects probe): FORCE
	@mkdir -p $(@D)
	@printf '%s\n' "$$SETTING" | cmp -s - $@ || printf '%s\n' "$$SETTING" > $@

.PHONY: FORCE
FORCE:

# Says in one line what is missing, before a compiler says it in many.
.PHONY: looked looked-for-tests
looked:
	@CC="$(CC)" PROBE="$(HAS_PROBE)" BPF_CLANG="$(BPF_CLANG)" BPFTOOL="$(BPFTOOL)" tests/needs.sh look
looked-for-tests:
	@CC="$(CC)" PROBE=no tests/needs.sh look tests

$(BUILD)/libbackpressure.so: $(SHIM_OBJECTS) $(MADE_WITH)/objects
	$(call say,LD)
	$(Q)$(CC) -shared $(CFLAGS) $(SANITIZE) $(LDFLAGS) -Wl,-z,relro,-z,now,-z,nodelete,--as-needed \
		$(if $(SANITIZE),,-Wl$(comma)--no-undefined) -Wl,-soname,libbackpressure.so -o $@ $(filter %.o,$^)

$(BUILD)/bpctl: $(TOOL_OBJECTS) $(MADE_WITH)/objects
	$(call say,LD)
	$(if $(PROBE_LACKS),@echo "bpctl is built without the probe; missing: $(PROBE_LACKS) (see: make deps)")
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $(filter %.o,$^) -ljansson -lmicrohttpd -lelf -lncursesw -ltinfo $(PROBE_LIBS)

$(BUILD)/shim/%.o: shim/%.c $(MADE_WITH)/compiler | looked
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(SHIM_FLAGS) -c -o $@ $<

$(BUILD)/tools/%.o: tools/%.c $(MADE_WITH)/compiler | looked
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(TOOL_FLAGS) -c -o $@ $<

$(TOLD_PLACES): $(MADE_WITH)/places
$(TOLD_PLACES): TOOL_FLAGS += $(PLACES)

# --- the probe ---

BPF_ARCH := $(subst aarch64,arm64,$(subst x86_64,x86,$(shell uname -m)))

$(BUILD)/bpf/probe.bpf.o: bpf/probe.bpf.c bpf/probe.h bpf/kernel.h $(MADE_WITH)/probe | looked
	@mkdir -p $(@D)
	$(call say,BPF)
	$(Q)$(BPF_CLANG) -O2 -g -target bpf -D__TARGET_ARCH_$(BPF_ARCH) -Wall -Werror \
		-I/usr/include/$(shell uname -m)-linux-gnu -c -o $@ $<

$(BUILD)/bpf/probe.skel.h: $(BUILD)/bpf/probe.bpf.o
	$(call say,SKEL)
	$(Q)$(BPFTOOL) gen skeleton $< name probe > $@

$(BUILD)/tools/loader.o: $(BUILD)/bpf/probe.skel.h
$(BUILD)/tools/loader.o: TOOL_FLAGS += -I$(BUILD)/bpf

# --- tests ---

# Each is about a floor of the shim, whose name its folder has.
UNIT_SOURCES := $(wildcard tests/unit/*/test_*.c)
UNIT := $(patsubst %.c,$(BUILD)/tests/%,$(notdir $(UNIT_SOURCES)))
# What a program may rely on, bare and under the library.
CONFORMANCE := $(patsubst tests/conformance/%.c,$(BUILD)/tests/%,$(wildcard tests/conformance/test_*.c))
SERVERS := $(BUILD)/tests/test_styles $(BUILD)/tests/test_hold $(BUILD)/tests/test_refuse \
	$(BUILD)/tests/test_live $(BUILD)/tests/test_trust $(BUILD)/tests/test_buffers \
	$(BUILD)/tests/test_duplex $(BUILD)/tests/test_depth $(BUILD)/tests/test_dialects
HARNESS := $(BUILD)/tests/servers/crowd.o $(BUILD)/tests/servers/launch.o \
	$(BUILD)/tests/servers/recipes.o $(BUILD)/tests/servers/readers.o
TEST_PROGRAMS := $(UNIT) $(CONFORMANCE) $(SERVERS) $(BUILD)/tests/acceptor $(BUILD)/tests/answerer $(BUILD)/tests/echo $(BUILD)/tests/sandboxed \
	$(BUILD)/tests/figures \
	$(BUILD)/tests/bench_hold $(BUILD)/tests/openloop $(BUILD)/tests/keptloop $(BUILD)/tests/faults.so $(BUILD)/tests/old_calls.so \
	$(BUILD)/tests/lacking.so \
	$(BUILD)/tests/calls $(BUILD)/tests/asker $(BUILD)/tests/syscalls

$(BUILD)/tests/%.o: tests/%.c $(MADE_WITH)/compiler | looked-for-tests
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)$(CC) $(COMMON) -c -o $@ $<

# The rooms of the shim that unit tests are about, in musl as well (tests/musl/tests.mk).
UNIT_ROOMS := $(SHARED) $(DIALECTS) $(POLICIES) $(BUILD)/shim/base/lease_lock.o

object_of_unit = $(BUILD)/tests/$(basename $(notdir $(1))): $(BUILD)/$(1:.c=.o)
$(foreach source,$(UNIT_SOURCES),$(eval $(call object_of_unit,$(source))))

$(UNIT): $(BUILD)/tests/base/suite.o $(UNIT_ROOMS)
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ -lcmocka -pthread

$(CONFORMANCE): $(BUILD)/tests/%: $(BUILD)/tests/conformance/%.o $(BUILD)/tests/base/suite.o
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ -lcmocka -pthread

$(SERVERS): $(BUILD)/tests/%: $(BUILD)/tests/servers/%.o $(BUILD)/tests/base/suite.o $(HARNESS)
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ -lcmocka -ljansson

$(BUILD)/tests/acceptor $(BUILD)/tests/echo $(BUILD)/tests/sandboxed: $(BUILD)/tests/%: $(BUILD)/tests/servers/%.o
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ -pthread

$(BUILD)/tests/answerer: $(patsubst %,$(BUILD)/tests/servers/%.o,answerer answerer_http answerer_blocking answerer_events)
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ -pthread

$(BUILD)/tests/figures: $(BUILD)/tests/servers/figures.o $(SHARED)
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^

$(BUILD)/tests/bench_hold: $(BUILD)/tests/bench/hold.o $(HARNESS)
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ -ljansson

$(BUILD)/tests/openloop: $(BUILD)/tests/bench/openloop.o
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^ -lm

$(BUILD)/tests/keptloop: $(patsubst %,$(BUILD)/tests/bench/%.o,keptloop answers tally)
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^

$(BUILD)/tests/calls $(BUILD)/tests/asker $(BUILD)/tests/syscalls: $(BUILD)/tests/%: $(BUILD)/tests/bench/%.o
	$(call say,LD)
	$(Q)$(CC) $(CFLAGS) $(SANITIZE) $(LDFLAGS) -o $@ $^

$(BUILD)/tests/faults.so $(BUILD)/tests/old_calls.so $(BUILD)/tests/lacking.so: $(BUILD)/tests/%.so: tests/servers/%.c $(MADE_WITH)/compiler | looked-for-tests
	@mkdir -p $(@D)
	$(call say,LD)
	$(Q)$(CC) $(COMMON) -Wno-missing-prototypes -fPIC -shared -o $@ $<

.PHONY: tests
tests: all $(TEST_PROGRAMS)

-include tests/musl/tests.mk

.PHONY: test
test:
	@tests/needs.sh test
	@tests/run.sh

# By hand: with software emulation each kernel takes some ten minutes.
.PHONY: test-kernels
test-kernels:
	@tests/needs.sh kernels
	@$(MAKE) --no-print-directory -s tests
	@BUILD=$(BUILD) tests/kernels/run.sh

.PHONY: demo
demo:
	@tests/needs.sh demo
	@$(MAKE) --no-print-directory -s all $(BUILD)/tests/acceptor
	@BUILD=$(BUILD) tests/demo.sh

.PHONY: bench
bench: tests
	BUILD=$(BUILD) $(BUILD)/tests/bench_hold
	BUILD=$(BUILD) python3 tests/bench/buffers.py
	BUILD=$(BUILD) python3 tests/bench/probe.py
	BUILD=$(BUILD) python3 tests/bench/syscalls.py
	BUILD=$(BUILD) python3 tests/bench/cost.py
	BUILD=$(BUILD) python3 tests/bench/overload.py
	BUILD=$(BUILD) python3 tests/bench/requests.py --short
	BUILD=$(BUILD) python3 tests/bench/clients.py

# --- hostile input: libFuzzer, with the sanitizers ---

FUZZ_REQUESTS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_request_*.c))
FUZZ := limits busy segment $(FUZZ_REQUESTS)
FUZZ_SECONDS ?= 3600
FUZZ_BUILD := $(BUILD)/fuzz
FUZZ_FLAGS := -std=c11 -D_GNU_SOURCE -Ishim $(filter-out -Wmissing-prototypes,$(WARNINGS)) -O1 -g -fPIC \
	-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -MMD -MP \
	$(PLACES)
FUZZ_SHARED := $(patsubst %,$(FUZZ_BUILD)/shim/%.o,$(SHARED_ROOMS) $(DIALECT_ROOMS))
# All of bpctl but its main, and the probe's loader.
FUZZ_TOOLS := $(patsubst %.c,$(FUZZ_BUILD)/%.o,$(filter-out tools/bpctl.c tools/loader.c tools/screen.c \
	tools/top.c tools/metrics.c tools/check.c tools/program.c tools/reach.c tools/run.c,$(wildcard tools/*.c)))

$(FUZZ_BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC)
	$(Q)clang $(FUZZ_FLAGS) -c -o $@ $<

$(addprefix $(FUZZ_BUILD)/,limits busy $(FUZZ_REQUESTS)): $(FUZZ_BUILD)/%: $(FUZZ_BUILD)/tests/fuzz/fuzz_%.o $(FUZZ_SHARED)
	$(call say,LD)
	$(Q)clang -fsanitize=fuzzer,address,undefined -o $@ $^

$(FUZZ_BUILD)/segment: $(FUZZ_BUILD)/tests/fuzz/fuzz_segment.o $(FUZZ_BUILD)/tests/fuzz/plain_bpctl.o \
		$(FUZZ_SHARED) $(FUZZ_TOOLS)
	$(call say,LD)
	$(Q)clang -fsanitize=fuzzer,address,undefined -o $@ $^ -ljansson

.PHONY: fuzzers
fuzzers: $(addprefix $(FUZZ_BUILD)/,$(FUZZ))

# An hour for each, unless FUZZ_SECONDS says otherwise; what is found new stays in BUILD.
.PHONY: fuzz
fuzz: fuzzers
	@tests/fuzz/run.sh $(FUZZ_BUILD) $(FUZZ_SECONDS)

.PHONY: deps
deps:
	@tests/needs.sh --install

# --- what reads the sources ---

SOURCES := $(wildcard shim/*/*.[ch] tools/*.[ch] tests/*/*.[ch] tests/*/*/*.[ch] bpf/*.[ch])

.PHONY: format
format:
	clang-format -i $(SOURCES)

.PHONY: lint
lint: $(BUILD)/libbackpressure.so
	clang-format --dry-run --Werror $(SOURCES)
	cppcheck --quiet --std=c11 --enable=warning,performance,portability --inline-suppr \
		--suppress=missingIncludeSystem --error-exitcode=1 -j2 -D_GNU_SOURCE -D__x86_64__ -Ishim \
		shim tools tests
	BUILD=$(BUILD) tests/unit/test_symbols.sh
	/usr/bin/python3 tests/unit/test_comments.py
	/usr/bin/python3 tests/unit/test_floors.py
	BUILD=$(BUILD) /usr/bin/python3 tests/unit/test_layout.py

# --- installing ---

.PHONY: needed
needed:
	@PROBE=$(PROBE) tests/needs.sh build

.PHONY: install
install: needed
	@$(MAKE) --no-print-directory all
	install -d $(addprefix $(DESTDIR),$(BINDIR) $(LIBDIR) $(MANDIR)/man1 $(MANDIR)/man7 $(MANDIR)/man8 \
		$(DOCDIR)/examples $(UNITDIR) $(BASHDIR) $(ZSHDIR) $(SYSCONFDIR)/backpressure)
	install -m 755 $(BUILD)/bpctl $(DESTDIR)$(BINDIR)/bpctl
	install -m 644 $(BUILD)/libbackpressure.so $(DESTDIR)$(LIBDIR)/libbackpressure.so
	install -m 644 tools/man/bpctl.1 $(DESTDIR)$(MANDIR)/man1/
	install -m 644 tools/man/backpressure.7 tools/man/backpressure-metrics.7 $(DESTDIR)$(MANDIR)/man7/
	install -m 644 tools/man/libbackpressure.so.8 $(DESTDIR)$(MANDIR)/man8/
	install -m 644 tools/completion/bpctl.bash $(DESTDIR)$(BASHDIR)/bpctl
	install -m 644 tools/completion/_bpctl $(DESTDIR)$(ZSHDIR)/_bpctl
	install -m 644 README.md $(DESTDIR)$(DOCDIR)/
	install -m 644 tools/monitoring/* tools/systemd/*.conf tools/gdb/*.py $(DESTDIR)$(DOCDIR)/examples/
	install -m 644 tools/systemd/*.service $(DESTDIR)$(UNITDIR)/
	@# Where things are is known only now.
	sed -i 's|/usr/bin/bpctl|$(BINDIR)/bpctl|' $(INSTALLED_UNITS) $(DESTDIR)$(DOCDIR)/examples/run.conf
	sed -i 's|=libbackpressure.so|=$(LIBDIR)/libbackpressure.so|' $(DESTDIR)$(DOCDIR)/examples/limits.conf

INSTALLED_UNITS = $(addprefix $(DESTDIR)$(UNITDIR)/,$(notdir $(wildcard tools/systemd/*.service)))

.PHONY: uninstall
uninstall:
	rm -f $(DESTDIR)$(BINDIR)/bpctl $(DESTDIR)$(LIBDIR)/libbackpressure.so \
		$(DESTDIR)$(MANDIR)/man1/bpctl.1 $(DESTDIR)$(MANDIR)/man7/backpressure.7 \
		$(DESTDIR)$(MANDIR)/man7/backpressure-metrics.7 \
		$(DESTDIR)$(MANDIR)/man8/libbackpressure.so.8 $(DESTDIR)$(BASHDIR)/bpctl \
		$(DESTDIR)$(ZSHDIR)/_bpctl $(INSTALLED_UNITS)
	rm -rf $(DESTDIR)$(DOCDIR)
	-rmdir $(DESTDIR)$(SYSCONFDIR)/backpressure

# Debian wants debian/ at the top of the sources: a copy of them gets it.
DEB_SOURCES := $(BUILD)/deb/backpressure-$(VERSION)

.PHONY: deb
deb:
	@tests/needs.sh deb
	rm -rf $(BUILD)/deb
	install -d $(DEB_SOURCES)/tests
	cp -r shim bpf tools Makefile README.md LICENSE $(DEB_SOURCES)/
	cp tests/needs.sh $(DEB_SOURCES)/tests/
	cp -r tools/debian $(DEB_SOURCES)/debian
	chmod 755 $(DEB_SOURCES)/debian/rules
	cd $(DEB_SOURCES) && env -u MAKEFLAGS -u MAKELEVEL -u MAKEOVERRIDES -u BUILD \
		dpkg-buildpackage --build=binary --no-sign --jobs=auto > ../log 2>&1 || { tail -n 30 ../log; exit 1; }
	cp $(BUILD)/deb/*.deb $(BUILD)/
	@ls $(BUILD)/*.deb

.PHONY: clean
clean:
	rm -rf $(BUILD)

.SECONDARY:
-include $(wildcard $(BUILD)/*/*.d $(BUILD)/*/*/*.d $(BUILD)/*/*/*/*.d)
