# SPDX-License-Identifier: GPL-2.0-or-later
"""What debugfs shows of vCPUs: read, recorded, and held against the rules and the contract."""

import _thread
from dataclasses import replace
from pathlib import Path

import pytest

from kvmharness import script
from kvmharness.contract import OffsetClaim, Status
from kvmharness.kvm import System
from kvmharness.model.state import Host
from kvmharness.player import played_vm, player
from kvmharness.player.debugfs import Debugfs
from kvmharness.script import CreateVcpu, GetMsrs, GetTscOffset, Run, Sleep
from kvmharness.trace import DebugfsReading, Event, Trace, from_played
from tests.hand_worked import KHZ, MS, create, judged, offset, possible, run, step, write

VM = 5  # a descriptor


@pytest.fixture
def vm(tmp_path: Path) -> Path:
    """The folder of a VM without vCPUs."""
    folder = tmp_path / f"{_thread.get_native_id()}-{VM}"
    folder.mkdir()
    return folder


def add_vcpu(vm: Path, number: int, offset: int, ratio: int | None = None) -> None:
    folder = vm / f"vcpu{number}"
    folder.mkdir()
    (folder / "tsc-offset").write_text(f"{offset}\n")
    if ratio is not None:
        (folder / "tsc-scaling-ratio").write_text(f"{ratio}\n")


def debugfs_of(vm: Path, **offsets: int) -> Debugfs:
    """With vCPUs that were created since."""
    debugfs = Debugfs(VM, str(vm.parent))
    for number, shown in enumerate(offsets.values()):
        debugfs.expect(number)
        add_vcpu(vm, number, shown)
    return debugfs


# Reading them


def test_offsets_are_read_modulo_two_to_the_64(vm: Path) -> None:
    debugfs = debugfs_of(vm, first=-7, second=8)
    assert debugfs.read([0, 1], ratio=False) == [[2**64 - 7], [8]]
    assert debugfs.read([1], ratio=True) == [[8]]


def test_a_ratio_is_read_where_there_is_one_and_it_is_asked_for(vm: Path) -> None:
    debugfs = Debugfs(VM, str(vm.parent))
    debugfs.expect(0)
    add_vcpu(vm, 0, 3, 2**47)
    assert debugfs.read([0], ratio=True) == [[3, 2**47]]
    assert debugfs.read([0], ratio=False) == [[3]]


def test_what_is_written_later_is_read_later(vm: Path) -> None:
    debugfs = debugfs_of(vm, only=3)
    (vm / "vcpu0" / "tsc-offset").write_text("-4\n")
    assert debugfs.read([0], ratio=False) == [[2**64 - 4]]


def test_without_a_folder_nothing_is_shown(tmp_path: Path) -> None:
    debugfs = Debugfs(VM, str(tmp_path))
    debugfs.expect(0)
    assert debugfs.read([0], ratio=True) == []


def test_a_vcpu_that_is_not_shown_keeps_the_others_from_being_recorded(vm: Path) -> None:
    assert debugfs_of(vm, first=1).read([0, 1], ratio=False) == []


def test_what_is_no_number_is_not_shown(vm: Path) -> None:
    debugfs = debugfs_of(vm, only=1)
    (vm / "vcpu0" / "tsc-offset").write_text("")
    assert debugfs.read([0], ratio=False) == []


def test_a_vcpu_that_is_there_before_its_creation_is_another_vms(vm: Path) -> None:
    add_vcpu(vm, 0, 1)
    debugfs = Debugfs(VM, str(vm.parent))
    debugfs.expect(0)
    assert debugfs.read([0], ratio=False) == []


def test_a_vcpu_that_is_created_twice_stays_ones_own(vm: Path) -> None:
    debugfs = debugfs_of(vm, only=1)
    debugfs.expect(0)
    assert debugfs.read([0], ratio=False) == [[1]]


# Recording them


