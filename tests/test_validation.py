# SPDX-License-Identifier: GPL-2.0-or-later
"""What a patch changes, as it is told in a mail."""

import shlex
from dataclasses import replace

from kvmharness.judging.difference import Comparison, Difference
from kvmharness.judging.identity import Identity
from kvmharness.judging.verdict import Result, Verdict
from kvmharness.report import KernelReport
from kvmharness.report.validation import WIDTH, Validation, render

COMMAND = ["kvmharness", "lab", "validate", "debian:6.1", "--patch", "a long name with blanks in it.patch"]


def result(name: str, verdict: Verdict, kept: bool | None, conforms: bool | None = True) -> Result:
    reason = "" if verdict is Verdict.PASS else "the offset is not what it had to be"
    return Result(name, verdict, f"{name} is kept.", reason, 3, kept, conforms)


def report(*results: Result, kernel: str = "debian:6.1", behaves_as: str = "") -> KernelReport:
    identity = Identity((behaves_as,)) if behaves_as else None
    return KernelReport(kernel, "amd-smp", "6.1.0-9-cloud-amd64", results, "oliver-upton", identity)


BEFORE = report(
    result("young-restore", Verdict.FAIL, False, False),
    result("old-restore", Verdict.PASS, True),
    result("pair", Verdict.PASS, True),
    result("one-by-one", Verdict.XFAIL, False),
    result("scaling", Verdict.SKIP, None, None),
    behaves_as="mainline-before-6.7",
)
AFTER = report(
    result("young-restore", Verdict.PASS, True),
    result("old-restore", Verdict.PASS, True),
    result("pair", Verdict.XFAIL, False),
    result("one-by-one", Verdict.XFAIL, False),
    result("scaling", Verdict.SKIP, None, None),
    kernel="built:a",
    behaves_as="oliver-upton",
)


def told(before: KernelReport, after: KernelReport) -> str:
    return render([Validation(before, after)], ["a.patch"], COMMAND)


def test_what_a_patch_fixes_and_breaks_is_told_before_and_after() -> None:
    text = told(BEFORE, AFTER)
    rows = [line.split() for line in text.splitlines()]
    assert ["young-restore", "broken", "kept", "yes"] in rows
    assert ["pair", "kept", "broken", "yes"] in rows
    assert "contracts fixed by the patch: young-restore\n" in text
    assert "contracts broken by the patch: pair\n" in text
    assert "    young-restore is kept.\n" in text
    assert "the same before and after: 1 kept, 1 broken, 1 skip\n" in text
    assert "not tested (1): the offset is not what it had to be\n" in text
    assert "old-restore" not in text
    assert "before: behaves as mainline-before-6.7\n" in text
    assert "after: behaves as oliver-upton\n" in text
    assert "follows oliver-upton in all 4 scenarios that could be judged\n" in text


def test_the_text_says_by_what_it_was_tested_and_a_contract_has_one_line() -> None:
    long = replace(AFTER.results[2], contract="a word " * 30)
    validation = Validation(BEFORE, replace(AFTER, results=(long,)))
    text = render([validation], ["a.patch"], COMMAND, means=["By kvmharness 1, QEMU 2", "Level: emulated"])
    assert "\nBy kvmharness 1, QEMU 2\nLevel: emulated\n\nTo reproduce:" in text
    shortened = [line for line in text.splitlines() if line.startswith("    a word")]
    assert len(shortened) == 1
    assert shortened[0].endswith("word a ...")
    assert len(shortened[0]) <= WIDTH


def test_the_text_is_fit_for_a_mail_and_leaves_a_line_to_sign() -> None:
    text = told(BEFORE, AFTER)
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert "debian:6.1 (6.1.0-9-cloud-amd64), emulated machine amd-smp\n" in text
    _, _, last = text.partition("To reproduce:\n")
    command, _, signature = last.partition("\n\n")
    assert shlex.split(command.replace("\\\n", "")) == COMMAND
    assert signature == "Tested-by:\n"


def test_a_patch_that_does_not_do_what_its_policy_says_is_told_with_the_step() -> None:
    wrong = report(*AFTER.results[1:], result("young-restore", Verdict.FAIL, True, False))
    text = told(BEFORE, wrong)
    assert ["young-restore", "broken", "kept", "NO"] in [line.split() for line in text.splitlines()]
    assert "does not follow oliver-upton: young-restore\n" in text
    assert "FAIL young-restore, step 3\n" in text
    assert "  reason:          the offset is not what it had to be\n" in text
    assert "after: nothing is known of what it behaves as\n" in text


