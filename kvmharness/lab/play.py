# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays inside lab machines; a machine that is lost is booted again, and given up the third time."""

import hashlib
import logging
import marshal
import math
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kvmharness import trace
from kvmharness.judging.probe import PROBES
from kvmharness.judging.session import LostError, Session, rounds
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import console, initramfs, machine, results, snapshot
from kvmharness.lab.machines.machine import Boot, Machine
from kvmharness.lab.machines.snapshot import Snapshot
from kvmharness.lab.parcels import SYSTEM
from kvmharness.printable import plain
from kvmharness.scenarios import Scenario
from kvmharness.trace import Place, Trace, TraceError

_LOG = logging.getLogger(__name__)

ATTEMPTS = 3
# As many scenarios as there are share a machine; half the catalogue, which two cores play in half the time.
MOST_TOGETHER = 110


class LostMachineError(LostError):
    """Every attempt lost the machine. `complaint` says how the last one went, `console` its last lines."""

    def __init__(self, complaint: str, console: list[str]) -> None:
        super().__init__(complaint)
        self.complaint = complaint
        self.console = console

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker of a cluster hands it over.
        return type(self), (self.complaint, self.console)


class CrashError(LostMachineError):
    """A boot lost the machine while `scenario` was played. `fault` is what the kernel reported of itself
    (None: nothing)."""

    def __init__(
        self, complaint: str, console: list[str], scenario: str, fault: console.Remark | None
    ) -> None:
        super().__init__(complaint, console)
        self.scenario = scenario
        self.fault = fault

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.complaint, self.console, self.scenario, self.fault)


@dataclass(frozen=True, slots=True)
class Job:
    """A job's number, its content as a machine gets it, and its scripts by name, as JSON."""

    number: str
    content: bytes
    scripts: dict[str, list[dict[str, object]]]


def job_for(scenarios: Sequence[Scenario], *, with_probe: bool = True) -> Job:
    """The probe and these scenarios as a job.

    The number is made of the content, so that equal jobs are equal to the byte.
    """
    in_rounds = rounds(scenarios)[0 if with_probe else 1 :]
    number = hashlib.sha256(marshal.dumps(in_rounds)).hexdigest()[:16]
    scripts = {name: script for together in in_rounds for name, script in together}
    return Job(number, marshal.dumps((number, in_rounds)), scripts)


def parts_of(scenarios: Sequence[Scenario], on: Machine) -> list[Sequence[Scenario]]:
    """The scenarios as they are played, each part in a machine of its own.

    The parts depend on nothing that another host or `--jobs` may change, so that what is played together is
    the same everywhere. A machine without snapshots would have to boot for each, and in real time machines
    that run beside each other hold each other up.
    """
    if not (on.counts_instructions and on.emulator.keeps_snapshots):
        return [scenarios]
    count = max(1, math.ceil(len(scenarios) / MOST_TOGETHER))
    return [scenarios[number::count] for number in range(count)]


def image_for(kernel: Kernel, on: Machine) -> bytes:
    """The initial file system of a lab run, without its job."""
    modules = b"" if on.loads_modules_later else initramfs.modules(modules_for(kernel, on))
    sent = kernel.folder / SYSTEM
    system = sent.read_bytes() if sent.exists() else initramfs.base() + initramfs.python()
    return system + modules


def modules_for(kernel: Kernel, on: Machine) -> dict[str, bytes]:
    """KVM's modules and what they need, by file name, in the order in which they load."""
    paths = kernel.modules_for(on.vendor_module)
    return {path.name: initramfs.untraced(path.read_bytes()) for path in paths}