@pytest.mark.kvm
def test_the_player_looks_behind_each_step_on_a_vcpu(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[list[int], bool]] = []

    class Shown:
        def __init__(self, vm: int) -> None:
            assert vm >= 0

        def expect(self, vcpu: int) -> None:
            asked.append(([vcpu], False))

        def read(self, vcpus: list[int], *, ratio: bool) -> list[list[int]]:
            asked.append((vcpus, ratio))
            return [[9]]

        def close(self) -> None:
            asked.append(([], False))

    monkeypatch.setattr(played_vm, "Debugfs", Shown)
    operations = (CreateVcpu(vcpu=0), Sleep(ns=1), Run(vcpu=0))
    steps = player.Player(system).play([script.to_json(each) for each in operations])
    created, waited, ran = from_played("test", "release", steps).events
    assert (created.debugfs, waited.debugfs, ran.debugfs) == ((DebugfsReading(9),), (), (DebugfsReading(9),))
    # Announced before its creation; its ratio is looked at behind that.
    assert asked[:3] == [([0], False), ([0], True), ([0], False)]


# Judging by them


def shown(event: Event, *readings: DebugfsReading) -> Event:
    return replace(event, debugfs=readings)


def at(number: int, ratio: int | None = None) -> DebugfsReading:
    return DebugfsReading(number % 2**64, ratio)


def test_an_offset_that_is_shown_is_the_one_of_that_step() -> None:
    # Created somewhere between 1000 ms and 1000 cycles later, so its offset is -1000 ms or so much less.
    assert possible(shown(create(1000 * MS), at(-1000 * MS - 400)))
    assert not possible(shown(create(1000 * MS), at(-1000 * MS + 1)))
    assert not possible(shown(create(1000 * MS), at(-1000 * MS - 1001)))


def test_an_offset_that_is_shown_pins_the_generation() -> None:
    created = shown(create(1000 * MS), at(-1000 * MS - 400))
    assert possible(created, create(1001 * MS, 1), offset(1002 * MS, -1000 * MS - 400, 1))
    assert not possible(created, create(1001 * MS, 1), offset(1002 * MS, -1000 * MS - 401, 1))


def test_whether_a_write_snapped_shows_before_anything_is_read() -> None:
    # Before 6.7 a write of 0.5 s to a vCPU that is 10 ms old snaps, since 6.7 it does not.
    created = shown(create(1000 * MS), at(-1000 * MS - 400))
    snapped = shown(write(1010 * MS, 500 * MS), at(-1000 * MS - 400))
    honoured = shown(write(1010 * MS, 500 * MS), at(-510 * MS - 7))
    assert possible(created, snapped, policy="mainline-before-6.7")
    assert not possible(created, honoured, policy="mainline-before-6.7")
    assert possible(created, honoured)
    judgement = judged(created, snapped)
    assert judgement.step == 2
    assert judgement.mismatch
    assert judgement.mismatch.observed.endswith(", offset -1000000400 (debugfs)")
    assert judgement.mismatch.expected.startswith("offset -510001000 to -510000000, ")


def test_a_ratio_that_is_shown_says_how_fast_the_guest_counts() -> None:
    # The host's rate is known to 1 %, so the ratio of half of it is, too; then it is known for good.
    rough = Host(khz=KHZ, has_attribute=True, fraction_bits=48, refuses_khz=False, tolerance_ppm=250)
    half = step(script.SetTscKhz(vcpu=0, khz=500_000), 1001 * MS, 500_000)
    ratio = 2**47 + 2**40
    slower = (create(1000 * MS), shown(half, at(-1000 * MS, ratio)))
    guest = (2000 * MS * ratio >> 48) - 1000 * MS
    assert possible(*slower, run(2000 * MS, guest), host=rough)
    assert not possible(*slower, run(2000 * MS, guest + 2000), host=rough)
    assert possible(create(1000 * MS), half, run(2000 * MS, guest + 2000), host=rough)
    assert not possible(create(1000 * MS), shown(half, at(-1000 * MS, 2**46)), host=rough)


