# SPDX-License-Identifier: GPL-2.0-or-later
"""A scenario as a test in C: what it needs, its script, what userspace is entitled to."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from kvmharness.contract import Claim
from kvmharness.judging.capabilities import CAPABILITIES, Capability, implied
from kvmharness.judging.probe import PROBES
from kvmharness.reproduce import pieces
from kvmharness.reproduce.calls import Calls
from kvmharness.reproduce.checks import Check, Checks
from kvmharness.reproduce.names import duration, identifier, text, wrapped
from kvmharness.scenarios import Scenario
from kvmharness.script import Operation, Script, to_json

# Found without a VM.
_TWO_CPUS = "two-cpus"


@dataclass(frozen=True, slots=True)
class _Function:
    """The steps of a script and its checks as the body of a function, and the guests that it needs."""

    declarations: str
    steps: tuple[str, ...]
    checks: tuple[Check, ...]
    guests: tuple[str, ...]
    variables: dict[str, str]


@dataclass(frozen=True, slots=True)
class Style:
    """How a test is written: its name, how calls are made, what a guest is in C ("" where that is a piece),
    the headers, how it is built, how main() begins and ends, whether it prints a plan, and what gives a VM
    the memory that it shares with its guests ("" where it has that anyway)."""

    name: str
    calls: Callable[[dict[str, str]], Calls]
    guest: Callable[[str], str]
    includes: Callable[[str], str]
    build: Callable[[str], str]
    begin: tuple[str, ...]
    plan: bool
    end: str
    shares: str


def written(scenario: Scenario, style: Style) -> str:
    """The C file. CannotExpressError where C cannot do what the scenario does."""
    script = _labelled(scenario)
    labels = (scenario.promptly.first, scenario.promptly.last) if scenario.promptly else ()
    main = _function(script, scenario.claims, style, labels)
    needs = implied(scenario.needs)
    wanted = [name for name in (*needs, *scenario.lacks) if name != _TWO_CPUS]
    probes = {name: _probe(CAPABILITIES[name], style) for name in wanted}
    used = dict.fromkeys(guest for each in (*probes.values(), main) for guest in each.guests)
    moves = _TWO_CPUS in needs or any("cpu_after" in step.value_names for step in script)
    stay = "stay_here_of" if moves else "stay_here"
    body = "\n\n".join(
        [
            *filter(None, map(style.guest, used)),
            *(_probe_function(CAPABILITIES[name], each) for name, each in probes.items()),
            _main(scenario, main, needs, stay, style),
        ]
    )
    used_pieces = pieces.used_by(body, style.name)
    if any(style.shares in piece.names for piece in used_pieces):
        body = body.replace("\tcreate_vm();", f"\tcreate_vm();\n\t{style.shares}();")
    own = "\n\n".join(piece.code for piece in used_pieces)
    return f"{_head(scenario, style)}\n{style.includes(own)}\n{own}\n\n{body}\n"


def _labelled(scenario: Scenario) -> Script:
    """The script with a label for each step that creates a vCPU, runs a guest or reads a runstate: checks may
    name those."""
    labels = {step.label for step in scenario.script}
    steps = []
    for number, step in enumerate(scenario.script, 1):
        is_named = step.creates_vcpu or step.enters_guest or "runstate" in step.value_names
        if not step.label and is_named:
            label = next(each for each in (f"step-{number}", f"step-{number}-") if each not in labels)
            steps.append(replace(step, label=label))
        else:
            steps.append(step)
    return tuple(steps)


def _function(script: Script, claims: Sequence[Claim], style: Style, labels: Sequence[str] = ()) -> _Function:
    """What a script and its claims are in C; `labels` are of steps that somebody else wants to name."""
    named = [step.label for step in script if step.label]
    taken = pieces.names(style.name)
    variables = {label: identifier(label, taken) for label in named}
    checks = Checks(script, variables)
    calls = style.calls(variables)
    kept = {label for claim in claims for label in checks.labels(claim)} | {*labels}
    data = [to_json(step) for step in script]
    kept |= {label for each in data for label in _read_by(each)}
    lines = []
    for number, (step, each) in enumerate(zip(script, data, strict=True), 1):
        call = calls.call(each, step.label or f"step {number}")
        lines.append(f"{variables[step.label]} = {call};" if step.label in kept else f"{call};")
    declared = [variables[label] for label in named if label in kept]
    found = tuple(check for claim in claims for check in checks.of(claim))
    return _Function(
        f"struct step {', '.join(declared)};" if declared else "",
        tuple(lines),
        found,
        tuple(calls.guests),
        variables,
    )


def _read_by(data: object) -> list[str]:
    """The labels that values of an operation are read from."""
    if isinstance(data, dict):
        own = [str(data["read"])] if "read" in data else []
        return own + [label for each in data.values() for label in _read_by(each)]
    return [label for each in data for label in _read_by(each)] if isinstance(data, list | tuple) else []


def _probe(capability: Capability, style: Style) -> _Function:
    """The script that shows whether a KVM has a capability."""
    script = PROBES[capability.probe]
    labels = {*capability.claim.labels, capability.asks} - {""}
    last = max(place for place, step in enumerate(script) if step.label in labels)
    steps = script[: last + 1]
    read = {label for step in steps if step.label in labels for label in _read_by(to_json(step))}
    wanted = labels | read | {label for step in steps if step.sets_tsc for label in _read_by(to_json(step))}
    kept, looked = list[Operation](), False
    for step in steps:
        if step.label in wanted:
            looked = looked or not step.creates_vcpu
            kept.append(step)
        elif step.waits_ns:
            kept += [step] if looked else []
        elif step.creates_vcpu or step.sets_tsc or step.enters_guest or _changes(step):
            kept.append(step)
    asks = (capability.asks,) if capability.asks else ()
    return _function(tuple(kept), (capability.claim,), style, asks)


def _changes(step: Operation) -> bool:
    """Whether it changes something that others may read: by its nature, or an MSR or the clock."""
    return not step.value_names or bool({"msrs", "clock"} & {*to_json(step)})


def _has(name: str) -> str:
    return f"has_{name.replace('-', '_')}"


def _probe_function(capability: Capability, probe: _Function) -> str:
    lines = [f"/* {capability.there[0].upper()}{capability.there[1:]}, found by its effect. */"]
    lines += [f"static enum result {_has(capability.name)}(void)", "{"]
    lines += [wrapped(probe.declarations, "\t"), ""] if probe.declarations else []
    lines.append("\tcreate_vm();")
    for line in probe.steps:
        lines.append(wrapped(line, "\t"))
        asked = probe.variables.get(capability.asks, "")
        if asked and line.startswith(f"{asked} = "):
            lines += [f"\tif (is_unknown(&{asked}))", '\t\treturn broken("the kernel does not know it");']
    (_, expression) = probe.checks[0]
    return "\n".join([*lines, _indented(f"return {expression};", "\t"), "}"])


def _main(scenario: Scenario, main: _Function, needs: Sequence[str], stay: str, style: Style) -> str:
    lines = ["int main(void)", "{"]
    lines += [wrapped(main.declarations, "\t"), ""] if main.declarations else []
    lines += [*style.begin, f"\t{stay}();"]
    for name in needs:
        lines.append(wrapped(f"require({_has(name)}(), {text(CAPABILITIES[name].missing)});", "\t"))
    for name in scenario.lacks:
        lines.append(wrapped(f"require_missing({_has(name)}(), {text(CAPABILITIES[name].there)});", "\t"))
    lines += ["", "\tcreate_vm();", *(wrapped(line, "\t") for line in main.steps), ""]
    if scenario.promptly:
        first, last = (main.variables[each] for each in (scenario.promptly.first, scenario.promptly.last))
        within = duration(scenario.promptly.within_ns)
        lines += [f"\tif (held_up(&{first}, &{last}, {within}))", "\t\tskip_all(reason);"]
    if style.plan:
        lines.append(f'\tprintf("1..{len(main.checks)}\\n");')
    for words, expression in main.checks:
        told = expression.replace("\n\t", "\n\t\t").replace("\n}", "\n\t}")
        lines.append(_indented(f"report({text(words)},\n\t{told});", "\t"))
    return "\n".join([*lines, f"\t{style.end}", "}"])


def _indented(code: str, indent: str) -> str:
    """A statement of several lines, each with the tabs that it has and those of `indent`."""
    lines = [(line, len(line) - len(line.lstrip("\t"))) for line in code.split("\n")]
    return "\n".join(wrapped(line[tabs:], indent + "\t" * tabs) for line, tabs in lines)


def _head(scenario: Scenario, style: Style) -> str:
    """The comment at the beginning: what it tests, why that matters, how to run it."""
    name = scenario.name
    blocks = [f"{name}: {scenario.contract}"]
    if scenario.source:
        blocks.append(f"Source: {scenario.source}.")
    if scenario.consequence:
        blocks.append(f"Where it is broken: {scenario.consequence}")
    blocks += [
        style.build(name),
        "Each operation is made between two readings of the host's TSC and clock. Those brackets are the "
        "only tolerance: a test that was held up skips, and does not fail.",
    ]
    lines = "\n *\n".join("\n".join(f" * {line}" for line in textwrap.wrap(each, 92)) for each in blocks)
    return f"// SPDX-License-Identifier: GPL-2.0\n/*\n{lines}\n */".replace("*/ ", "* / ")
