# SPDX-License-Identifier: GPL-2.0-or-later
"""The rates at which TSCs count: the host's, what is known of it, and those of the vCPUs.

As in `rules`, each is named for the kernel function it stands for.
"""

from collections.abc import Iterable

from kvmharness.model import arithmetic
from kvmharness.model.arithmetic import cycles
from kvmharness.model.interval import Interval
from kvmharness.model.policy import Policy
from kvmharness.model.quantity import bounds
from kvmharness.model.state import Host, Vcpu, World

# What is known of a vCPU's TSC to no better than this many seconds tells nothing.
_TELLING_S = 2


# kvm_caps.max_tsc_scaling_ratio by fraction bits: 8 bits before the point on AMD, 16 on Intel.
_MAX_RATIO = {32: 2**40 - 1, 48: 2**64 - 1}


class UnknownRateError(Exception):
    """A rule rests on the host's TSC rate, and nothing in the trace says what that is."""


class Rates:
    """The rates of a kernel with `policy` on `host`."""

    def __init__(self, policy: Policy, host: Host) -> None:
        self.policy = policy
        self.host = host

    # Time as a vCPU sees it

    def scaled(self, world: World, vcpu: Vcpu, tsc: Interval) -> Interval:
        """The host's TSC at the vCPU's rate: kvm_scale_tsc()."""
        if vcpu.ratio is None:
            return tsc
        slowest, fastest = vcpu.ratio - vcpu.ratio_slack, vcpu.ratio + vcpu.ratio_slack
        bits = world.fraction_bits or 0
        return Interval(tsc.low * slowest >> bits, tsc.high * fastest >> bits)

    def is_vague(self, world: World, tsc: Interval) -> bool:
        """Whether so little is known of a vCPU's TSC that what is read of it tells nothing."""
        return any(
            self.scaled(world, vcpu, tsc).width > tsc.width + _TELLING_S * vcpu.virtual_tsc_khz * 1000
            for vcpu in world.vcpus.values()
            if vcpu.ratio_slack
        )

    def l1_tsc(self, world: World, vcpu: Vcpu, tsc: Interval) -> Interval:
        """The TSC that KVM takes the vCPU's for, at a host's TSC within `tsc`: kvm_read_l1_tsc()."""
        offset, scaled = bounds(vcpu.l1_tsc_offset, world.unknowns), self.scaled(world, vcpu, tsc)
        assert offset is not None  # only a protected TSC's is not known at all, and no rule asks for it
        return Interval(scaled.low + offset.low, scaled.high + offset.high)

    def guest_tsc(self, world: World, vcpu: Vcpu, tsc: Interval) -> Interval:
        """What the guest reads while the host's TSC is somewhere in `tsc`."""
        seen = self.l1_tsc(world, vcpu, tsc)
        # Without TSC scaling the CPU knows no ratio, whatever KVM has noted.
        return Interval(seen.low + tsc.low, seen.high + tsc.high) if vcpu.ratio == 0 else seen

    def elapsed(self, since: Interval, now: Interval, vcpu: Vcpu) -> Interval:
        """The time since then, in the vCPU's cycles. KVM's clock does not run backwards."""
        low, high = max(0, now.low - since.high), max(0, now.high - since.low)
        slowest, fastest = self.khz(vcpu)
        return Interval(cycles(low, slowest), cycles(high, fastest))

    # Setting a vCPU's rate

    def set_tsc_khz(
        self, world: World, number: int, khz: int, *, created: bool = False
    ) -> list[tuple[World, bool]]:
        """kvm_set_tsc_khz(): the worlds, and whether the rate was accepted. Even a refused one is noted.

        A vCPU is `created` with the rate that KVM noted when it was loaded, or that userspace chose. If that
        is too far from the host's, which may have been corrected since, nobody is told.
        """
        vcpu = world.vcpus[number]
        vcpu.virtual_tsc_khz, vcpu.host_rate_at = khz, 0
        base = world.host_khz
        if base is None:
            if self.policy.honours_writes:
                raise UnknownRateError
            vcpu.host_rate_at, vcpu.follows = world.step, False
            return [(world, True), (world.fork(), False)]
        slack = self._slack(base)
        low, high = base - slack, base + slack
        tolerated = self._tolerated(khz, (low, min(max(khz, low), high), high))
        # The host's own rate may have been corrected since KVM noted it, or may be yet. Where the rate is
        # known, KVM may refuse what it noted before.
        vague = not self.host.khz_exact
        as_created = vague and khz == world.default_tsc_khz and not world.default_was_set
        noted = as_created and created and self.policy.honours_writes
        corrected = as_created and not created
        if noted and world.default_is_off is not None:
            tolerated = {not world.default_is_off}
        elif as_created and not noted and (created or self._tolerated(khz, (base,)) == {True}):
            tolerated = {True}
        if not self.policy.honours_writes:
            vcpu.host_rate_at, vcpu.follows = world.step, tolerated == {True}
            return [(world, True), (world.fork(), False)]
        found = []
        if corrected and tolerated == {True} and not world.fraction_bits:
            found.append((world.fork(), False))
        if True in tolerated:
            each = world.fork() if len(tolerated) > 1 else world
            each.vcpus[number].ratio, each.vcpus[number].ratio_slack = None, 0
            each.default_is_off = False if noted else each.default_is_off
            found.append((each, True))
        if False in tolerated:
            known = world.fraction_bits
            for bits in (0, 32, 48) if known is None else (known,):
                each = world.fork()
                each.fraction_bits = bits
                each.default_is_off = True if noted else each.default_is_off
                found += self._scale(each, each.vcpus[number], khz, slack)
        return found

    def _tolerated(self, khz: int, hosts: Iterable[int]) -> set[bool]:
        """Whether a rate is near enough to the host's to need no scaling, for each that this may be."""
        ppm = self.host.tolerance_ppm
        if ppm is not None:
            return {arithmetic.tolerated(khz, each, ppm) for each in hosts}
        return {answer for each in hosts for answer in ((True,) if khz == each else (True, False))}

    def set_host_khz(self, world: World, number: int) -> None:
        """kvm_set_tsc_khz() with the host's own rate, whatever that is now."""
        vcpu = world.vcpus[number]
        vcpu.ratio, vcpu.ratio_slack, vcpu.follows = None, 0, True
        vcpu.virtual_tsc_khz = world.host_khz or 0
        vcpu.host_rate_at = 0 if self.host.khz_exact else world.step

    def _slack(self, khz: int) -> int:
        """How far the host's own rate may be from what is known of it, in kHz.

        tsc_refine_calibration_work() corrects tsc_khz by up to 1 % a second or more after the boot, and what
        vCPUs are created with may stem from before.
        """
        return 0 if self.host.khz_exact else khz // 100

    def khz(self, vcpu: Vcpu) -> tuple[int, int]:
        """The lowest and the highest that virtual_tsc_khz may be."""
        slack = self._slack(vcpu.virtual_tsc_khz) if vcpu.host_rate_at else 0
        return vcpu.virtual_tsc_khz - slack, vcpu.virtual_tsc_khz + slack

    def _scale(self, world: World, vcpu: Vcpu, khz: int, slack: int) -> list[tuple[World, bool]]:
        """set_tsc_khz() for a rate that is too far off: the worlds, and whether it was accepted."""
        bits, base = world.fraction_bits, world.host_khz or 0
        if not bits:
            found = []
            if khz <= base + slack:
                found.append((world.fork(), False))
            if khz > base - slack:
                vcpu.tsc_catchup = vcpu.tsc_always_catchup = True
                found.append((world, True))
            return found
        ratio = arithmetic.scaling_ratio(khz, base, bits)
        if not 0 < ratio < _MAX_RATIO[bits]:
            return []  # it was refused before (too_fast)
        vcpu.ratio = ratio
        vcpu.ratio_slack = ratio * slack // (base - slack) + 1 if slack else 0
        return [(world, True)]

    def too_fast(self, world: World, khz: int) -> list[int]:
        """By which kinds of scaling (their fraction bits) a rate may be beyond kvm_caps.max_guest_tsc_khz.

        What is refused for that changes nothing (kvm_arch_vcpu_ioctl, KVM_SET_TSC_KHZ).
        """
        base = world.host_khz or 0
        return [
            bits
            for bits, most in _MAX_RATIO.items()
            if world.fraction_bits in (None, bits)
            and khz >= min(2**31 - 1, (base - self._slack(base)) * most >> bits)
        ]

    def same_rate(self, world: World, vcpu: Vcpu) -> bool | None:
        """Whether the vCPU's kHz is last_tsc_khz; None where that is not known."""
        if vcpu.host_rate_at == world.last_host_rate_at:
            return vcpu.virtual_tsc_khz == world.last_tsc_khz
        apart = abs(vcpu.virtual_tsc_khz - world.last_tsc_khz)
        return None if apart <= 2 * self._slack(world.last_tsc_khz) else False
