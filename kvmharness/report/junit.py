# SPDX-License-Identifier: GPL-2.0-or-later
"""JUnit's XML, which most CI systems show: a suite for each kernel, a case for each scenario.

A break of a contract that the policy predicts (XFAIL) and what is SKIP or INCONCLUSIVE are skipped cases,
each with its reason; a lost machine is an error.
"""

import io

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from kvmharness.judging.verdict import Result, Verdict
from kvmharness.report import failures
from kvmharness.report.kernel import KernelReport, Report

_SKIPPED = {
    Verdict.SKIP: "",
    Verdict.XFAIL: "XFAIL: the policy predicts that the contract is broken: ",
    Verdict.INCONCLUSIVE: "INCONCLUSIVE: ",
}


def render(report: Report) -> str:
    """The report as one XML document; what a run lacks that was cut short is an error in its own suite."""
    document = JUnitXml("kvmharness")
    for kernel in report.kernels:
        document.append(_suite(kernel))
    if report.cut_short:
        missing = TestSuite("cut short")
        case = TestCase("cut short", classname="kvmharness")
        case.result = [Error(report.cut_short)]
        missing.add_testcase(case)
        document.append(missing)
    document.update_statistics()
    text = io.BytesIO()
    document.write(text)
    return text.getvalue().decode() + "\n"


def _suite(kernel: KernelReport) -> TestSuite:
    suite = TestSuite(kernel.title)
    facts = {"release": kernel.release, "expected": kernel.expect, "build ids": kernel.build_ids}
    facts["behaves as"] = kernel.identity.text if kernel.identity else ""
    facts["notes"] = "; ".join(filter(None, [kernel.ignores_writes, *kernel.notes]))
    for name, value in facts.items():
        if value:
            suite.add_property(name, value)
    for result in kernel.results:
        suite.add_testcase(_case(result, kernel))
    return suite


def _case(result: Result, kernel: KernelReport) -> TestCase:
    case = TestCase(result.scenario, classname=f"kvmharness.{kernel.title}")
    if result.verdict is Verdict.FAIL:
        failure = Failure(failures.heading(result))
        said = failures.pieces(result, kernel.expect)
        failure.text = "\n".join(f"{label}: {text}" for label, text in said if text)
        case.result = [failure]
    elif result.verdict is Verdict.LOST:
        case.result = [Error(result.reason)]
    elif result.verdict in _SKIPPED:
        case.result = [Skipped(_SKIPPED[result.verdict] + result.reason)]
    return case
