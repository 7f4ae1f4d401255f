# SPDX-License-Identifier: GPL-2.0-or-later
"""Measures what the harness costs beside what it is made of, in one run, as ratios.

    python bench/run.py [kvm] [lab] [many] [judge] [build] [validate] [each] [recording] [exploring]
        (all without a name)

Rounds of each contender alternate, so that a noisy machine disturbs all alike. Calls are compared by
their best round, boots by their median.
"""

import importlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import exploring
import recording
from cffi import FFI

from kvmharness import guests, script
from kvmharness.guests.layout import MEMORY_SIZE
from kvmharness.kvm import BracketBuffer, System, Vcpu, ioctls
from kvmharness.kvm import ffi as kvm_ffi
from kvmharness.kvm import lib as kvm_lib
from kvmharness.lab import build, cache, kernels
from kvmharness.lab.machines import initramfs, machine
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.model.simulate import HOST, Pace, simulate
from kvmharness.player.msr import MSRS
from kvmharness.trace import Trace

CALL_ROUNDS = 15
BOOT_ROUNDS = 5
COLD_ROUNDS = 2
BUILD_ROUNDS = 7
VALIDATE_ROUNDS = 3
EACH_ROUNDS = 2
EACH_PATCHES = 10
JUDGE_ROUNDS = 3
JUDGE_STEPS = (100, 1_000, 10_000)
# Of these KVM's own clock falls behind a write in a mixture of everything, from where nothing is predicted.
_NOT_PLAYED = frozenset({"like-xu-v1"})
LAB_KERNELS = ("debian:6.1", "debian:6.12")
MANY_KERNELS = ("debian:5.10", "debian:6.1", "debian:6.12", "debian:7.2", "debian:7.3")
MANY_ROUNDS = 2

# What bench_lab() builds.
_PATCHED = "bench-patched"

# The standard library's way, for comparison only: the harness itself does not use it.
standard_ioctl = importlib.import_module("fcntl").ioctl


def baseline() -> Any:
    """bench/baseline.c, compiled and loaded."""
    ffi = FFI()
    ffi.cdef(
        "double ioctl_loop(int, unsigned long, unsigned long, int);"
        "int bracket_loop(int, unsigned long, void *, int, uint64_t *);"
    )
    source = Path(__file__).with_name("baseline.c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "baseline.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, source], check=True)
        return ffi.dlopen(str(library))


def ns_a_call(call: Callable[[], object], count: int) -> float:
    """Wall time of a call, in ns, over `count` calls in a row."""
    begin = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - begin) / count


