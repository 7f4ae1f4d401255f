# SPDX-License-Identifier: GPL-2.0-or-later
"""What every report is made of: one kernel on one machine, and the result of each scenario."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kvmharness.judging.identity import Identity
from kvmharness.judging.session import Session
from kvmharness.judging.verdict import BY_CONTRACTS, JUDGED, MAINLINE, OPEN, Result, Verdict, exit_status
from kvmharness.player import host_state
from kvmharness.printable import printable
from kvmharness.report.about import About


@dataclass(frozen=True, slots=True)
class KernelReport:
    """A kernel as the user named it, the machine it ran on, its release ("" if it never came up).

    `expect` is what it was judged by, `identity` what it behaves as (None where that is not known).
    `notes` are lines worth showing: a lost machine's last words, for one. `ignores_writes` says that its
    KVM ignores writes of the TSC, where it does and a policy that honours them was expected. `host` is what
    the machine was, by name (player/host_state.py), `sessions` what was played of each scenario, as far as
    that is known: what its verdict rests on.
    """

    kernel: str
    machine: str
    release: str
    results: tuple[Result, ...]
    expect: str = MAINLINE.name
    identity: Identity | None = None
    notes: tuple[str, ...] = ()
    ignores_writes: str = ""
    host: Mapping[str, str] = field(default_factory=dict)
    sessions: Mapping[str, Session] = field(default_factory=dict, hash=False)

    @property
    def build_ids(self) -> str:
        """Which builds of KVM's modules were played on; "" where that is not known."""
        return ", ".join(f"{name}.ko {text}" for name, text in host_state.build_ids(self.host).items())

    @property
    def by_contracts(self) -> bool:
        """Whether the contracts alone decide between PASS and FAIL."""
        return self.expect == BY_CONTRACTS.name

    @property
    def title(self) -> str:
        """Kernel and machine, as headings name them."""
        return f"{self.kernel} on {self.machine}"

    @property
    def printable(self) -> "KernelReport":
        """The same with what a machine, a console or a file may have called things made printable."""
        results = [
            replace(each, reason=printable(each.reason), finding=printable(each.finding))
            for each in self.results
        ]
        return replace(
            self,
            kernel=printable(self.kernel),
            release=printable(self.release),
            results=tuple(results),
            notes=tuple(map(printable, self.notes)),
        )

    def counts(self) -> dict[str, int]:
        """How many scenarios have each verdict, in the order of Verdict; those that occur."""
        counter = Counter(result.verdict for result in self.results)
        return {verdict.value: counter[verdict] for verdict in Verdict if counter[verdict]}

    @property
    def judged(self) -> int:
        """How many scenarios were judged."""
        return sum(result.verdict in JUDGED for result in self.results)

    @property
    def left_open(self) -> int:
        """How many should have been judged, and were not."""
        return sum(result.verdict in OPEN for result in self.results)


@dataclass(frozen=True, slots=True)
class Report:
    """A run: the result of each kernel.

    `cut_short` says in words what is missing and why ("" where nothing is), `missing` how many kernels are.
    If `strict`, everything that should have been judged has to be. `about` says which run it was (None where
    nobody knows), `kcidb_build` which build it was of, where a CI system has told kcidb of that itself.
    """

    kernels: tuple[KernelReport, ...]
    cut_short: str = ""
    missing: int = 0
    strict: bool = False
    about: About | None = None
    kcidb_build: str = ""

    @property
    def exit_status(self) -> int:
        """What the run exits with, whatever is missing of it."""
        results = (result for kernel in self.kernels for result in kernel.results)
        return exit_status(results, strict=self.strict)

    @property
    def printable(self) -> "Report":
        """The same with what a machine, a console or a file may have called things made printable."""
        kernels = tuple(each.printable for each in self.kernels)
        return replace(self, kernels=kernels, cut_short=printable(self.cut_short))
