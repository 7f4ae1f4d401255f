# SPDX-License-Identifier: GPL-2.0-or-later
"""What a step tells of a guest's TSC."""

from collections.abc import Sequence

from kvmharness.script import CreateVcpu, GetMsrs, GuestWrite, Run, SetMsrs, WriteTogether
from kvmharness.trace import Event


def guest_tsc(event: Event) -> int | None:
    """The guest TSC that a step wrote or read, in cycles; None if it did neither."""
    operation = event.operation
    if isinstance(operation, CreateVcpu):
        return 0  # kvm_arch_vcpu_postcreate() writes 0
    if not event.values:
        return None
    if isinstance(operation, WriteTogether):
        written = {*event.values[1::2]}
        return written.pop() if len(written) == 1 else None
    if isinstance(operation, SetMsrs):
        names: Sequence[str] = [name for name, _ in operation.msrs]
    elif isinstance(operation, GetMsrs):
        names = operation.indices
    elif isinstance(operation, GuestWrite) and operation.msr == "TSC":
        return event.values[0]  # what the guest wrote, whether it then had it or not
    elif isinstance(operation, Run | GuestWrite):
        return event.values[-1]
    else:
        names = ()
    return event.values[names.index("TSC")] if "TSC" in names else None
