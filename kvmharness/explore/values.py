# SPDX-License-Identifier: GPL-2.0-or-later
"""Values and waits around what is decided where they are used."""

from kvmharness.explore.draft import MS, SECOND, Draft
from kvmharness.model.arithmetic import cycles
from kvmharness.script import Khz, Ppm, Read, Time, Value

# Where numbers of 64 bits are cut off, or change their sign.
_EDGES = tuple(2**bits for bits in (31, 32, 33, 40, 48, 56, 62, 63))
_PLAIN: tuple[Value, ...] = (
    *(0, 0, 0, 1, 1, 2, 2**64 - 1),
    *(Time(100 * SECOND), Time(900 * MS), Time(300 * MS)),
)
# How far from the edge of the second: nearer than that a real machine may be on the other side.
EDGE_NS = 50_000
_MARGINS_NS = (EDGE_NS, 500_000, 5 * MS, 50 * MS)
# Times of the last write that something may be kept in too few bits of: 2**31 and 2**32 ns and more.
_WAITS_NS = (
    *(0, 100_000, 5 * MS, 50 * MS, 300 * MS, 700 * MS, 950 * MS, 1_050 * MS, 1_800 * MS),
    *(2_300 * MS, 3_500 * MS, 4_350 * MS, 4_900 * MS, 6_000 * MS, 8_700 * MS, 11_000 * MS, 18_000 * MS),
)
_PPMS = (0, 100, -100, 249, 251, 300, 450, 1000, 100_000, 500_000, 1_000_000)


def tsc(draft: Draft, number: int) -> Value:
    """A TSC to write to a vCPU."""
    chance = draft.chance
    kind = chance.choices(("expected", "plain", "own", "edge", "read"), (9, 4, 3, 2, 3))[0]
    if kind == "plain":
        return chance.choice(_PLAIN)
    if kind == "edge":
        edge: int = chance.choice(_EDGES) * chance.choice((1, 1, 1, 3))
        return (edge + chance.choice((-1, 0, 0, 1))) % 2**64
    if kind == "read" and draft.tscs:
        return Read(chance.choice(draft.tscs[-5:]), chance.choice((0, distance(draft), distance(draft))))
    if kind == "own":
        whose = chance.choice(draft.vcpus)
        now = draft.tsc(whose)
        if now is not None:
            return draft.expressed(now + _cycles(draft, number, distance(draft).ns), number)
    return draft.expressed(expected(draft, number) + _cycles(draft, number, distance(draft).ns), number)


def expected(draft: Draft, number: int) -> int:
    """The TSC with which a write would be the last one, gone on: what kvm_synchronize_tsc() compares with."""
    world, vcpu = draft.world, draft.vcpu(number)
    elapsed = max(0, draft.now_ns - world.last_tsc_nsec.low)
    return world.last_tsc_write.low + cycles(elapsed, vcpu.virtual_tsc_khz)


def distance(draft: Draft) -> Time:
    """Within a second of something, at its edge, or far away; to either side."""
    chance = draft.chance
    within = chance.choice(
        (0, 0, chance.randint(0, 100_000), chance.randint(0, 950 * MS), 600 * MS, 300 * MS)
    )
    edge = SECOND + chance.choice((-1, 1)) * chance.choice(_MARGINS_NS)
    far = chance.choice(
        (1_500 * MS, 2_500 * MS, 5 * SECOND, 10 * SECOND, 3600 * SECOND, chance.randint(2 * SECOND, 10**15))
    )
    return Time(chance.choice((within, within, within, edge, edge, far)) * chance.choice((-1, 1)))


def adjust(draft: Draft) -> Value:
    """A TSC_ADJUST to write."""
    chance = draft.chance
    number = chance.choice(_EDGES) * chance.choice((1, -1)) + chance.choice((-1, 0, 1))
    return chance.choice((0, 0, 1, -1, distance(draft), distance(draft), max(-(2**63), number)))


def offset(draft: Draft, number: int) -> Value:
    """A TSC offset to set: another vCPU's, one some time from it, one that differs high up, or any."""
    chance = draft.chance
    if draft.offsets and chance.random() < 0.75:
        high = chance.choice(_EDGES)
        plus = chance.choice((0, 0, 0, 1, -1, distance(draft), distance(draft), high, -high))
        return Read(chance.choice(draft.offsets[-5:]), plus)
    return chance.choice((0, 1, -(2**63), 2**64 - 1, distance(draft), chance.getrandbits(64)))


def khz(draft: Draft) -> Khz:
    """A rate to set: within what needs no scaling, around its edge, beyond, or none at all."""
    chance = draft.chance
    ppm = chance.choice(_PPMS) * chance.choice((1, -1))
    plain = chance.choice((0, 0, 0, 1, 2**31 - 1, 2**32 - 1, 999_951))
    return Ppm(max(ppm, -999_000)) if chance.random() < 0.65 else plain


def wait_ns(draft: Draft) -> int:
    """A time to wait, in ns."""
    chance = draft.chance
    most = draft.ground.most_wait_ns
    waits = [each for each in _WAITS_NS if each <= most]
    return chance.choice((*waits, chance.randint(0, 5 * MS), chance.randint(0, min(most, 1_200 * MS))))


def _cycles(draft: Draft, number: int, ns: int) -> int:
    return ns * draft.vcpu(number).virtual_tsc_khz // 1_000_000
