# SPDX-License-Identifier: GPL-2.0-or-later
"""The machine `intel`: a real kvm_intel in Bochs, with TSC scaling."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from elftools.elf.elffile import ELFFile

from kvmharness.guests.program import code_of
from kvmharness.judging import capabilities
from kvmharness.judging.session import settle
from kvmharness.judging.verdict import Expectation
from kvmharness.lab import play
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import bochs, emulator, initramfs, machine, pvh
from kvmharness.lab.machines.catalogue import INTEL
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.script import (
    CreateVcpu,
    GetMsrs,
    GetTscKhz,
    Ppm,
    Run,
    Script,
    SetMsrs,
    SetTscKhz,
    Sleep,
    Time,
)
from kvmharness.trace import Event, to_lines
from tests import made_up_kernels
from tests.foretold import not_foretold, oddly_skipped
from tests.limits import GIVE_UP_S
from tests.machines import wait_until, with_init_that
from tests.made_up_distribution import on_distribution

Find = Callable[[str], Kernel]

KERNELS = [("debian:6.1", "mainline-before-6.7"), ("debian:6.12", "mainline-6.7")]
BOTH = pytest.mark.parametrize(("spec", "policy"), KERNELS)
ONE_OR_BOTH = pytest.mark.parametrize(
    ("spec", "policy"), [KERNELS[0], pytest.param(*KERNELS[1], marks=pytest.mark.full)]
)


@pytest.fixture(scope="session")
def intel_kernel(kernel: Find) -> Find:
    """Finds a kernel to boot on `intel`."""
    try:
        machine.check_emulator(INTEL)
    except LabError as error:
        if os.environ.get("CI"):
            pytest.fail(f"missing capability intel: {error}")
        pytest.skip(f"missing capability intel: {error}")
    return kernel


@pytest.mark.lab
@pytest.mark.full
@BOTH
def test_a_kernel_is_identified_on_intel_as_on_amd_and_fails_nothing_under_its_policy(
    intel_kernel: Find, spec: str, policy: str
) -> None:
    found = intel_kernel(spec)
    outcome = settle(
        list(SCENARIOS.values()),
        lambda each: play.play(found, INTEL, each),
        Expectation(POLICIES[policy]),
    )
    assert outcome.identity is not None
    # One CPU cannot tell the kernels before 6.7 from the first proposal.
    assert set(outcome.identity.behaves_as) - {"like-xu-v1"} == {policy}
    assert not_foretold(outcome, policy) == {}
    assert oddly_skipped(outcome, "intel") == set()
    assert outcome.notes == ()


MS = 1_000_000


def at_another_rate(ppm: int) -> Script:
    """An endless guest that is given a rate of its own, and read twice, half a second apart."""
    return (
        CreateVcpu(vcpu=0, guest="ring-16", label="create"),
        SetTscKhz(vcpu=0, khz=Ppm(ppm), label="scale"),
        GetTscKhz(vcpu=0, label="khz"),
        SetMsrs(vcpu=0, msrs=(("TSC", Time(100_000 * MS)),)),
        Run(vcpu=0, ns=20 * MS, label="guest"),
        GetMsrs(vcpu=0, indices=("TSC",), label="first"),
        Sleep(ns=500 * MS),
        GetMsrs(vcpu=0, indices=("TSC",), label="last"),
        Run(vcpu=0, ns=20 * MS, label="guest-later"),
    )


def only_value(event: Event) -> int:
    value = event.values[0]
    assert value is not None
    return value


@pytest.mark.lab
@ONE_OR_BOTH
def test_with_tsc_scaling_a_guest_counts_at_its_own_rate(intel_kernel: Find, spec: str, policy: str) -> None:
    rates = (-500_000, 1_000_000)
    scripts = [
        Scenario(
            name=f"at {ppm} ppm",
            contract="",
            source="",
            consequence="",
            needs=(),
            script=at_another_rate(ppm),
            claims=(),
        )
        for ppm in rates
    ]
    session = play.play(intel_kernel(spec), INTEL, scripts)
    host = capabilities.host_facts(session.probe)
    assert host.khz is not None
    assert host.has_nested is True
    for ppm, scenario in zip(rates, scripts, strict=True):
        trace = session.traces[scenario.name]
        steps = {event.operation.label: event for event in trace.events}
        assert steps["scale"].error == ""
        khz = host.khz * (1_000_000 + ppm) // 1_000_000
        assert only_value(steps["khz"]) == khz
        # What the guest counted between two reads, against the host's cycles: within their brackets, and a
        # cycle for each read's rounding.
        counted = only_value(steps["last"]) - only_value(steps["first"])
        first, last = steps["first"].bracket, steps["last"].bracket
        least, most = last.tsc_before - first.tsc_after, last.tsc_after - first.tsc_before
        assert least * khz // host.khz - 2 <= counted <= most * khz // host.khz + 2
        # The guest itself ran until its deadline, and read what the model expects.
        assert len(steps["guest"].values) > 1
        assert judge(trace, POLICIES[policy], host).possibility is Possibility.POSSIBLE


@pytest.mark.lab
@pytest.mark.full
def test_two_boots_of_intel_are_the_same_to_the_byte(intel_kernel: Find) -> None:
    scenarios = [SCENARIOS["young-restore"]]
    sessions = [play.play(intel_kernel("debian:6.1"), INTEL, scenarios) for _ in range(2)]
    lines = [[list(to_lines(each)) for each in session.everything] for session in sessions]
    assert lines[0] == lines[1]


@pytest.mark.lab
@pytest.mark.full
def test_a_kernel_that_panics_on_intel_ends_the_machine_and_is_told_apart(
    intel_kernel: Find, tmp_path: Path
) -> None:
    initrd = initramfs.base() + with_init_that("return 7;", tmp_path)
    booted = machine.boot(INTEL, intel_kernel("debian:6.1").vmlinux, initrd)
    assert booted.complaint == "the machine was reset: a triple fault, or a reboot"
    assert "Kernel panic - not syncing: Attempted to kill init" in booted.console


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_killed_harness_leaves_no_bochs_no_file_and_no_open_port(
    intel_kernel: Find, number: signal.Signals, tmp_path: Path
) -> None:
    intel_kernel("debian:6.1")
    initramfs.python()
    before = sorted(Path.cwd().iterdir())
    command = [sys.executable, "-m", "kvmharness", "lab", "run", "debian:6.1", "--machine", "intel"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    harness = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def children() -> list[psutil.Process]:
        return [
            each for each in psutil.Process(harness.pid).children() if each.name().startswith("bochs-bin")
        ]

    assert wait_until(lambda: bool(children()))
    (running,) = children()
    # Its memory is filled once it runs.
    assert wait_until(lambda: running.cpu_times().user > 1)
    assert running.net_connections() == []
    harness.send_signal(number)
    harness.communicate()
    assert wait_until(lambda: not running.is_running() or running.status() == psutil.STATUS_ZOMBIE)
    assert list(tmp_path.iterdir()) == []
    assert sorted(Path.cwd().iterdir()) == before


REPORT = b"Next at t=0\nkvmharness init: 0x20\n"
END = b"=====\n[UNMAP ] Shutdown port: shutdown requested\n"
TRIPLE_FAULT = b"[CPU0  ] exception(): 3rd (14) exception with no resolution\n"


@pytest.mark.parametrize(
    ("status", "output", "complaint"),
    [
        (1, REPORT + END, ""),
        (1, REPORT.replace(b"0x20", b"0x23") + END, "the player failed"),
        (1, REPORT, "the emulator ended with status 1"),
        (1, END, "the emulator ended with status 1"),
        (1, END + REPORT, "the emulator ended with status 1"),
        (1, TRIPLE_FAULT, "the machine was reset: a triple fault, or a reboot"),
        (1, REPORT + TRIPLE_FAULT, "the machine was reset: a triple fault, or a reboot"),
        (0, REPORT + END, "the machine was reset: a triple fault, or a reboot"),
        (-9, REPORT + END, "the emulator was killed by signal 9"),
        (None, REPORT + END, "the machine was ended before it was done"),
    ],
)
def test_what_init_reported_counts_only_if_bochs_then_ended_as_it_was_asked(
    status: int | None, output: bytes, complaint: str
) -> None:
    with emulator.MemoryFiles() as files:
        files.add("console", (0, b"[    0.1] hello\n"))
        found, console = INTEL.emulator.result(files, status, output)
    assert machine.Boot(found, console.decode(), b"", 1.0).complaint == complaint
    assert console.startswith(b"[    0.1] hello\n")


def test_a_missing_bochs_or_display_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "setpriv").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(programs))
    on_distribution(monkeypatch, "debian")
    with pytest.raises(LabError, match="machine intel needs bochs: apt-get install bochs bochs-sdl"):
        machine.check_emulator(INTEL)
    (programs / "bochs").write_text("#!/bin/sh\n")
    (programs / "bochs").chmod(0o755)
    with pytest.raises(LabError, match="machine intel needs the display sdl2 of Bochs: apt-get install"):
        machine.check_emulator(INTEL)
    plugins = tmp_path / "lib" / "x86_64-linux-gnu" / "bochs" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "libbx_sdl2_gui.so").touch()
    machine.check_emulator(INTEL)


ENTRY = 0x1000850


def test_the_roms_bytes_are_what_an_assembler_makes_of_its_text(tmp_path: Path) -> None:
    for tool in ("as", "objcopy"):
        if shutil.which(tool) is None:
            pytest.skip(f"missing capability: {tool}")
    program = bochs.rom_program(ENTRY)
    source, assembled, flat = tmp_path / "rom.s", tmp_path / "rom.o", tmp_path / "rom.bin"
    source.write_text("".join(f"{each.text}\n" for each in program))
    subprocess.run(["as", "-o", assembled, source], check=True, timeout=GIVE_UP_S)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", assembled, flat], check=True, timeout=GIVE_UP_S)
    assert code_of(program).hex() == flat.read_bytes().hex()


def test_the_rom_is_64_kib_that_add_up_to_nothing_and_begin_at_the_reset_vector() -> None:
    content = bochs.rom(ENTRY)
    assert len(content) == 0x10000
    assert sum(content) % 256 == 0
    # jmp, and how far, from behind it: to the ROM's first byte.
    assert content[0xFFF0] == 0xE9
    assert (0xFFF3 + int.from_bytes(content[0xFFF1:0xFFF3], "little")) % 0x10000 == 0


def test_a_kernel_that_has_to_be_booted_as_bzimage_is_one_clear_line(tmp_path: Path) -> None:
    image = tmp_path / "bzImage"
    image.write_bytes(made_up_kernels.bzimage(b"", "6.1.0"))
    with pytest.raises(LabError, match=r"has no PVH entry .*no loader for a bzImage"):
        pvh.layout(image, b"", "", 1 << 28)


def test_a_file_that_is_no_kernel_is_one_clear_line(tmp_path: Path) -> None:
    nothing = tmp_path / "vmlinux"
    nothing.write_bytes(b"no kernel at all")
    with pytest.raises(LabError, match="is not an ELF file"):
        pvh.layout(nothing, b"", "", 1 << 28)
    with pytest.raises(LabError, match="has no PVH entry"):
        pvh.layout(Path("/bin/true"), b"", "", 1 << 28)


@pytest.mark.lab
def test_a_kernel_and_its_image_lie_side_by_side_and_have_to_fit(kernel: Find) -> None:
    vmlinux = kernel("debian:6.1").vmlinux
    pieces = sorted(pvh.layout(vmlinux, b"image", "quiet", 1 << 28).pieces)
    assert pieces[0][0] == pvh.BASE
    for (place, content), (following, _) in itertools.pairwise(pieces):
        assert place + len(content) <= following
    assert pieces[-1][1] == b"image"
    with pytest.raises(LabError, match="do not fit into 32 MiB"):
        pvh.layout(vmlinux, b"image", "quiet", 1 << 25)


@pytest.mark.lab
def test_a_module_keeps_all_but_the_places_to_trace_at(kernel: Find) -> None:
    (module,) = [
        path.read_bytes() for path in kernel("debian:6.1").modules_for("kvm_intel") if path.name == "kvm.ko"
    ]
    untraced = initramfs.untraced(module)
    assert len(untraced) == len(module)
    sizes = [
        {section.name: section["sh_size"] for section in ELFFile(BytesIO(data)).iter_sections()}
        for data in (module, untraced)
    ]
    changed = {name for name, size in sizes[0].items() if sizes[1][name] != size}
    assert changed == {"__mcount_loc", ".rela__mcount_loc"}
    assert {sizes[1][name] for name in changed} == {0}
    # Two numbers of eight bytes.
    assert sum(before != after for before, after in zip(module, untraced, strict=True)) <= 16
