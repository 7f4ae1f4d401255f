# SPDX-License-Identifier: GPL-2.0-or-later
"""What userspace is entitled to in a recording, by what was recognised in it: claims for each flow.

start               the vCPUs count together
reset               they count from what the reset wrote, together; after a second reset within a second of
                    the first (SeaBIOS makes two) together alone
restore             they continue from what was saved, together
hotplug             the new vCPU counts together with the others, and they continue undisturbed
stop and continue   the TSCs continue as if there had been no stop

They speak of vCPUs at the host's rate: of others they say nothing.
"""

from collections.abc import Sequence

from kvmharness.contract import TOGETHER_NS, Claim, OffsetClaim
from kvmharness.recording.flows import CONTINUE, HOTPLUG, RESET, RESTORE, START, Flow, put
from kvmharness.recording.replay import Replay

SENTENCES = {
    START: "vCPUs that are started together count together",
    RESET: "vCPUs that are reset count from what the reset wrote, together",
    RESTORE: "vCPUs that are restored continue from what was saved, together",
    HOTPLUG: "a vCPU that is added counts together with the others, which continue undisturbed",
    CONTINUE: "TSCs continue through a stop as though there had been none",
}

# Within so much of what it expects KVM treats a write as a request to synchronize (kvm_synchronize_tsc).
_WINDOW_NS = 1_000_000_000
# How much later than recorded a step may come before the window is another: then nothing is said.
_SPARE = 0.95
# How far apart the TSCs of one timeline may be, for having been saved one after the other (QEMU's: 194 us).
_SKEW_NS = 500_000


def sentence(flows: Sequence[Flow]) -> str:
    """What a VM with these flows is entitled to, as one sentence."""
    kinds = dict.fromkeys(flow.kind for flow in flows)
    text = "; ".join(SENTENCES[kind] for kind in kinds) or "nothing was recognised"
    return f"In this order: {text}."


def claims(found: Replay) -> tuple[Claim, ...]:
    """The claims on a VM's script, flow by flow."""
    if found.scaled:
        return ()
    made: list[Claim] = []
    for number, flow in enumerate(found.flows):
        made += _CLAIMS[flow.kind](_Flow(found, number, flow))
    return tuple(made)


class _Flow:
    """A flow with what reads its vCPUs before and after it."""

    def __init__(self, found: Replay, number: int, flow: Flow) -> None:
        self.found, self.flow = found, flow
        self.follows = found.flows[number - 1].kind if number else ""
        self.before = found.before.get(number, {})
        self.after = found.after.get(number, {})
        numbers = [found.vcpus[vcpu] for vcpu in flow.vcpus if flow.puts[vcpu] in found.labels]
        self.vcpus = [number for number in numbers if number in self.after]
        self.name = f"{flow.kind}, steps {flow.first + 1} to {flow.last + 1}"

    def write(self, vcpu: int) -> str:
        """The label of the last write to a vCPU."""
        (place,) = [at for each, at in self.flow.puts.items() if self.found.vcpus.get(each) == vcpu]
        return self.found.labels.get(place, "")

    def together(self) -> list[Claim]:
        """All vCPUs that it writes count like the first of them."""
        if not self.vcpus:
            return []
        first, *others = self.vcpus
        return [
            OffsetClaim(
                text=f"vCPU {vcpu} counts together with vCPU {first} ({self.name})",
                seen=self.after[vcpu],
                expected=self.after[first],
                instead=self.write(vcpu),
                otherwise="it was given a TSC of its own",
                together=self._prompt(self.write(first), self.write(vcpu)),
            )
            for vcpu in others
        ]

    def _prompt(self, first: str, last: str) -> tuple[str, ...]:
        return (first, last) if first and last and first != last else ()

    def goes_on(self, vcpu: int, text: str) -> Claim:
        """A vCPU continues from what was written to it."""
        before = self.before.get(vcpu, ())
        former = self.put_before(vcpu)
        return OffsetClaim(
            text=f"vCPU {vcpu} continues from {text} ({self.name})",
            seen=self.after[vcpu],
            expected=(self.write(vcpu),),
            instead=before[-1] if before else "",
            otherwise="it still counts as before",
            together=self._prompt(former, self.write(vcpu)) if former else (),
            within_ns=int(_WINDOW_NS * _SPARE) if former else TOGETHER_NS,
        )

    def put_before(self, vcpu: int) -> str:
        """The label of the last write before the flow, if KVM still measures by it: what follows may be a
        request to synchronize, and has to come as soon as in the recording. Else ""."""
        lines = self.found.lines
        (place,) = [at for each, at in self.flow.puts.items() if self.found.vcpus.get(each) == vcpu]
        former = [at for at in self.found.labels if at < self.flow.first and put(lines[at]) is not None]
        if not former or lines[place].ns[1] - lines[max(former)].ns[0] >= _WINDOW_NS * _SPARE:
            return ""
        return self.found.labels[max(former)]


def _start(flow: _Flow) -> list[Claim]:
    return flow.together()


def _reset(flow: _Flow) -> list[Claim]:
    if not flow.vcpus or (flow.follows == RESET and flow.put_before(flow.vcpus[0])):
        return flow.together()
    return [flow.goes_on(flow.vcpus[0], "what the reset wrote"), *flow.together()]


def _restore(flow: _Flow) -> list[Claim]:
    if not flow.vcpus:
        return []
    saved = "what was saved"
    if flow.flow.by_offset or not _one_timeline(flow):
        return [flow.goes_on(vcpu, saved) for vcpu in flow.vcpus]
    return [flow.goes_on(flow.vcpus[0], saved), *flow.together()]


def _hotplug(flow: _Flow) -> list[Claim]:
    there = [vcpu for vcpu in flow.before if vcpu not in flow.vcpus]
    if not there:
        return flow.together()
    made: list[Claim] = [
        OffsetClaim(
            text=f"vCPU {there[0]} continues as before ({flow.name})",
            seen=flow.after[there[0]],
            expected=flow.before[there[0]],
        )
    ]
    for vcpu in flow.vcpus:
        made.append(
            OffsetClaim(
                text=f"vCPU {vcpu} counts together with vCPU {there[0]} ({flow.name})",
                seen=flow.after[vcpu],
                expected=flow.after[there[0]],
                instead=flow.write(vcpu),
                otherwise="it was given a TSC of its own",
            )
        )
    return made


def _continue(flow: _Flow) -> list[Claim]:
    return [
        OffsetClaim(
            text=f"vCPU {vcpu} continues through the stop ({flow.name})",
            seen=flow.after[vcpu],
            expected=flow.before[vcpu],
        )
        for vcpu in flow.before
        if vcpu in flow.after
    ]


_CLAIMS = {START: _start, RESET: _reset, RESTORE: _restore, HOTPLUG: _hotplug, CONTINUE: _continue}


def _one_timeline(flow: _Flow) -> bool:
    """Whether the saved TSCs are those of vCPUs that counted together, by how far apart they were saved."""
    lines, khz = flow.found.lines, flow.found.khz
    offsets = []
    for place in flow.flow.puts.values():
        value, line = put(lines[place]) or 0, lines[place]
        offsets.append(value - line.tsc[0])
    return (max(offsets) - min(offsets)) * 1_000_000 // khz <= _SKEW_NS