def alternate(contenders: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """What each contender measured in each round, taking turns."""
    measured: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, measure in contenders.items():
            measured[name].append(measure())
    return measured


def show(what: str, unit: str, values: dict[str, float], aim: str) -> None:
    """A line with each value, the second's ratio to the first, and the aim."""
    (first, base), (second, value), *rest = values.items()
    if min(values.values()) < 0:
        raise SystemExit(f"{what}: an ioctl failed: nothing to compare")
    others = "".join(f", {name} {other:.0f} {unit}" for name, other in rest)
    print(
        f"{what:28} {first} {base:.0f} {unit}, {second} {value:.0f} {unit}{others}: "
        f"{value / base:.2f} x {first} (aim {aim})"
    )


def bench_ioctl(c: Any, fd: int, ioctl: ioctls.Ioctl, call: Callable[[], object]) -> None:
    """A plain ioctl: in C, through the bindings, through the standard library."""
    count = 20_000
    measured = alternate(
        {
            "C": lambda: float(c.ioctl_loop(fd, ioctl.number, 0, count)),
            "bindings": lambda: ns_a_call(call, count),
            "standard library": lambda: ns_a_call(lambda: standard_ioctl(fd, ioctl.number, 0), count),
        },
        CALL_ROUNDS,
    )
    show(ioctl.name, "ns", {name: min(values) for name, values in measured.items()}, "<= 2 x C")


def bench_bracket(c: Any, vcpu: Vcpu) -> None:
    """How wide a bracket around GET_MSRS of the TSC is."""
    count = 2000
    msrs = kvm_ffi.new("struct kvm_msrs *", {"nmsrs": 1, "entries": [{"index": MSRS["TSC"]}]})
    widths = kvm_ffi.new("uint64_t[]", count)
    # The baseline has a cffi of its own, which takes pointers as numbers.
    local = FFI()
    argument = local.cast("void *", int(kvm_ffi.cast("uintptr_t", msrs)))
    into = local.cast("uint64_t *", int(kvm_ffi.cast("uintptr_t", widths)))

    def in_c() -> float:
        failed = c.bracket_loop(vcpu.fileno(), kvm_lib.KVM_GET_MSRS, argument, count, into)
        return -1.0 if failed else float(median(widths))

    def in_bindings() -> float:
        seen = []
        for _ in range(count):
            vcpu.msrs([MSRS["TSC"]])
            before, _, _, after = vcpu.bracket
            seen.append(after - before)
        return float(median(seen))

    measured = alternate({"C": in_c, "bindings": in_bindings}, CALL_ROUNDS)
    show("bracket of GET_MSRS, width", "cycles", {name: min(v) for name, v in measured.items()}, "<= 1.1 x C")


def bench_run(c: Any, vcpu: Vcpu) -> None:
    """KVM_RUN of the guest that reads its TSC once."""
    count = 5000
    measured = alternate(
        {
            "C": lambda: float(c.ioctl_loop(vcpu.fileno(), kvm_lib.KVM_RUN, 0, count)),
            "bindings": lambda: ns_a_call(vcpu.run, count),
        },
        CALL_ROUNDS,
    )
    show("KVM_RUN of the rdtsc guest", "ns", {name: min(v) for name, v in measured.items()}, "<= 1.2 x C")


def bench_kvm() -> None:
    """The bindings, on this host's /dev/kvm."""
    c = baseline()
    with System() as system, system.create_vm() as vm:
        memory = vm.add_memory(MEMORY_SIZE)
        vcpu = vm.create_vcpu(0)
        guests.load(guests.PROGRAMS["rdtsc-16"], memory, vcpu)
        bench_ioctl(c, system.fileno(), ioctls.GET_API_VERSION, system.api_version)
        bench_ioctl(c, vcpu.fileno(), ioctls.VCPU_GET_TSC_KHZ, vcpu.tsc_khz)
        bench_run(c, vcpu)
        vcpu.use_brackets(BracketBuffer())
        bench_bracket(c, vcpu)


def lab(*arguments: str) -> float:
    """Wall time of a command of the lab, in ms."""
    begin = time.monotonic()
    command = [sys.executable, "-m", "kvmharness", "lab", *arguments]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    if done.returncode not in (0, 1):
        raise SystemExit(f"lab {' '.join(arguments)} ended with {done.returncode}: nothing to compare")
    return (time.monotonic() - begin) * 1000


lab_run = partial(lab, "run")


def bare_boot(kernel: kernels.Kernel) -> float:
    """Wall time of a boot to an init that does nothing and powers off, in ms: one that did come so far."""
    booted = machine.boot(AMD, kernel.vmlinux, initramfs.base())
    if booted.complaint:
        raise SystemExit(f"{kernel.spec} did not boot, {booted.complaint}: nothing to compare")
    return booted.seconds * 1000


def bench_lab() -> None:
    """The lab, beside the same kernel booting to an init that does nothing and powering off.

    A patched kernel is measured from the moment where its modules are built.
    """
    patch = Path(__file__).parent.parent / "tests" / "patches" / "gate-user-wrote.patch"
    for spec, patched in zip(LAB_KERNELS, (f"built:{_PATCHED}", ""), strict=True):
        kernel = kernels.find(spec)
        contenders: dict[str, Callable[[], float]] = {
            "bare boot": partial(bare_boot, kernel),
            "lab run": partial(lab_run, spec),
            "lab run --jobs 1": partial(lab_run, spec, "--jobs", "1"),
            "lab run --boot": partial(lab_run, spec, "--boot"),
        }
        if patched:
            lab("build", spec, "--patch", str(patch), "--name", _PATCHED)
            contenders["of its patch"] = partial(lab_run, patched)
            lab_run(patched)
        lab_run(spec)  # leaves all that is kept in the cache
        measured = alternate(contenders, BOOT_ROUNDS)
        medians = {name: median(values) for name, values in measured.items()}
        for name, other, aim in (
            ("lab run", "bare boot", "<= 0.7"),
            ("lab run --boot", "bare boot", "<= 3"),
            ("lab run", "lab run --jobs 1", "<= 0.6 on two CPUs"),
            *([("of its patch", "bare boot", "<= 0.6")] if patched else []),
        ):
            compared = {other: medians[other], name: medians[name]}
            show(f"{spec} to the verdict", "ms", compared, f"{aim} x {other}")


def bench_many() -> None:
    """Five kernels in one command, beside as many commands one after the other."""
    for options in ((), ("--boot",)):
        lab_run(*MANY_KERNELS, *options)

        def one_by_one(options: tuple[str, ...] = options) -> float:
            return sum(lab_run(spec, *options) for spec in MANY_KERNELS)

        measured = alternate(
            {"one by one": one_by_one, "at once": partial(lab_run, *MANY_KERNELS, *options)}, MANY_ROUNDS
        )
        medians = {name: median(values) for name, values in measured.items()}
        show(" ".join(("five kernels", *options)), "ms", medians, "<= 0.6 x one by one")


def mixed(vcpus: int, steps: int, policy: Policy, *, held_up: bool = False) -> Trace:
    """Everything a script can do to this many vCPUs, as a kernel with `policy` plays it.

    A player that is `held_up` leaves brackets so wide that writes may be attempts to synchronize or not.
    """
    chance = random.Random(vcpus)
    # Of a second or so; near the last value written and far from it.
    near, far = script.Read("write", script.Time(500_000_000)), script.Time(10**15)
    operations: list[script.Operation] = [
        script.CreateVcpu(vcpu=vcpu, guest="wrmsr-16", label="write") for vcpu in range(vcpus)
    ]
    while len(operations) < steps:
        vcpu = chance.randrange(vcpus)
        operations += (
            script.SetMsrs(vcpu=vcpu, msrs=(("TSC", chance.choice((near, near, far, 0))),), label="write"),
            script.GetMsrs(vcpu=vcpu, indices=("TSC", "TSC_ADJUST")),
            script.GetTscOffset(vcpu=vcpu, label="offset"),
            script.Run(vcpu=vcpu),
            script.GuestWrite(vcpu=vcpu, msr="TSC", value=near),
            script.SetTscOffset(vcpu=vcpu, offset=script.Read("offset", 1_000)),
            script.GetClock(),
            script.Sleep(ns=1_000),
            script.GetMsrs(vcpu=vcpu, indices=("TSC",)),
            script.GetTscOffset(vcpu=chance.randrange(vcpus)),
        )
    wide = Pace(HOST.khz * 500, 100, HOST.khz * 500, 10_000) if held_up and HOST.khz else Pace()
    return simulate("bench", tuple(operations[:steps]), policy, pace=lambda operation: wide)


def judge_rate(trace: Trace, policy: Policy) -> float:
    """Steps judged a second of this process's own time: nothing here waits for anything."""
    begin = time.process_time()
    judgement = judge(trace, policy, HOST)
    seconds = time.process_time() - begin
    # A judgement that ends early says nothing about the steps behind it.
    if judgement.possibility is not Possibility.POSSIBLE:
        raise SystemExit(f"{policy.name}, step {judgement.step}: {judgement.doubt}: nothing to compare")
    return len(trace.events) / seconds


def bench_judge() -> None:
    """The model's judge: steps a second under each policy, and whether the time is linear."""
    for title, vcpus, held_up in (
        ("2 vCPUs", 2, False),
        ("8 vCPUs", 8, False),
        ("2 vCPUs, straddling", 2, True),
    ):
        contenders: dict[str, Callable[[], float]] = {}
        played = [policy for policy in POLICIES.values() if policy.name not in _NOT_PLAYED]
        for policy in played:
            for steps in JUDGE_STEPS:
                trace = mixed(vcpus, steps, policy, held_up=held_up)
                contenders[f"{policy.name} {steps}"] = partial(judge_rate, trace, policy)
        rates = {name: max(values) for name, values in alternate(contenders, JUDGE_ROUNDS).items()}
        for steps in JUDGE_STEPS:
            of_all = {each.name: rates[f"{each.name} {steps}"] for each in played}
            slowest = min(of_all, key=lambda name: of_all[name])
            print(
                f"judge, {title}, {steps} steps: median policy {median(of_all.values()):.0f} steps/s, "
                f"slowest {of_all[slowest]:.0f} steps/s, {slowest} (aim >= 60000)"
            )
        slopes = [rates[f"{each.name} 1000"] / rates[f"{each.name} 10000"] for each in played]
        print(
            f"judge, {title}, 10000 steps: median policy {median(slopes):.2f}, slowest {max(slopes):.2f} "
            f"x ten times 1000 steps (aim about 1)"
        )


def bench_build() -> None:
    """`lab build` beside the same make in a copy of its tree: all of KVM, and after a change of one file.

    What both are built from is fetched before.
    """
    spec, source = LAB_KERNELS[0], "arch/x86/kvm/x86.c"
    with tempfile.TemporaryDirectory() as folder:
        patch = Path(folder) / "bench.patch"

        def lab_build(number: int) -> None:
            patch.write_text(
                f"--- /dev/null\n+++ b/arch/x86/kvm/bench.h\n@@ -0,0 +1 @@\n+/* {number} */\n"
                f'--- a/{source}\n+++ b/{source}\n@@ -1 +1,2 @@\n #include "x86.h"\n+#include "bench.h"\n'
            )
            command = [sys.executable, "-m", "kvmharness", "lab", "build", spec, "--name", "bench"]
            output = subprocess.run([*command, "--patch", patch], capture_output=True, text=True, check=False)
            if output.returncode:
                raise SystemExit(f"lab build ended with {output.returncode}: {output.stderr}")

        lab_build(0)
        package = kernels.package_of(spec)
        assert package is not None
        tree = cache.root() / "trees" / kernels.cache_name(package) / "tree"
        copy = Path(folder) / "tree"
        shutil.copytree(tree, copy, symlinks=True)
        numbers = itertools.count(1)

        def make(where: Path, *targets: str) -> None:
            modules = [f"-j{os.cpu_count()}", *build.MODULES]
            command = ["make", "-C", str(where), *modules, *targets]
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)

        def bare(clean: bool) -> float:
            (copy / "arch/x86/kvm/bench.h").write_text(f"/* {next(numbers)} */\n")
            if clean:
                make(copy, "clean")
            begin = time.monotonic()
            make(copy, "modules")
            return (time.monotonic() - begin) * 1000

        def of_lab(clean: bool) -> float:
            if clean:
                make(tree, "clean")
            begin = time.monotonic()
            lab_build(next(numbers))
            return (time.monotonic() - begin) * 1000

        for what, clean, rounds, aim in (
            ("KVM's modules, all", True, COLD_ROUNDS, "<= 1.1 x make"),
            ("KVM's modules, x86.c", False, BUILD_ROUNDS, "<= 1.3 x make"),
        ):
            contenders: dict[str, Callable[[], float]]
            contenders = {"make": partial(bare, clean), "lab build": partial(of_lab, clean)}
            measured = alternate(contenders, rounds)
            show(what, "ms", {name: median(values) for name, values in measured.items()}, aim)


