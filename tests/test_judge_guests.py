# SPDX-License-Identifier: GPL-2.0-or-later
"""The judge on hand-worked traces: what guests write and read, and IA32_TSC_ADJUST."""

from kvmharness.script import GetMsrs, Run, SetMsrs
from kvmharness.trace import Event
from tests.hand_worked import MS, create, guest_write, offset, possible, run, step, tsc

# What they write


def adjust(at: int, value: int) -> Event:
    return step(GetMsrs(vcpu=0, indices=("TSC_ADJUST",)), at, value)


def test_a_host_write_of_tsc_adjust_moves_nothing() -> None:
    stored = step(SetMsrs(vcpu=0, msrs=(("TSC_ADJUST", 77),)), 1001 * MS, 77)
    assert possible(create(1000 * MS), stored, adjust(1002 * MS, 77), tsc(1010 * MS, 10 * MS))
    assert not possible(create(1000 * MS), stored, tsc(1010 * MS, 10 * MS + 2077))
    assert not possible(create(1000 * MS), stored, adjust(1002 * MS, 78))


def test_a_guests_write_of_its_tsc_moves_it_and_adjusts_by_as_much() -> None:
    # At 1010 ms the guest reads 10 ms, writes 500 ms, and reads 500 ms: moved by 490 ms.
    written = (create(1000 * MS), guest_write(1010 * MS, "TSC", 500 * MS, 10 * MS, 500 * MS))
    assert possible(*written, tsc(1020 * MS, 510 * MS))
    assert not possible(*written, tsc(1020 * MS, 20 * MS))
    assert possible(*written, adjust(1020 * MS, 490 * MS))
    assert not possible(*written, adjust(1020 * MS, 490 * MS + 3001))
    # The offset before and the offset after, read exactly, fix the adjustment to the cycle.
    exact = (create(1000 * MS), offset(1001 * MS, -1000 * MS), *written[1:], offset(1011 * MS, -510 * MS))
    assert possible(*exact, adjust(1020 * MS, 490 * MS))
    assert not possible(*exact, adjust(1020 * MS, 490 * MS + 1))


def test_a_guests_write_of_tsc_adjust_moves_its_tsc_by_the_difference() -> None:
    # First to 5 ms (moves by 5 ms), then to 3 ms (moves back by 2 ms): 3 ms in all, to the cycle.
    written = (
        create(1000 * MS),
        offset(1001 * MS, -1000 * MS),
        guest_write(1010 * MS, "TSC_ADJUST", 5 * MS, 10 * MS, 15 * MS),
        guest_write(1020 * MS, "TSC_ADJUST", 3 * MS, 25 * MS, 23 * MS),
    )
    assert possible(*written, offset(1030 * MS, -997 * MS))
    assert not possible(*written, offset(1030 * MS, -995 * MS))


def test_a_guests_write_leaves_the_others_alone() -> None:
    written = guest_write(1010 * MS, "TSC", 500 * MS, 10 * MS, 500 * MS)
    assert possible(create(1000 * MS), create(1001 * MS, 1), written, tsc(1020 * MS, 20 * MS, 1))
    assert not possible(create(1000 * MS), create(1001 * MS, 1), written, tsc(1020 * MS, 510 * MS, 1))


# What they read


def test_every_sample_of_a_guest_counts() -> None:
    assert possible(create(1000 * MS), run(1010 * MS, 10 * MS - 100, 10 * MS, 10 * MS + 100))
    # The first cannot be 3000 cycles before the last in a run that took 1000.
    assert not possible(create(1000 * MS), run(1010 * MS, 10 * MS - 2000, 10 * MS + 1000))


def test_what_a_guest_reads_pins_what_the_others_have() -> None:
    # The run took no time at all (a bracket of no width), so the offset is known, and v1's with it.
    ran = step(Run(vcpu=0), 1010 * MS, 10 * MS - 300, width=0)
    created = (create(1000 * MS), create(1001 * MS, 1))
    assert possible(*created, ran, offset(1020 * MS, -1000 * MS - 300, 1))
    assert not possible(*created, ran, offset(1020 * MS, -1000 * MS - 299, 1))
