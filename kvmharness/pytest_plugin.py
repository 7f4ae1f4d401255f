# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures for pytest: scenarios held on this host's KVM and on kernels in the lab (docs/pytest.md).

pytest loads this file wherever kvmharness is installed. It imports nothing of the package, and does nothing,
until a test asks for one of its fixtures.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from kvmharness import JudgedRun, Policy, Result, Scenario, System
    from kvmharness.kvm import Vm
    from kvmharness.trace import Trace

    Asked = str | Path | Scenario

_MARKER = "kvm_kernels"
_FIXTURE = "kvm_kernel"
_MACHINE = "amd"
_FILES = (".jsonl", ".json", ".toml")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The command line's options, and the same in pytest's file of settings."""
    group = parser.getgroup("kvmharness", "kvmharness: kernels and their KVM")
    group.addoption(
        "--kvm-kernel",
        action="append",
        default=[],
        metavar="KERNEL",
        help="play on this kernel (debian:6.1, a built tree, ...) whatever a test's mark says; repeatable",
    )
    group.addoption(
        "--kvm-machine",
        action="append",
        default=[],
        metavar="NAME",
        help="play on this emulated machine (kvmharness list machines); repeatable",
    )
    group.addoption("--kvm-traces", metavar="DIR", help="keep what was played in DIR, for kvmharness judge")


def pytest_configure(config: pytest.Config) -> None:
    """Name the mark, for --strict-markers."""
    config.addinivalue_line(
        "markers",
        f"{_MARKER}(*kernels, machines=('{_MACHINE}',)): the kernels and the emulated machines that the "
        f"fixture {_FIXTURE} stands for, one after the other",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test for each kernel and machine, where the fixture for kernels is asked for."""
    if _FIXTURE not in metafunc.fixturenames:
        return
    mark = metafunc.definition.get_closest_marker(_MARKER)
    kernels = metafunc.config.getoption("--kvm-kernel") or (mark.args if mark else ())
    of_mark = mark.kwargs.get("machines", (_MACHINE,)) if mark else (_MACHINE,)
    machines = metafunc.config.getoption("--kvm-machine") or of_mark
    if not kernels:
        raise pytest.UsageError(
            f"{metafunc.definition.nodeid}: no kernel to play on: mark it with "
            f'@pytest.mark.{_MARKER}("debian:6.1", ...), or give --kvm-kernel'
        )
    pairs = [(str(kernel), str(machine)) for kernel in kernels for machine in machines]
    ids = [kernel if len(machines) == 1 else f"{kernel}-{machine}" for kernel, machine in pairs]
    metafunc.parametrize(_FIXTURE, pairs, ids=ids, indirect=True)


class Kernel:
    """A kernel that a test plays scenarios on: this host's, or one in the lab.

    A scenario is a `Scenario`, one of the catalogue by its name, the path of a file of scenarios or of a
    recording, or the name of a recording that comes with kvmharness. What was played is attached to the
    test's report if the test fails.
    """

    def __init__(
        self,
        spec: str,
        machine: str,
        play: Callable[[Sequence[Scenario], str | Policy | None], JudgedRun],
        traces: Path | None = None,
    ) -> None:
        self.spec = spec
        self.machine = machine
        self.played: list[JudgedRun] = []
        self._play = play
        self._traces = traces

    def __repr__(self) -> str:
        return f"<{self.spec} on {self.machine}>"

    def run(self, *scenarios: Asked, expect: str | Policy | None = None) -> JudgedRun:
        """Play these and judge them by a policy; without any, by their contracts alone."""
        wanted = [each for asked in scenarios for each in _scenarios(asked)]
        found = self._play(wanted, expect)
        self.played.append(found)
        if self._traces:
            found.save(self._traces)
        return found

    def keeps(self, scenario: Asked) -> list[Result]:
        """Assert that the contract is kept; of a file with several scenarios, each one's.

        The test is skipped where this KVM lacks what the contract needs, and where the measurement was not
        good enough to judge it.
        """
        __tracebackhide__ = True
        return self._assert(self.run(scenario))

    def follows(self, scenario: Asked, policy: str | Policy) -> list[Result]:
        """Assert that the kernel does what the policy says, whether or not the contract is kept by that."""
        __tracebackhide__ = True
        return self._assert(self.run(scenario, expect=policy))

    def _assert(self, run: JudgedRun) -> list[Result]:
        __tracebackhide__ = True
        said = {
            each: f"{each.scenario} {each.verdict.value} on {self.spec} ({self.machine}): "
            f"{_lacking(run, each)}{each.reason}"
            for each in run.results
        }
        failed = [text for each, text in said.items() if each.verdict.value in ("FAIL", "LOST")]
        if failed:
            pytest.fail("\n".join(failed), pytrace=False)
        unjudged = [text for each, text in said.items() if each.verdict.value not in ("PASS", "XFAIL")]
        if unjudged:
            pytest.skip("; ".join(unjudged))
        return list(run.results)


@pytest.fixture
def kvm_system() -> Iterator[System]:
    """This host's /dev/kvm. The test is skipped where it does not open."""
    from kvmharness import KvmUnavailableError, System  # noqa: PLC0415

    try:
        opened = System()
    except KvmUnavailableError as error:
        pytest.skip(f"missing capability /dev/kvm: {error}")
    with opened:
        yield opened