def bench_validate() -> None:
    """`lab validate` beside a `lab run` of each of its kernels, whose modules were built before."""
    spec, name, machine = LAB_KERNELS[0], "bench-validate", ("--machine", "amd-smp")
    patch = Path(__file__).parent.parent / "tests" / "patches" / "gate-user-wrote.patch"
    patched = (spec, "--patch", str(patch), "--name", name)
    lab("build", *patched)
    contenders: dict[str, Callable[[], float]] = {
        "two lab runs": lambda: lab_run(spec, *machine) + lab_run(f"built:{name}", *machine),
        "validate": partial(lab, "validate", *patched, *machine, "--expect", "oliver-upton"),
    }
    for each in contenders.values():
        each()  # leaves all that is kept in the cache
    measured = alternate(contenders, VALIDATE_ROUNDS)
    medians = {name: median(values) for name, values in measured.items()}
    show("a patch, before and after", "ms", medians, "<= 1.2 x two lab runs")


def bench_each() -> None:
    """`lab validate --each` of ten patches to x86.c beside ten times a bare make after such a change."""
    spec, source = LAB_KERNELS[0], "arch/x86/kvm/x86.c"
    numbers = itertools.count(1)

    def line(number: int) -> str:
        return f"static int bench_number __attribute__((used)) = {number};\n"

    def series(first: int) -> str:
        """As many patches as are measured; the first makes a header, each of the others changes it."""
        mails = []
        for number in range(first, first + EACH_PATCHES):
            diff = f"--- a/arch/x86/kvm/bench.h\n+++ b/arch/x86/kvm/bench.h\n@@ -1 +1 @@\n-{line(number - 1)}"
            if number == first:
                diff = (
                    f'--- a/{source}\n+++ b/{source}\n@@ -1 +1,2 @@\n #include "x86.h"\n+#include "bench.h"\n'
                    "--- /dev/null\n+++ b/arch/x86/kvm/bench.h\n@@ -0,0 +1 @@\n"
                )
            mails.append(
                f"From {number:040x} Mon Sep 17 00:00:00 2001\nFrom: bench\nSubject: bench {number}\n\n"
                f"{diff}+{line(number)}"
            )
        return "\n".join(mails)

    with tempfile.TemporaryDirectory() as folder:
        patches = Path(folder) / "series.mbox"

        def each() -> float:
            patches.write_text(series(EACH_PATCHES * next(numbers)))
            return lab(
                "validate", spec, "--each", "--patch", str(patches), "--name", "bench", "--machine", "amd"
            )

        each()  # leaves all that is kept in the cache
        package = kernels.package_of(spec)
        assert package is not None
        copy = Path(folder) / "tree"
        shutil.copytree(cache.root() / "trees" / kernels.cache_name(package) / "tree", copy, symlinks=True)

        def makes() -> float:
            begin = time.monotonic()
            for _ in range(EACH_PATCHES):
                (copy / "arch/x86/kvm/bench.h").write_text(line(next(numbers)))
                command = ["make", "-C", str(copy), f"-j{os.cpu_count()}", *build.MODULES, "modules"]
                subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            return (time.monotonic() - begin) * 1000

        measured = alternate({"ten makes": makes, "--each": each}, EACH_ROUNDS)
    medians = {name: median(values) for name, values in measured.items()}
    show("ten patches, one by one", "ms", medians, "<= 1.4 x ten makes")


BENCHES = {
    "kvm": bench_kvm,
    "lab": bench_lab,
    "many": bench_many,
    "judge": bench_judge,
    "build": bench_build,
    "validate": bench_validate,
    "each": bench_each,
    "recording": recording.bench,
    "exploring": exploring.bench,
}

if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in BENCHES]
    if unknown:
        raise SystemExit(f"no bench is called {unknown[0]!r}: {', '.join(BENCHES)}")
    for name in sys.argv[1:] or BENCHES:
        BENCHES[name]()
