# SPDX-License-Identifier: GPL-2.0-or-later
"""At which rate each vCPU's TSC counts, and how one goes on that has another rate than the host's."""

from collections.abc import Iterator

from kvmharness.judging.pace import Written
from kvmharness.judging.relations.relation import Relation, beside, same
from kvmharness.model.arithmetic import tolerated
from kvmharness.model.interval import Interval
from kvmharness.trace import Event


class Rates:
    """Each vCPU's kHz as it was created with (`created`) and as it was set (`set_to`), and which of them have
    another rate than the host (`other`).

    `off_ppb` is how far the rate that KVM counts by may be from the host's raw clock's, in 10**-9.
    """

    def __init__(self, off_ppb: int) -> None:
        self.off_ppb = off_ppb
        self.created: dict[int, int] = {}
        self.set_to: dict[int, int] = {}
        self.other: set[int] = set()
        self._of_vm: int | None = None
        self._ratios: dict[int, tuple[int, int]] = {}  # with the step at which it was read
        self._step = 0

    @property
    def first(self) -> int | None:
        """That of the first vCPU."""
        return next(iter(self.created.values()), None)

    def ratio(self, number: int) -> int | None:
        """A vCPU's scaling ratio as debugfs showed it last; None where it showed none."""
        return self._ratios[number][0] if number in self._ratios else None

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """A vCPU's kHz and its scaling ratio."""
        self._step += 1
        operation, khz = event.operation, event.value("khz")
        number = next(iter(operation.vcpu_numbers), None)
        subject = f"the rate of vCPU {number}"
        if khz is None:
            pass
        elif number is None:
            self._of_vm = self._of_vm if event.error else khz
        elif operation.creates_vcpu and not event.error:
            yield "khz", self._of_created(number, subject, khz)
        elif operation.new_khz(event.values) is not None:
            self.set_to[number] = khz
            near = khz == 0 or tolerated(khz, self.created.get(number, 0))
            (self.other.discard if near else self.other.add)(number)
        elif not event.error:
            known = {
                "is what it was created with": self.created.get(number),
                "is what it was set to": self.set_to.get(number),
            }
            yield "khz", same(subject, known, khz)
        yield from self._of_ratios(event)

    def _of_created(self, number: int, subject: str, khz: int) -> Relation:
        self.created[number] = khz
        first = next(iter(self.created.values()))
        if khz in (0, self._of_vm) or not tolerated(khz, first):
            self.other.add(number)
        # 0 asked for the host's own.
        if self._of_vm:
            return same(subject, {"is what was set for the VM": self._of_vm}, khz)
        return same(subject, {"is that of the first vCPU": first}, khz)

    def _of_ratios(self, event: Event) -> Iterator[tuple[str, Relation]]:
        for number, shown in zip(event.operation.vcpu_numbers, event.debugfs, strict=False):
            if shown.ratio is not None:
                before, since = self._ratios.get(number, (None, 0))
                self._ratios[number] = shown.ratio, self._step
                if before is not None:
                    # Two that were read last at different steps are not compared.
                    subject = f"the scaling ratio of vCPU {number}"
                    yield f"ratio since {since}", same(subject, {"stays as it was": before}, shown.ratio)


class Paces:
    """TSCs that have another rate than the host's, as their guests read them.

    The host reads such a TSC as it was at the vCPU's last entry, so only a guest's reading counts.
    """

    def __init__(self, rates: Rates) -> None:
        self._rates = rates
        self._wrote: dict[int, Written] = {}

    def relations(self, event: Event) -> Iterator[tuple[str, Relation]]:
        """How a TSC goes on from what the host wrote."""
        if len(event.operation.vcpu_numbers) != 1 or event.error:
            return
        (number,), read, rates = event.operation.vcpu_numbers, event.guest_tsc, self._rates
        if event.operation.sets_tsc or event.operation.new_khz(event.values) is not None:
            self._wrote.pop(number, None)
            if read is not None and event.operation.sets_tsc and not event.operation.by_guest:
                self._wrote[number] = Written(read, event, rates.off_ppb)
        elif read is not None and event.operation.by_guest and number in self._wrote:
            khz = rates.set_to.get(number) or rates.created.get(number)
            if khz and number in rates.other:
                moved = self._wrote[number].goes_on(event, khz)
                subject, neither = f"the TSC of vCPU {number}", "is at neither rate"
                yield "pace", beside(subject, moved, Interval(0, 0), khz=khz, otherwise=neither)