@pytest.fixture
def kvm_vm(kvm_system: System) -> Iterator[Vm]:
    """A new VM on this host's KVM, without vCPUs and memory; given back when the test ends."""
    with kvm_system.create_vm() as created:
        yield created


@pytest.fixture
def kvm_host(request: pytest.FixtureRequest) -> Kernel:
    """This host's own kernel, to play scenarios on. The test is skipped where /dev/kvm does not open."""
    from kvmharness import KvmUnavailableError, run_on_host  # noqa: PLC0415

    def play(scenarios: Sequence[Scenario], expect: str | Policy | None) -> JudgedRun:
        try:
            return run_on_host(scenarios, expect)
        except KvmUnavailableError as error:
            pytest.skip(f"missing capability /dev/kvm: {error}")

    return _to_be_shown(request, Kernel("host", "/dev/kvm", play, _traces(request)))


@pytest.fixture
def kvm_kernel(request: pytest.FixtureRequest) -> Kernel:
    """A kernel in the lab: each of those that the mark kvm_kernels names, on each of its machines.

    The test is skipped where the emulator is not installed, or no mirror can be reached.
    """
    from kvmharness import LabError, run_in_lab  # noqa: PLC0415
    from kvmharness.lab import kernels  # noqa: PLC0415
    from kvmharness.lab.kernels.packages import NoAnswerError  # noqa: PLC0415
    from kvmharness.lab.machines.catalogue import MACHINES  # noqa: PLC0415
    from kvmharness.lab.machines.machine import check_emulator  # noqa: PLC0415

    spec, machine = request.param
    if machine not in MACHINES:
        raise pytest.UsageError(f"no machine is called {machine!r}: there is {', '.join(MACHINES)}")
    try:
        check_emulator(MACHINES[machine])
    except LabError as error:
        pytest.skip(f"missing capability lab: {error}")
    try:
        kernels.find(spec)
    except NoAnswerError as error:
        pytest.skip(f"missing capability {spec}: {error}")

    def play(scenarios: Sequence[Scenario], expect: str | Policy | None) -> JudgedRun:
        return run_in_lab(spec, scenarios, machine=machine, expect=expect)

    return _to_be_shown(request, Kernel(spec, machine, play, _traces(request)))


_PLAYED = pytest.StashKey[list[Kernel]]()


def _to_be_shown(request: pytest.FixtureRequest, kernel: Kernel) -> Kernel:
    request.node.stash.setdefault(_PLAYED, []).append(kernel)
    return kernel


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach what was played to the report of a test that failed."""
    report = yield
    if call.when == "call" and report.failed:
        for kernel in item.stash.get(_PLAYED, []):
            title = f"kvmharness on {kernel.spec} ({kernel.machine})"
            report.sections += [(title, _shown(run)) for run in kernel.played]
    return report


def _traces(request: pytest.FixtureRequest) -> Path | None:
    """Where what is played is kept."""
    folder = request.config.getoption("--kvm-traces")
    return Path(folder) if folder else None


def _scenarios(asked: Asked) -> list[Scenario]:
    """What a test asked for; of a recording the scenario of each VM."""
    from kvmharness import SCENARIOS, Scenario  # noqa: PLC0415
    from kvmharness.cli import options  # noqa: PLC0415
    from kvmharness.cli.errors import UsageError  # noqa: PLC0415
    from kvmharness.recording import vmms  # noqa: PLC0415

    if isinstance(asked, Scenario):
        return [asked]
    recorded = asked in vmms.names() and asked not in SCENARIOS
    is_file = isinstance(asked, Path) or asked.endswith(_FILES) or recorded
    try:
        return options.pick_scenarios([], [Path(asked)]) if is_file else options.pick_scenarios([str(asked)])
    except UsageError as error:
        pytest.fail(str(error), pytrace=False)


def _lacking(run: JudgedRun, result: Result) -> str:
    """The capabilities that the KVM lacks for a scenario, by name."""
    from kvmharness.judging import capabilities  # noqa: PLC0415

    session = run.sessions.get(result.scenario)
    needs = next((each.needs for each in run.scenarios if each.name == result.scenario), ())
    if session is None or result.verdict.value != "SKIP":
        return ""
    found = capabilities.findings(session.probe)
    missing = [name for name in capabilities.implied(needs) if found[name].status.value != "kept"]
    return f"missing capability {' and '.join(missing)}: " if missing else ""


def _shown(run: JudgedRun) -> str:
    """The report of a run, and each scenario's trace, step by step."""
    traces = [_steps(run.trace(name)) for name in run.sessions]
    return "\n".join([run.report(verbose=True), *traces])


def _steps(trace: Trace) -> str:
    """A trace as lines: the step, what was done, what was read or written there, and when (host's TSC)."""
    lines = [f"trace of {trace.scenario} on {trace.release}:"]
    for number, event in enumerate(trace.events, 1):
        bracket = event.bracket
        when = f"at TSC {bracket.tsc_before} to {bracket.tsc_after}"
        found = " ".join(filter(None, [event.error, *map(str, event.values), when]))
        lines.append(f"{number:4}  {event.operation.in_words()}: {found}")
    return "\n".join(lines)