def play(kernel: Kernel, on: Machine, scenarios: Sequence[Scenario]) -> Session:
    """Play the probe and the scenarios in machines of this kernel, bring the traces back.

    Where the machine can, it goes on from a snapshot of an earlier boot; all builds of a kernel's modules go
    on from the same one. Many scenarios are played in several machines, beside each other as far as
    `on.slots` has room. LostMachineError when no attempt came to its end: CrashError already of the first
    boot that was lost while a scenario was played, unless the emulator was killed by others. LabError when
    the kernel lacks what the machine needs.
    """
    on = on.loading_modules_later if kernel.is_built else on
    image = image_for(kernel, on)
    modules = modules_for(kernel, on) if on.loads_modules_later else {}
    place = on.snapshot_place(kernel.vmlinux, image)
    kept = snapshot.load(place) if place else None
    _LOG.debug("%s on %s: %s", kernel.spec, on.name, "goes on from a snapshot" if kept else "boots")
    # A machine whose time is the host's sleeps in earnest, and says nothing meanwhile.
    longest_ns = max((sum(step.waits_ns for step in each.script) for each in scenarios), default=0)
    on = replace(on, hang_after_s=on.hang_after_s + longest_ns / 1e9)
    ready = _Ready(kernel, on, image, modules, place)
    here = _place(kernel, on, job_for(scenarios))
    first, *others = parts_of(scenarios, on)
    if others and kept is None:
        # The others go on from what the first one leaves.
        played = [ready.play(first, None)]
        kept = played[0].left
    else:
        others, played = [first, *others], []
    played += _beside_each_other(ready, others, kept, with_probe=not played)
    order = {name: number for number, name in enumerate([*PROBES, *(each.name for each in scenarios)])}
    traces = [replace(trace, place=here) for each in played for trace in each.traces]
    notes = dict.fromkeys(note for each in played for note in each.warnings)
    session = Session.of(sorted(traces, key=lambda each: order[each.scenario]), tuple(notes))
    check_parameters(kernel.spec, on, session.probe.host)
    return session


# What a parameter that is a yes or no reads as, by what may be written.
_SWITCHES = {"0": "N", "n": "N", "1": "Y", "y": "Y"}


def check_parameters(spec: str, on: Machine, facts: Mapping[str, str]) -> None:
    """LabError unless KVM's modules have the parameters that the machine asks for, by `facts` of the host."""
    for parameter in on.parameters:
        name, _, value = parameter.partition("=")
        if name not in facts:
            raise LabError(f"{spec} on {on.name}: no module of its KVM shows a parameter {name}")
        if facts[name] not in (value, _SWITCHES.get(value.lower())):
            raise LabError(f"{spec} on {on.name}: {name} is {facts[name]}, though {value} was asked for")


@dataclass(frozen=True, slots=True)
class _Part:
    """What was played in one machine: the traces, the kernel's warnings, a snapshot if one was left."""

    traces: Sequence[Trace]
    warnings: tuple[str, ...]
    left: Snapshot | None


@dataclass(frozen=True, slots=True)
class _Ready:
    """All that is needed to play on a kernel. `place` is where its snapshot is kept (None: nowhere)."""

    kernel: Kernel
    on: Machine
    image: bytes
    modules: Mapping[str, bytes]
    place: Path | None

    def play(self, scenarios: Sequence[Scenario], kept: Snapshot | None, *, with_probe: bool = True) -> _Part:
        """Play these in one machine; see play()."""
        job, on, place = job_for(scenarios, with_probe=with_probe), self.on, self.place
        doubted: Path | None = None
        for attempt in range(1, ATTEMPTS + 1):
            with on.slots or nullcontext():
                boot = machine.boot(
                    *(on, self.kernel.vmlinux, self.image, job.content, kept), modules=self.modules
                )
            try:
                traces = _read(job, boot)
                if place and boot.snapshot:
                    snapshot.keep(place, boot.snapshot)
                if doubted:
                    snapshot.forget(doubted)
                break
            except results.BrokenResultError as error:
                _LOG.debug("%s on %s: attempt %d was lost: %s", self.kernel.spec, on.name, attempt, error)
                words, during = console.last_words(boot.console), _played_last(job, scenarios, boot)
                if place:
                    # Whatever it was, it cannot be a snapshot a second time. One that serves other modules
                    # too is to blame only if a boot with these goes well.
                    if self.modules:
                        doubted = place
                    else:
                        snapshot.forget(place)
                    on, place, kept = on.without_snapshots, None, None
                elif during:
                    raise CrashError(str(error), words, during, console.worst(boot.console)) from None
                if attempt == ATTEMPTS:
                    raise LostMachineError(f"{error}, {ATTEMPTS} times", words) from None
        return _Part(traces, console.warnings(boot.console), boot.snapshot)