def test_a_patch_that_changes_nothing_is_told_as_such() -> None:
    text = told(AFTER, AFTER)
    assert "contracts fixed by the patch: none\n" in text
    assert "contracts broken by the patch: none\n" in text
    assert " yes" not in text


def test_a_broken_contract_is_reported_with_how_far_off_it_is() -> None:
    pair = replace(result("pair", Verdict.XFAIL, False), by="449.0 us")
    assert "contracts broken by the patch: pair (449.0 us)\n" in told(BEFORE, replace(AFTER, results=(pair,)))


def test_twenty_lines_say_what_is_broken_and_in_which_key_the_rule_is_another() -> None:
    names = tuple(f"a-scenario-of-usual-length-{number}" for number in range(14))
    broken = tuple(replace(result(name, Verdict.XFAIL, False), by="449.0 us") for name in names)
    kept = tuple(result(name, Verdict.PASS, True) for name in names)
    after = replace(
        AFTER, results=broken, identity=Identity(("mine",), but_for="mainline-6.7 but for khz_write")
    )
    text = told(replace(BEFORE, results=kept), after)
    beginning = " ".join(" ".join(text.splitlines()[:20]).split())
    assert f"{names[-1]} (449.0 us)" in beginning
    assert "after: behaves as mine: mainline-6.7 but for khz_write" in beginning


def test_what_the_patch_changes_comes_before_everything_else() -> None:
    changed = Difference("pair", 4, "write TSC of vCPU 1", "it snaps", "it does not", "9 cycles, 9 ns")
    likewise = replace(changed, scenario="one-by-one")
    text = render(
        [Validation(BEFORE, AFTER, Comparison(5, (changed, likewise)))], ["a.patch"], COMMAND
    ).splitlines()
    assert text[3:7] == [
        "the patch changes 2 of 5 scenarios",
        "contracts fixed by the patch: young-restore",
        "contracts broken by the patch: pair",
        "contracts that stay open, before or after: 1 of 5",
    ]
    place = text.index("pair, step 4: write TSC of vCPU 1 (9 cycles, 9 ns apart)")
    assert text[place + 1 : place + 4] == [
        "  before: it snaps",
        "  after: it does not",
        "  likewise: one-by-one (step 4)",
    ]


def test_those_that_fail_for_one_reason_are_named_together() -> None:
    wrong = [result(each.scenario, Verdict.FAIL, True, False) for each in AFTER.results[:3]]
    text = told(BEFORE, report(*wrong, *AFTER.results[3:]))
    assert " ".join(text.split()).count("reason: the offset is not what it had to be") == 1
    assert "FAIL young-restore, step 3\n" in text
    assert "2 more FAIL: old-restore (contract kept), pair (contract kept)" in " ".join(text.split())


def test_a_machine_that_was_lost_breaks_and_fixes_nothing() -> None:
    lost = report(*(Result(each.scenario, Verdict.LOST, each.contract, "it hung") for each in AFTER.results))
    validation = Validation(BEFORE, lost)
    assert (validation.fixed, validation.broken) == ([], [])
    text = told(BEFORE, lost)
    assert "whether it follows oliver-upton: not known\n" in text
    assert text.count("after: the machine was lost: it hung\n") == 1
    assert ["old-restore", "kept", "lost", "-"] in [line.split() for line in text.splitlines()]


def test_what_only_the_patched_kernels_probe_finds_is_among_the_pairs() -> None:
    fine = Result("young-restore", Verdict.PASS, "It goes on.")
    odd = Result("probe-khz", Verdict.FAIL, "It is known.", "odd", 2)
    plain, patched = (KernelReport("k", "amd", "6", results) for results in ((fine,), (odd, fine)))
    for before, after in ((plain, patched), (patched, plain)):
        found = Validation(before, after).pairs()
        pairs = {one.scenario: (one.verdict, other.verdict) for one, other in found}
        assert {*pairs["probe-khz"]} == {Verdict.FAIL, Verdict.PASS}
        assert pairs["young-restore"] == (Verdict.PASS, Verdict.PASS)
