"""A rule as code, for --policy-file (policies.md): no key asks what was written to a vCPU before."""

from kvmharness.rule import Decision, Rule, Write

Written = frozenset[int] | None


class FirstWriteSnaps(Rule):
    """Only the first TSC that userspace writes to a vCPU can snap; every later one takes effect."""

    name = "first-write-snaps"
    like = "mainline-before-6.7"

    def kvm_synchronize_tsc(self, write: Write, memory: Written, otherwise: Decision) -> Decision:
        """A vCPU that userspace has written does not snap."""
        return False if _counts(write) and write.vcpu in (memory or ()) else otherwise

    def remember(self, write: Write, memory: Written, snapped: bool) -> Written:
        """The vCPUs that userspace has written."""
        return (memory or frozenset()) | {write.vcpu} if _counts(write) else memory


def _counts(write: Write) -> bool:
    return write.by_user and not write.is_zero
