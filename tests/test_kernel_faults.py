# SPDX-License-Identifier: GPL-2.0-or-later
"""Faults put into a real kernel's synchronization code, one at a time, are noticed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness.judging.verdict import JUDGED, Verdict
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.patches import apply
from kvmharness.scenarios import SCENARIOS
from scripts import kernel_faults
from scripts.kernel_faults import Fault, FaultError

HERE = Path(__file__).parent
FAULTS = kernel_faults.read()
OF_TIME = kernel_faults.read(HERE / "kernel-faults-3.toml")
SIZES = kernel_faults.read(HERE / "kernel-faults-sizes.toml")
NESTED = kernel_faults.read(HERE / "kernel-faults-nested.toml")
STEAL = kernel_faults.read(HERE / "kernel-faults-steal.toml")
XEN = kernel_faults.read(HERE / "kernel-faults-xen.toml")
# All of them take hours: scripts/kernel-faults.
PLAYED = [
    *FAULTS[::3],
    *OF_TIME[::6],
    *(fault for fault in SIZES if fault.name in ("page-rate-2ppm", "timer-early-100ppm")),
]
PAGE = HERE.parent / "docs" / "faults.md"

# Made up, with what a fault may be looked for in.
CODE = """\
static int first(int a, int b);

static int first(int a, int b)
{
	return a +
		b;
}

int second(int a)
{
	return a + a;
}
"""


def fault(function: str, old: str) -> Fault:
    return Fault("made-up", "", function, old, "a - b")


def test_a_fault_is_a_patch_that_changes_one_expression_of_one_function() -> None:
    file = kernel_faults.patch(fault("first", "a + b"), CODE).files[0]
    assert apply.apply(file, CODE).text == CODE.replace("a +\n\t\tb", "a - b")


@pytest.mark.parametrize(
    ("function", "old", "trouble"),
    [
        ("second", "a", "second() has 3 times 'a'"),
        ("second", "b", "second() has 0 times 'b'"),
        ("third", "a", "defines third() 0 times"),
    ],
)
def test_a_fault_that_fits_in_no_place_or_in_several_is_refused(
    function: str, old: str, trouble: str
) -> None:
    with pytest.raises(FaultError) as refused:
        kernel_faults.patch(fault(function, old), CODE)
    assert trouble in str(refused.value)


def test_faults_have_names_of_their_own_and_are_noticed_or_survive() -> None:
    by_lists = [*OF_TIME, *SIZES, *NESTED, *STEAL, *XEN]
    faults = [*FAULTS, *kernel_faults.read(HERE / "kernel-faults-2.toml"), *by_lists]
    assert len({fault.name for fault in faults}) == len(faults)
    assert not [fault.name for fault in faults if fault.survives and fault.noticed_by]
    listed = [*FAULTS, *by_lists]
    assert {fault.noticed_by for fault in listed if not fault.survives} <= set(SCENARIOS)


def test_a_fault_of_another_file_is_a_patch_of_that_file() -> None:
    made_up = Fault("made-up", "", "first", "a + b", "a - b", file="arch/x86/kvm/lapic.c")
    assert kernel_faults.patch(made_up, CODE).files[0].path == "arch/x86/kvm/lapic.c"
    assert {fault.file.rpartition("/")[2] for fault in OF_TIME} == {"x86.c", "lapic.c", "hyperv.c"}


def rows(heading: str) -> list[list[str]]:
    """The table below a heading of the page, without its own."""
    text = PAGE.read_text().partition(f"# {heading}\n")[2].partition("\n#")[0]
    lines = [line.strip("|").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in cells] for cells in lines[2:]]


@pytest.mark.parametrize(
    ("heading", "faults"),
    [
        ("Faults put into a kernel", FAULTS),
        ("Clocks, timers and Hyper-V", OF_TIME),
        ("A Xen's time and runstates", XEN),
    ],
)
def test_the_page_lists_each_fault_and_what_notices_it(heading: str, faults: list[Fault]) -> None:
    listed = {cells[0]: (cells[1], cells[2], cells[4].split(",")[0]) for cells in rows(heading)}
    assert listed == {
        fault.name: (fault.breaks, fault.on, fault.noticed_by or fault.survives.split(",")[0])
        for fault in faults
    }


def test_the_page_says_from_which_size_on_each_fault_is_noticed() -> None:
    sizes = ("5000ppm", "100ppm", "2ppm")
    listed = {
        f"{cells[0]}-{size}": cell == "FAIL"
        for cells in rows("How small a fault is noticed")
        for size, cell in zip(sizes, cells[3:6], strict=True)
    }
    assert listed == {fault.name: not fault.survives for fault in SIZES}


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize("on", sorted({fault.on for fault in PLAYED}))
def test_without_a_fault_nothing_fails(kernel: Callable[[str], Kernel], on: str) -> None:
    kernel(kernel_faults.SPEC)
    results = kernel_faults.without_fault(on).results
    wrong = [result.scenario for result in results if result.verdict in (Verdict.FAIL, Verdict.LOST)]
    assert wrong == []
    assert any(result.verdict in JUDGED for result in results)


@pytest.mark.lab
@pytest.mark.full
@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in PLAYED])
def test_a_fault_is_noticed_and_distinguished_from_the_kernel_without_it(
    kernel: Callable[[str], Kernel], fault: Fault
) -> None:
    kernel(kernel_faults.SPEC)
    scenarios = [SCENARIOS[fault.noticed_by]] if fault.noticed_by else list(SCENARIOS.values())
    played = kernel_faults.played(kernel_faults.faulty(fault), fault.on, scenarios)
    results = played.results
    assert Verdict.LOST not in {result.verdict for result in results}, results[0].reason
    assert any(result.verdict in JUDGED for result in results)
    failed = [result for result in results if result.verdict is Verdict.FAIL]
    assert bool(failed) is not bool(fault.survives), fault.survives
    assert all(result.step and result.reason for result in failed)
    if failed and fault.on == "amd":
        assert bool(kernel_faults.compared(fault, played).differences) is fault.differs
