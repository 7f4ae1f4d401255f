# SPDX-License-Identifier: GPL-2.0-or-later
"""C files on real kernels: they fail where the defect is, pass where it is not, as the harness does."""

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kvmharness.judging.verdict import BY_CONTRACTS, Verdict
from kvmharness.lab import program, runs
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.lab.program import Ran
from kvmharness.reproduce import plain, selftest
from kvmharness.scenarios import SCENARIOS
from scripts import kernel_faults
from tests import kernel_selftests
from tests.test_reproduce import EXPRESSIBLE, OPTIONS

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(shutil.which("cc") is None, reason="missing capability C compiler"),
]

# Faults of tests/kernel-faults*.toml that break the contract of the scenario that notices them.
FAULTS = (
    *("window-narrower", "window-wider", "window-open-below", "elapsed-backwards", "elapsed-left-out"),
    *(
        "gate-always-open",
        "gate-never-opened",
        "zero-is-a-value",
        "host-adjust-moves-tsc",
        "set-clock-backwards",
    ),
    *("steal-counted-again", "steal-at-start-of-page"),
    *("xen-wall-clock-high-half", "xen-info-with-kvmclock-alone"),
    *("runstate-told-running", "runstate-data-swapped"),
    *("hv-page-scale-without-shift", "hv-sequence-stands-still"),
    *("timer-by-the-hosts-tsc", "timer-kept-by-set-lapic"),
)
# Only debugfs decides these, which plain C does not read: it skips.
_BY_DEBUGFS = {"qemu-reset-old", "qemu-hotplug-then-reset"}


def compiled(code: str, tmp_path: Path) -> bytes:
    source, made = tmp_path / "a.c", tmp_path / "a"
    source.write_text(code)
    subprocess.run(["cc", *OPTIONS, "-o", made, source], check=True, timeout=120)
    return program.read(made)


def in_one(names: Sequence[str], tmp_path: Path) -> bytes:
    """The C files of these scenarios as one program, which says how each of them ends."""
    objects = []
    for place, name in enumerate(names):
        source, made = tmp_path / f"{place}.c", tmp_path / f"{place}.o"
        source.write_text(plain(SCENARIOS[name]))
        command = ["cc", "-O1", *OPTIONS[2:], f"-Dmain=main_{place}", "-c", "-o", str(made), str(source)]
        subprocess.run(command, check=True, timeout=120)
        objects.append(str(made))
    declared = "".join(f"int main_{place}(void);\n" for place, _ in enumerate(names))
    listed = ", ".join(f"main_{place}" for place, _ in enumerate(names))
    (tmp_path / "all.c").write_text(
        f"#include <stdio.h>\n#include <sys/wait.h>\n#include <unistd.h>\n{declared}"
        f"static int (*mains[])(void) = {{ {listed} }};\n"
        "int main(void)\n{\n"
        "\tfor (unsigned int i = 0; i < sizeof(mains) / sizeof(*mains); i++) {\n"
        "\t\tint status = 0;\n\t\tpid_t child;\n\n\t\tfflush(stdout);\n\t\tchild = fork();\n"
        "\t\tif (!child) {\n\t\t\tstatus = mains[i]();\n\t\t\tfflush(stdout);\n\t\t\t_exit(status);\n\t\t}\n"
        '\t\twaitpid(child, &status, 0);\n\t\tprintf("ended %u %d\\n", i, status);\n\t}\n\treturn 0;\n}\n'
    )
    linked = ["cc", "-O1", "-static", "-o", str(tmp_path / "all"), str(tmp_path / "all.c"), *objects]
    subprocess.run(linked, check=True, timeout=120)
    return program.read(tmp_path / "all")


def ends(ran: Ran) -> list[int]:
    """How each program in one ended: wait statuses."""
    return [int(line.split()[2]) for line in ran.output.splitlines() if line.startswith("ended ")]


