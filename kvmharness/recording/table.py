# SPDX-License-Identifier: GPL-2.0-or-later
"""A recording for people: a line a step, times in ms, and what was recognised."""

from collections.abc import Iterator

from kvmharness.printable import printable
from kvmharness.recording.lines import Line, Recording
from kvmharness.recording.replay import Replay, replay
from kvmharness.scenarios.scenario import Scenario

# KVM_EXIT_* by number (include/uapi/linux/kvm.h): those that x86 has.
_EXITS = {
    **{
        0: "unknown",
        1: "exception",
        2: "io",
        3: "hypercall",
        4: "debug",
        5: "hlt",
        6: "mmio",
        7: "irq window",
    },
    **{8: "shutdown", 9: "fail entry", 10: "intr", 11: "set tpr", 12: "tpr access", 16: "nmi"},
    **{17: "internal error", 24: "system event", 26: "ioapic eoi", 27: "hyperv", 29: "rdmsr", 30: "wrmsr"},
    **{31: "dirty ring full", 33: "bus lock", 35: "notify", 37: "memory fault", 9999: "not seen"},
    **{-4: "EINTR", -11: "EAGAIN"},
}
_MP_STATES = ("runnable", "uninitialized", "init received", "halted", "sipi received")
_RUN_KINDS = 4


def text(recording: Recording, scenarios: dict[str, Scenario]) -> str:
    """The whole recording; `scenarios` are those that it is played as."""
    rows: list[str] = []
    for vm in recording.vms():
        rows += _vm(recording, vm)
    for name, scenario in scenarios.items():
        rows += ["", f"Scenario {name}: {scenario.contract}"]
        rows += [f"  {claim.text}" for claim in scenario.claims]
        if "tsc-scaling" in scenario.needs:
            rows.append("  (no claim: its vCPUs do not count at the host's rate)")
    if not recording.end:
        rows += ["", "The recording was cut short: what it holds is whole, its end is not there."]
    if recording.note:
        rows.insert(0, printable(recording.note))
    return "\n".join(rows) + "\n"


def _vm(recording: Recording, vm: int) -> Iterator[str]:
    found = replay(recording, vm)
    lines = found.lines
    threads = len({line.thread for line in lines})
    yield (
        f"VM {vm} of {recording.program(vm) or 'a VMM'}: {len(found.vcpus)} vCPUs, {threads} threads, "
        f"{(lines[-1].ns[1] - lines[0].ns[0]) / 1e6:.1f} ms, {found.khz} kHz"
    )
    if found.ignores_writes:
        yield "This KVM ignored TSC writes: TSCs that were read are the host's, from the VM's creation on."
    if found.unknown:
        yield f"Nothing shows how old these saved TSCs were, 100 s are assumed: {', '.join(found.unknown)}"
    yield f"{'step':>5} {'ms':>10} {'+ms':>9}  thread"
    words, results = _words(found), _Results(found)
    begins = {flow.first: number for number, flow in enumerate(found.flows)}
    ends = {flow.last: number for number, flow in enumerate(found.flows)}
    former = lines[0].ns[0]
    for place, line in enumerate(lines):
        if place in begins:
            yield f"      -- {found.flows[begins[place]].kind} --"
        if line.op != "run":
            at = (line.ns[0] - lines[0].ns[0]) / 1e6
            said = words.get(place) or f"{_plainly(line)} (not replayed)"
            gap = (line.ns[0] - former) / 1e6
            yield f"{place + 1:5} {at:10.3f} {gap:+9.3f}  {line.thread:>6}  {said}{results.of(place)}"
            former = line.ns[0]
        if place in ends:
            yield f"      -- end of {found.flows[ends[place]].kind} --"
    yield ""


def _words(found: Replay) -> dict[int, str]:
    """For each line that is replayed, what its steps do."""
    words: dict[int, list[str]] = {}
    for step in found.steps:
        if step.place is not None:
            words.setdefault(step.place, []).append(step.operation.in_words())
    return {place: ", then ".join(several) for place, several in words.items()}


def _plainly(line: Line) -> str:
    of = "the VM" if line.vcpu is None else f"vCPU {line.vcpu}"
    if line.op == "create_vm":
        return "create a VM"
    if line.op in ("get_msrs", "set_msrs"):
        said = ", ".join(
            f"{name} = {value:#x}" for name, value in line.msrs if value or line.op == "set_msrs"
        )
        return f"{'read' if line.op == 'get_msrs' else 'write'} {said or 'MSRs, all 0,'} of {of}"
    if line.op in ("get_mp_state", "set_mp_state"):
        state = line.values.get("mp_state", len(_MP_STATES))
        name = _MP_STATES[state] if state < len(_MP_STATES) else str(state)
        return f"KVM_{line.op.upper()} of {of}: {name}"
    return f"KVM_{line.op.upper()} of {of}"


class _Results:
    """What each line read, or how it ended."""

    def __init__(self, found: Replay) -> None:
        self._found = found
        self._runs: dict[int, list[Line]] = {}  # that follow an enter, by its place
        self._former: dict[int, int] = {}  # the TSC that was read before
        entered: dict[int | None, int] = {}
        read: int | None = None
        for place, line in enumerate(found.lines):
            if line.op == "enter":
                entered[line.vcpu] = place
            elif line.op == "run" and line.vcpu in entered:
                self._runs.setdefault(entered[line.vcpu], []).append(line)
            elif line.op == "get_msrs" and (tsc := line.msr("TSC")) is not None:
                if read is not None:
                    self._former[place] = read
                read = tsc

    def of(self, place: int) -> str:
        """In words, with what comes before them."""
        line = self._found.lines[place]
        if line.error or line.died:
            return f": {line.error or 'its end was not seen'}"
        if line.op == "enter":
            return self._run(place)
        if line.op == "get_tsc_khz":
            return f": {line.values.get('khz')} kHz"
        if line.op == "get_clock":
            return f": {line.values.get('clock', 0) / 1e6:.3f} ms, flags {line.values.get('flags', 0):#x}"
        return self._tsc(place) if line.op == "get_msrs" else ""

    def _tsc(self, place: int) -> str:
        tsc = self._found.lines[place].msr("TSC")
        if tsc is None:
            return ""
        base = self._found.lines[0].tsc[0] if self._found.ignores_writes else 0
        said = f": {(tsc - base) / self._found.khz:.3f} ms"
        former = self._former.get(place)
        return said if former is None else f"{said} ({(tsc - former) / self._found.khz:+.3f} ms)"

    def _run(self, place: int) -> str:
        """How often a vCPU ran from here to where something else happened, and why it came back."""
        runs, exits = self._runs.get(place, []), dict[int, int]()
        if not runs:
            return ": its end was not seen"
        for line in runs:
            for reason, count in line.exits:
                exits[reason] = exits.get(reason, 0) + count
        often = sorted(exits.items(), key=lambda pair: -pair[1])[:_RUN_KINDS]
        said = ", ".join(f"{count} {_EXITS.get(reason, reason)}" for reason, count in often)
        total = sum(line.values.get("count", 1) for line in runs)
        ms = (runs[-1].ns[1] - self._found.lines[place].ns[0]) / 1e6
        return f": {total} KVM_RUN in {ms:.1f} ms ({said})"