def _beside_each_other(
    ready: _Ready, parts: Sequence[Sequence[Scenario]], kept: Snapshot | None, *, with_probe: bool
) -> list[_Part]:
    """Play the parts, the probe with the first of them; the trouble of the first that has one is raised."""
    if len(parts) == 1 or ready.on.slots is None:
        return [ready.play(each, kept, with_probe=with_probe and each is parts[0]) for each in parts]
    own_stop = threading.Event()
    stoppable = ready if ready.on.stop else replace(ready, on=replace(ready.on, stop=own_stop))
    with ThreadPoolExecutor(max_workers=len(parts)) as pool:
        futures = [
            pool.submit(stoppable.play, each, kept, with_probe=with_probe and each is parts[0])
            for each in parts
        ]
        try:
            return [each.result() for each in futures]
        except BaseException:
            own_stop.set()
            raise


def _place(kernel: Kernel, on: Machine, job: Job) -> Place:
    """Where a job is played. Where time is the host's, no two sessions are the same."""
    session = job.number if on.counts_instructions else f"{job.number}.{os.urandom(4).hex()}"
    known = on.may_protect_tscs, on.counts_instructions, on.keeps_tsc_stable
    return Place(plain(kernel.spec), on.name, session, *known)


def _read(job: Job, boot: Boot) -> list[Trace]:
    """The traces of a boot; BrokenResultError unless it went well in every respect."""
    fault = console.worst(boot.console)
    if boot.complaint or fault:
        raise results.BrokenResultError(_complaint(boot, fault))
    try:
        traces = [trace_of(job, *content) for content in results.decode(job.number, boot.results)]
    except (TraceError, TypeError, ValueError, KeyError) as error:
        raise results.BrokenResultError(f"the result makes no sense: {error}") from None
    names = [each.scenario for each in traces]
    if len(set(names)) < len(names):
        raise results.BrokenResultError("the result holds a script twice")
    missing = job.scripts.keys() - set(names)
    if missing:
        raise results.BrokenResultError(f"the result lacks {', '.join(sorted(missing))}")
    return traces


def _played_last(job: Job, scenarios: Sequence[Scenario], boot: Boot) -> str:
    """The scenario that was played when a boot was lost; "" where it was lost before any or after all, was
    only misunderstood, or was ended by somebody else."""
    script = console.playing(boot.console)
    lost = boot.complaint or console.worst(boot.console)
    killed = boot.status is not None and boot.status < 0
    if not lost or killed or script not in [each.name for each in scenarios]:
        return ""
    try:
        for _ in results.decode(job.number, boot.results):
            pass
    except results.BrokenResultError:
        return script
    return ""


def trace_of(job: Job, *told: Any) -> Trace:
    """A trace from what a machine says: a script's name, the kernel's release, when the VM was created, the
    script's steps, and facts of the machine. It leaves out what the steps were asked to be.

    TraceError, TypeError, ValueError or KeyError where that makes no sense.
    """
    name, release, created, steps, facts = told
    if type(name) is not str or type(release) is not str or type(steps) is not list:
        raise ValueError("expected a name, a release and steps")
    script = job.scripts[name][: len(steps)]
    played = [{**step, "op": op} for op, step in zip(script, steps, strict=True)]
    return trace.from_played(name, release, played, host=facts, created=created)


def _complaint(boot: Boot, fault: console.Remark | None) -> str:
    """Why a boot was no good one: the kernel's own word for it where there is one."""
    if fault:
        return fault.text
    if not boot.console.strip():
        return f"{boot.complaint}; its console said nothing at all"
    script = console.playing(boot.console)
    return f"{boot.complaint}, during {script}" if script else boot.complaint