@pytest.mark.parametrize(("spec", "verdict"), [("debian:6.1", Verdict.FAIL), ("debian:6.12", Verdict.PASS)])
def test_the_young_restore_fails_before_the_fix_and_passes_after_it(
    kernel: Callable[[str], Kernel], spec: str, verdict: Verdict, tmp_path: Path
) -> None:
    ran = program.run(kernel(spec), AMD, compiled(plain(SCENARIOS["young-restore"]), tmp_path))
    assert ran.verdict is verdict
    assert ("cycles less than due: the write was overridden" in ran.output) is (verdict is Verdict.FAIL)


@pytest.mark.full
@pytest.mark.parametrize("spec", ["debian:6.1", "debian:6.12"])
def test_each_c_file_ends_as_the_harness_judges_the_contract(
    kernel: Callable[[str], Kernel], spec: str, tmp_path: Path
) -> None:
    ran = program.run(kernel(spec), AMD, in_one(EXPRESSIBLE, tmp_path))
    played = runs.play_on(kernel(spec), AMD, [SCENARIOS[name] for name in EXPRESSIBLE], BY_CONTRACTS)
    judged = {each.scenario: each.verdict for each in played.results}
    wanted = {Verdict.PASS: 0, Verdict.FAIL: 0x100, Verdict.SKIP: 0x400, Verdict.INCONCLUSIVE: 0x400}
    found = dict(zip(EXPRESSIBLE, ends(ran), strict=True))
    differ = {name: (judged[name], end) for name, end in found.items() if wanted[judged[name]] != end}
    assert {name: each for name, each in differ.items() if name not in _BY_DEBUGFS} == {}
    assert all(found[name] in (0, 0x400) for name in _BY_DEBUGFS)


@pytest.mark.full
@pytest.mark.parametrize("name", FAULTS)
def test_the_c_file_of_a_fault_fails_with_it_and_passes_without(
    kernel: Callable[[str], Kernel], name: str, tmp_path: Path
) -> None:
    lists = sorted(kernel_faults.LIST.parent.glob("kernel-faults*.toml"))
    fault = next(each for place in lists for each in kernel_faults.read(place) if each.name == name)
    made = compiled(plain(SCENARIOS[fault.noticed_by]), tmp_path)
    assert program.run(kernel(kernel_faults.SPEC), AMD, made).verdict is Verdict.PASS
    ran = program.run(kernel_faults.faulty(fault), AMD, made)
    assert ran.verdict is Verdict.FAIL, ran.output
    assert "not ok" in ran.output


@pytest.mark.full
@pytest.mark.skipif(shutil.which("make") is None, reason="missing capability make")
@pytest.mark.parametrize("name", ["young-restore", "qemu-pair-young"])
def test_a_selftest_is_built_among_the_kernels_own_and_fails_before_the_fix(
    kernel: Callable[[str], Kernel], name: str, tmp_path: Path
) -> None:
    called = f"{name.replace('-', '_')}_test"
    made = kernel_selftests.build(
        kernel_selftests.tree("6.1"), called, selftest(SCENARIOS[name]), tmp_path / called
    )
    before, after = (
        program.run(kernel(spec), AMD, program.read(made)) for spec in ("debian:6.1", "debian:6.12")
    )
    assert before.verdict is Verdict.FAIL
    assert "Test Assertion Failure" in before.output
    assert "less than due" in before.output
    assert after.verdict is Verdict.PASS, after.output


@pytest.mark.full
@pytest.mark.skipif(shutil.which("make") is None, reason="missing capability make")
@pytest.mark.parametrize("name", ["steal-by-guest", "xen-runstate-restored", "xen-stopped"])
def test_a_selftest_ends_as_plain_c_does(kernel: Callable[[str], Kernel], name: str, tmp_path: Path) -> None:
    called = f"{name.replace('-', '_')}_test"
    made = kernel_selftests.build(
        kernel_selftests.tree("6.1"), called, selftest(SCENARIOS[name]), tmp_path / called
    )
    as_selftest = program.run(kernel("debian:6.12"), AMD, program.read(made))
    as_plain = program.run(kernel("debian:6.12"), AMD, compiled(plain(SCENARIOS[name]), tmp_path))
    wanted = Verdict.FAIL if name == "xen-stopped" else Verdict.PASS
    assert (as_selftest.verdict, as_plain.verdict) == (wanted, wanted), as_selftest.output
