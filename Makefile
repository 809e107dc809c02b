# make demo   copies a real tree and proves the copy; SRC=/some/tree chooses it, KEEP=1 leaves the copy
# make test   every test, with a RabbitMQ and a memcached of its own
# make test-lustre  what only a real Lustre proves: LUSTRE_SRC=/mnt/a/dir LUSTRE_DST=/mnt/b/dir, see tests/lustre/README.md
# make check  formatting, lints, documentation, dependencies, architecture
#
# Needs a Rust toolchain; what else is missing is installed by package name (as root, or through sudo).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:

SRC ?= /usr/share
KEEP ?=

# A version that is known to read deny.toml.
CARGO_DENY_VERSION := 0.20.2
TOOLS := $(CURDIR)/target/tools

.PHONY: all demo test test-lustre check compiler fmt lint doc deny architecture

all: check test

demo:
	@ops/install-test-deps.sh cc rsync
	cargo build --release --locked
	dir=$$(mktemp -d "$${TMPDIR:-/tmp}/treehaul-demo.XXXXXX")
	if [ -n "$(KEEP)" ]; then trap 'echo "the copy is in $$dir/copy"' EXIT; else trap 'rm -rf -- "$$dir"' EXIT; fi
	echo
	echo "treehaul copy $(SRC) $$dir/copy"
	target/release/treehaul copy "$(SRC)" "$$dir/copy"
	echo
	echo "now rsync compares contents, modes, owners, times, hard links, ACLs and extended attributes:"
	rsync -aHAXn --checksum --delete --itemize-changes "$(SRC)/" "$$dir/copy/" >"$$dir/differences"
	if [ -s "$$dir/differences" ]; then
		head -n 20 "$$dir/differences" | cat -v
		echo "DIFFERENT: $$(wc -l <"$$dir/differences") entries"
		exit 1
	fi
	echo "THE SAME: rsync finds nothing to change"

test:
	@ops/install-test-deps.sh
	tests/with-services.sh cargo test --locked

# TREEHAUL names another program than target/release/treehaul; TESTS chooses some by a part of their names.
test-lustre:
	@tests/lustre/run.sh $(TESTS)

check: compiler fmt lint doc deny architecture

# Some dependencies hold C.
compiler:
	@ops/install-test-deps.sh cc

fmt:
	cargo fmt --check

lint:
	cargo clippy --locked --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS=-Dwarnings cargo doc --locked --no-deps

# Built without optimisation: that takes a minute, and it runs for two seconds.
$(TOOLS)/bin/cargo-deny: | compiler
	@echo "installing cargo-deny $(CARGO_DENY_VERSION) into $(TOOLS)"
	export CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
	cargo install --quiet --locked --no-default-features --root "$(TOOLS)" "cargo-deny@$(CARGO_DENY_VERSION)"

deny: $(TOOLS)/bin/cargo-deny
	@deny="$(TOOLS)/bin/cargo-deny --locked"
	$$deny check bans licenses sources
	if GIT_TERMINAL_PROMPT=0 timeout 120 $$deny fetch db >/dev/null 2>&1; then
		$$deny check --disable-fetch advisories
	else
		echo "advisories NOT CHECKED: the RustSec database cannot be fetched from here"
	fi

architecture:
	cargo test --locked --test it architecture::
