# SPDX-License-Identifier: GPL-2.0-or-later
"""KVM's arithmetic on time, bit for bit: what it computes with multipliers and shifts, and where it wraps.

All of it is integer arithmetic of 64 bits (arch/x86/kvm/x86.c and asm/pvclock.h).
"""

from functools import lru_cache

WORD = 2**64
NS_PER_SECOND = 1_000_000_000

# kvm.tsc_tolerance_ppm, the module's default: how far off a guest's rate may be without scaling.
TOLERANCE_PPM = 250


@lru_cache(maxsize=1024)
def time_scale(khz: int) -> tuple[int, int]:
    """Multiplier (32 bits, a fraction of 2**32) and shift that turn ns into cycles of `khz` kHz."""
    # With 0 kHz KVM never gets here, and virtual_tsc_mult keeps the 0 it was made with.
    return get_time_scale(khz * 1000, NS_PER_SECOND) if khz else (0, 0)


def get_time_scale(rate: int, base: int) -> tuple[int, int]:
    """Multiplier (32 bits, a fraction of 2**32) and shift that turn counts of `base` Hz into such of `rate`.

    kvm_get_time_scale(): both rates are brought to 32 bits, the divisor to the next power of two above the
    dividend, and what was shifted is made good by the shift.
    """
    shift = 0
    while base > rate * 2 or base >= 2**32:
        base >>= 1
        shift -= 1
    while base <= rate or rate >= 2**32:
        if rate >= 2**32 or base >= 2**31:
            rate >>= 1
        else:
            base <<= 1
        shift += 1
    return (rate << 32) // base % 2**32, shift


def cycles(ns: int, khz: int) -> int:
    """How many cycles KVM takes `ns` ns for on a vCPU of `khz` kHz: nsec_to_cycles()."""
    multiplier, shift = time_scale(khz)
    ns = ns >> -shift if shift < 0 else ns << shift
    return ns * multiplier >> 32


def scaling_ratio(khz: int, host_khz: int, fraction_bits: int) -> int:
    """The ratio by which hardware turns the host's TSC into the guest's, as a fraction of 2**fraction_bits.

    set_tsc_khz(); AMD has 32 fraction bits, Intel 48.
    """
    return (khz << fraction_bits) // host_khz


def tolerated(khz: int, host_khz: int, ppm: int = TOLERANCE_PPM) -> bool:
    """Whether a rate is near enough to the host's to need no scaling: kvm_set_tsc_khz()."""
    return adjusted(host_khz, -ppm) <= khz <= adjusted(host_khz, ppm)


def adjusted(khz: int, ppm: int) -> int:
    """A rate and so many millionths more, as adjust_tsc_khz() has it: they wrap around."""
    millionths = (1_000_000 + ppm + 2**31) % 2**32 - 2**31  # an int
    return khz * millionths % WORD // 1_000_000 % 2**32


def in_window(value: int, expected: int, window: int) -> bool:
    """Whether a written value is near what was expected: kvm_synchronize_tsc().

    Both sums are 64-bit and wrap, so near 0 and near 2**64 the window is cut off.
    """
    return value < (expected + window) % WORD and (value + window) % WORD > expected % WORD


def may_be_less(low: int, high: int, other_low: int, other_high: int) -> bool:
    """Whether one of `low` to `high` may be less than one of the others, each taken modulo 2**64."""
    return _least(low, high) < _most(other_low, other_high)


def may_be_at_most(low: int, high: int, other_low: int, other_high: int) -> bool:
    """Whether one of `low` to `high` may be as much as one of the others, or less, each modulo 2**64."""
    return _least(low, high) <= _most(other_low, other_high)


def _least(low: int, high: int) -> int:
    return 0 if low // WORD != high // WORD else low % WORD


def _most(low: int, high: int) -> int:
    return WORD - 1 if low // WORD != high // WORD else high % WORD


def window_answers(value: int, low: int, high: int, window: int) -> set[bool]:
    """All that in_window() may say when what was expected lies anywhere from `low` to `high`."""
    # Between these places the answer does not change.
    places = _places((value - window, value + window, -window, 0), low, high)
    return {in_window(value, place, window) for place in places}


def window_answers_within(least: int, most: int, low: int, high: int, window: int) -> set[bool]:
    """window_answers() for a value that lies anywhere from `least` to `most` as well."""
    if least == most:
        return window_answers(least, low, high, window)
    ends = (low - window, low + window, high - window, high + window)
    values = _places((*ends, -2 * window, -window, 0, window), least, most)
    return {answer for value in values for answer in window_answers(value % WORD, low, high, window)}


def _places(edges: tuple[int, ...], low: int, high: int) -> set[int]:
    """Both ends, and what lies around the edges between them."""
    places = {low, high}
    for edge in edges:
        # Its copies on the number line that lie in reach; more than two laps of 2**64 are never in play.
        first = edge + (low - edge) // WORD * WORD
        for copy in (first, first + WORD):
            places.update(place for place in (copy - 1, copy, copy + 1) if low <= place <= high)
    return places


def duration(cycles: int, khz: int) -> str:
    """Cycles as time, with as many digits as are worth reading; "unknown time" without a rate."""
    if not khz:
        return "unknown time"
    ns = abs(cycles) * 1_000_000 // khz
    if ns < 1_000:
        return f"{ns} ns"
    if ns < 1_000_000:
        return f"{ns / 1e3:.1f} us"
    return f"{ns / 1e6:.1f} ms" if ns < 1_000_000_000 else f"{ns / 1e9:.3f} s"


def scaled_khz(khz: int, ratio: int, fraction_bits: int) -> int:
    """The kHz of a page, of a TSC that is scaled: at least 1 (kvm_guest_time_update())."""
    return (khz * ratio >> fraction_bits) or 1
