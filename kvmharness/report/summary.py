# SPDX-License-Identifier: GPL-2.0-or-later
"""What one wants to know first: whether each kernel does what was expected of it, and what it behaves as."""

from collections.abc import Iterator, Sequence

from kvmharness.judging.verdict import JUDGED, Verdict
from kvmharness.report.kernel import KernelReport, Report
from kvmharness.report.lines import wrap


def lines(report: Report, titles: Sequence[str]) -> list[str]:
    """The first lines of a report: what is missing of it, then a verdict on each kernel.

    `titles` is what the report calls each kernel further down.
    """
    found: list[str] = []
    if report.cut_short:
        found += [*wrap(f"CUT SHORT: {report.cut_short}.", "", "  "), ""]
    ignoring = [each for each in report.kernels if each.ignores_writes]
    if ignoring:
        found += [*_no_use(ignoring), ""]
    for kernel, letter in zip(report.kernels, titles, strict=True):
        name = f"{letter} " if letter != kernel.title else ""
        found += wrap(f"{name}{overall(kernel):4}  {sentence(kernel)}", "", " " * (len(name) + 6))
        if kernel.identity and kernel.identity.distinguished_by:
            found += wrap(
                f"({kernel.identity.distinguished_by})", " " * (len(name) + 6), " " * (len(name) + 7)
            )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in found]


def overall(kernel: KernelReport) -> str:
    """FAIL if anything failed, else LOST, else PASS if anything was judged, else NONE."""
    verdicts = {result.verdict for result in kernel.results}
    if Verdict.FAIL in verdicts:
        return "FAIL"
    if Verdict.LOST in verdicts:
        return "LOST"
    return "PASS" if verdicts & JUDGED else "NONE"


def sentence(kernel: KernelReport) -> str:
    """The verdict on a kernel: whether it conforms, how many scenarios say so, and what it behaves as."""
    what = {
        "FAIL": f"does not {'keep' if kernel.by_contracts else 'conform to'} {kernel.expect}",
        "PASS": f"{'keeps' if kernel.by_contracts else 'conforms to'} {kernel.expect}",
        "LOST": "was lost, so nothing is known about the kernel",
        "NONE": "could not be judged, which says nothing about the kernel, good or bad",
    }[overall(kernel)]
    if kernel.ignores_writes and overall(kernel) == "PASS":
        what = "ignores TSC writes; what could be judged conforms to tsc-protected"
    if overall(kernel) == "PASS" and kernel.left_open:
        what += f" as far as could be told, with {kernel.left_open} left open"
    release = f" ({kernel.release})" if kernel.release else ""
    # A count and its verdict stay on one line.
    counts = ", ".join(f"{count}\N{NO-BREAK SPACE}{verdict}" for verdict, count in kernel.counts().items())
    behaves = f" It {kernel.identity.in_short}." if kernel.identity else ""
    judged = f"{kernel.judged} of {len(kernel.results)} judged".replace(" ", "\N{NO-BREAK SPACE}")
    return f"{kernel.title}{release} {what}: {judged}, {counts}.{behaves}"


def _no_use(kernels: Sequence[KernelReport]) -> Iterator[str]:
    """That a KVM ignores writes, and what to do then."""
    names = ", ".join(each.title for each in kernels)
    yield from wrap(
        f"{names}: {kernels[0].ignores_writes}. Such a run does not tell you how the kernel synchronizes "
        "TSCs. Use an emulated machine for that: kvmharness lab run KERNEL (host is this machine's kernel)",
        "",
        "  ",
    )
