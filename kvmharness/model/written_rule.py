# SPDX-License-Identifier: GPL-2.0-or-later
"""A rule as code: a class that overrides what a kernel decides, where no key of a policy states it.

`WrittenRule` and `Write` are all of the interface (docs/policies.md). A rule is asked for a decision at the
kernel function that its method is named for, with what KVM knows there. What KVM read of its clocks is known
to an interval, so a decision may be None: either. Offsets, generations and clocks are worked out as ever.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from kvmharness.model import arithmetic
from kvmharness.model.interval import Interval
from kvmharness.model.policy import Policy
from kvmharness.model.quantity import Quantity
from kvmharness.model.rules import Rules
from kvmharness.model.state import ZERO, Host, Moment, Vcpu, World

Decision = bool | None


class RuleError(ValueError):
    """A rule of the user's own cannot be used; the text says why in one line, with its file and line."""


@dataclass(frozen=True, slots=True)
class Write:
    """A TSC that is written to a vCPU, as kvm_synchronize_tsc() has it.

    vcpu          the number of the vCPU
    by_user       whether userspace writes it; the kernel writes 0 at the creation of a vCPU
    value         what is written, in cycles
    expected      what the last write would have come to by now, in the vCPU's cycles
    khz           the vCPU's kHz
    same_khz      whether the last writer had the same; None: not known. Without it nothing snaps
    has_run       whether the vCPU has run
    user_set_tsc  whether userspace has set a TSC of this VM before, as the policy counts it
    matched       how many vCPUs are matched with the generation's first
    vcpus         how many vCPUs there are
    """

    vcpu: int
    by_user: bool
    value: Interval
    expected: Interval
    khz: int
    same_khz: Decision
    has_run: bool
    user_set_tsc: bool
    matched: int
    vcpus: int

    @property
    def is_zero(self) -> bool:
        """Whether 0 is written."""
        return self.value == ZERO

    def is_within(self, ns: int) -> Decision:
        """Whether the value is less than so many ns, in the vCPU's cycles, from what was expected."""
        window = self.khz * 1000 * ns // arithmetic.NS_PER_SECOND
        answers = arithmetic.window_answers_within(*self.value, *self.expected, window)
        return answers.pop() if len(answers) == 1 else None


class WrittenRule:
    """Derive from this, and override what the kernel decides otherwise.

    A rule keeps nothing in itself: several ways in which a VM may have gone are followed at once. What it has
    to know later it returns from remember(); the next call gets it as `memory`, which is None at first.
    """

    name: str = ""
    like: str = "mainline-6.7"

    def kvm_synchronize_tsc(self, write: Write, memory: Any, otherwise: Decision) -> Decision:
        """Whether a write is a request to synchronize; `otherwise` is what the policy's keys decide."""
        return otherwise

    def kvm_arch_tsc_set_attr(self, vcpu: int, offset: int, memory: Any) -> bool:
        """Whether an offset that is set by KVM_VCPU_TSC_OFFSET takes effect."""
        return True

    def kvm_set_tsc_khz(self, vcpu: int, khz: int, memory: Any, otherwise: bool) -> bool:
        """Whether the vCPU's own TSC is written with a rate that is accepted (khz_write)."""
        return otherwise

    def remember(self, write: Write, memory: Any, snapped: bool) -> Hashable:
        """What to remember of the VM after a write, be it the kernel's or userspace's."""
        kept: Hashable = memory
        return kept


class WrittenRules(Rules):
    """The rules of a kernel whose policy has a rule as code."""

    def __init__(self, policy: Policy, host: Host) -> None:
        super().__init__(policy, host)
        self._rule: WrittenRule = policy.rule
        self._asked: Write | None = None

    def _synchronizing(
        self, world: World, vcpu: Vcpu, data: Interval, moment: Moment, user: bool
    ) -> list[tuple[bool, str]]:
        by_keys = super()._synchronizing(world, vcpu, data, moment, user)
        otherwise = by_keys[0][0] if len(by_keys) == 1 else None
        self._asked = Write(
            vcpu=next(number for number, each in world.vcpus.items() if each is vcpu),
            by_user=user,
            value=data,
            expected=self._expected(world, vcpu, moment),
            khz=vcpu.virtual_tsc_khz,
            same_khz=self.same_rate(world, vcpu),
            has_run=vcpu.has_run,
            user_set_tsc=world.user_set_tsc,
            matched=world.nr_vcpus_matched_tsc,
            vcpus=len(world.vcpus),
        )
        decision = self._ask(self._rule.kvm_synchronize_tsc, self._asked, world.memory, otherwise)
        if decision is otherwise:
            return by_keys
        does = {True: "the write snaps", False: "the write takes effect"}
        answers = (False, True) if decision is None else (decision,)
        return [(answer, f"{does[answer]}: so {self.policy.name} has it") for answer in answers]

    def _write(
        self,
        world: World,
        number: int,
        data: Interval,
        moment: Moment,
        *,
        synchronizing: bool,
        kept: Quantity | None,
    ) -> None:
        super()._write(world, number, data, moment, synchronizing=synchronizing, kept=kept)
        try:
            world.memory = self._rule.remember(self._asked, world.memory, synchronizing)  # type: ignore[arg-type]
            hash(world.memory)
        except Exception as error:
            raise RuleError(_at(self._rule.remember, error)) from None

    def set_offset(self, world: World, number: int, offset: int, moment: Moment) -> list[World]:
        """As the rule has it, or not at all."""
        honoured = self._ask(self._rule.kvm_arch_tsc_set_attr, number, offset, world.memory)
        return super().set_offset(world, number, offset, moment) if honoured else [world]

    def writes_with_khz(self, world: World, number: int, khz: int) -> bool:
        """As the rule has it."""
        otherwise = super().writes_with_khz(world, number, khz)
        if not self.policy.honours_writes:
            return otherwise
        return bool(self._ask(self._rule.kvm_set_tsc_khz, number, khz, world.memory, otherwise))

    def _ask(self, function: Callable[..., object], *arguments: object) -> Decision:
        try:
            answer = function(*arguments)
        except Exception as error:
            raise RuleError(_at(function, error)) from None
        if answer is None or isinstance(answer, bool):
            return answer
        code = function.__func__.__code__  # type: ignore[attr-defined]
        where = f"{code.co_filename}:{code.co_firstlineno}"
        raise RuleError(
            f"{where}: {function.__name__}() decided {answer!a:.60}: expected True, False or None"
        )


def rules_of(policy: Policy, host: Host) -> Rules:
    """The rules of a kernel with a policy, be that keys alone or a rule as code."""
    return WrittenRules(policy, host) if policy.rule else Rules(policy, host)


def _at(function: Callable[..., object], error: Exception) -> str:
    """An error that a rule's method made, in one line, with the last place in its file."""
    code = function.__func__.__code__  # type: ignore[attr-defined]
    line, trace = code.co_firstlineno, error.__traceback__
    while trace:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == code.co_filename else line
        trace = trace.tb_next
    said = " ".join(str(error).split())
    return f"{code.co_filename}:{line}: {type(error).__name__}: {said:.200}"
