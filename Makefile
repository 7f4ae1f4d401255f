# SPDX-License-Identifier: GPL-2.0-or-later
# `make run` and `make test` are all there is to set up: each installs what it needs first.

BIN := .venv/bin

.PHONY: run test test-full check bench setup setup-test setup-host clean

# The main job on real kernels. 6.1 has to fail (status 1), and 6.12 to pass; anything else is a fault.
run: setup
	@report=$$($(BIN)/kvmharness lab run debian:6.1 debian:6.12); status=$$?; echo "$$report"; \
	[ $$status -eq 1 ] && echo "$$report" | grep -q "^FAIL  debian:6.1 on amd" && \
	echo "$$report" | grep -q "^PASS  debian:6.12 on amd"

# A process a CPU. Tests that share a booted kernel or a build stay in one (tests/conftest.py).
PARALLEL := -n logical --dist loadgroup

test: check
	$(BIN)/pytest $(PARALLEL) -m "not full"

test-full: check
	$(BIN)/pytest $(PARALLEL)

check: setup-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: setup
	$(BIN)/python bench/run.py

setup-test:
	@scripts/setup test

# For a box whose own KVM is played on: no emulator.
setup-host:
	@scripts/setup host

setup:
	@scripts/setup run

clean:
	rm -rf .venv build *.egg-info kvmharness/kvm/_kvm.c kvmharness/recording/_tracer.c kvmharness/*/*.so