UNSTABLE = Host(khz=KHZ, khz_exact=True, stable=False, has_attribute=True, fraction_bits=0, tolerance_ppm=250)
# Unstable as the kernel takes it, though all CPUs count together.
ONE_TSC = replace(UNSTABLE, one_tsc=True)


def test_with_an_unstable_tsc_nothing_is_asked_of_what_is_shown() -> None:
    assert possible(shown(create(1000 * MS), at(7)), host=UNSTABLE)
    assert possible(create(1000 * MS), shown(write(1010 * MS, 500 * MS), at(7)), host=UNSTABLE)


def test_on_an_unstable_tsc_that_all_cpus_share_a_write_shows_the_offset_that_it_makes() -> None:
    # The write of 500 ms took from 1010 ms to a microsecond later.
    def writes(offset: int) -> bool:
        return possible(create(1000 * MS), shown(write(1010 * MS, 500 * MS), at(offset)), host=ONE_TSC)

    assert writes(-510 * MS)
    assert writes(-510 * MS - 1000)
    assert not writes(-510 * MS + 1)
    assert not writes(-510 * MS - 1001)


def test_on_an_unstable_tsc_the_time_is_added_to_a_write_that_synchronizes() -> None:
    # Of two writes of 500 ms, 5 ms after one another, the second gets the 5 ms and so the first one's offset.
    pair = (create(1000 * MS), create(1001 * MS, 1), write(1010 * MS, 500 * MS))
    assert possible(*pair, shown(write(1015 * MS, 500 * MS, 1), at(-510 * MS)), host=ONE_TSC)
    assert not possible(*pair, shown(write(1015 * MS, 500 * MS, 1), at(-515 * MS)), host=ONE_TSC)


def test_on_an_unstable_tsc_it_is_asked_only_of_what_writes_a_tsc() -> None:
    # A guest that ran may have been loaded once more since, and a creation may have been.
    created = create(1000 * MS)
    for other in (run(1010 * MS, 10 * MS), step(GetMsrs(vcpu=0, indices=("TSC",)), 1010 * MS, 0)):
        assert possible(created, shown(other, at(7)), host=ONE_TSC)
    assert possible(shown(created, at(7)), host=ONE_TSC)


def test_what_is_shown_of_an_unstable_tsc_does_not_stay() -> None:
    # The next load computes another offset, within its own bracket.
    written = shown(write(1010 * MS, 500 * MS), at(-510 * MS))
    assert possible(
        create(1000 * MS), written, shown(write(1020 * MS, 9_000 * MS), at(7_980 * MS - 7)), host=ONE_TSC
    )


# A contract


CLAIM = OffsetClaim(text="the vCPU goes on", seen=("offset", "tsc"), expected=("write",), instead="create")


def found(*events: Event) -> Status:
    return CLAIM.check(Trace("test", "release", events)).status


def labelled(event: Event, label: str) -> Event:
    return replace(event, operation=replace(event.operation, label=label))


def test_what_is_shown_decides_a_claim_that_the_brackets_leave_open() -> None:
    # The write of 30 ms at 1025 ms is 5 ms off what the vCPU had; the reading of 45 ms takes from 1030 to
    # 1050 ms, so it may be of an offset of -985 to -1005 ms.
    begin = (labelled(create(1000 * MS), "create"), labelled(write(1025 * MS, 30 * MS), "write"))
    lacking = step(GetTscOffset(vcpu=0, label="offset"), 1028 * MS, error="EINVAL")
    read = step(GetMsrs(vcpu=0, indices=("TSC",), label="tsc"), 1030 * MS, 45 * MS, width=20 * MS)
    assert found(*begin, lacking, read) is Status.UNDECIDED
    assert found(*begin, shown(lacking, at(-995 * MS - 7)), shown(read, at(-995 * MS - 7))) is Status.KEPT
    assert found(*begin, shown(lacking, at(-1000 * MS - 7)), read) is Status.BROKEN
    assert found(*begin, lacking, shown(read, at(-1000 * MS - 7))) is Status.BROKEN
