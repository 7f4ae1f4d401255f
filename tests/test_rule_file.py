# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules as code: the example of the docs, what it changes, and what is wrong in a file, by line."""

from pathlib import Path

import pytest

from kvmharness import rule_file
from kvmharness.cli.main import main
from kvmharness.judging.session import settle
from kvmharness.judging.verdict import Expectation, Verdict
from kvmharness.model.judge import Possibility, judge
from kvmharness.model.policies import POLICIES
from kvmharness.model.policy import Policy
from kvmharness.scenarios import SCENARIOS
from kvmharness.trace import Event, Trace
from tests.hand_worked import HOST, MS, OLD, create, offset, write
from tests.made_up import session

EXAMPLE = Path(__file__).parents[1] / "docs" / "first-write-snaps.py"
ALL = list(SCENARIOS.values())


@pytest.fixture(scope="module")
def rule() -> Policy:
    return rule_file.read(EXAMPLE, POLICIES)["first-write-snaps"]


def possible(policy: Policy, *events: Event) -> bool:
    return judge(Trace("", "none", events), policy, HOST).possibility is Possibility.POSSIBLE


def test_the_example_snaps_a_vcpus_first_write_and_honours_the_second(rule: Policy) -> None:
    # Both are within a second of what the vCPU counts, 10 ms and 20 ms; by the keys both would snap.
    first, second = write(1010 * MS, 500 * MS), write(1020 * MS, 600 * MS)
    snapped, honoured = offset(1030 * MS, -1000 * MS), offset(1030 * MS, (600 - 1020) * MS)
    assert possible(rule, create(1000 * MS), first, snapped)
    assert not possible(rule, create(1000 * MS), first, offset(1030 * MS, (500 - 1010) * MS))
    assert possible(rule, create(1000 * MS), first, second, honoured)
    assert not possible(rule, create(1000 * MS), first, second, snapped)
    assert not possible(POLICIES[OLD], create(1000 * MS), first, second, honoured)


def test_the_example_remembers_each_vcpu_apart(rule: Policy) -> None:
    # vCPU 1's first write snaps though vCPU 0 was written before it.
    events = (
        create(1000 * MS),
        create(1001 * MS, 1),
        write(1010 * MS, 500 * MS),
        write(1020 * MS, 500 * MS, 1),
    )
    assert possible(rule, *events, offset(1030 * MS, -1000 * MS, 1))
    assert not possible(rule, *events, offset(1030 * MS, (500 - 1020) * MS, 1))


def test_a_kernel_with_a_rule_as_code_conforms_to_it_and_to_no_known_policy(
    rule: Policy,
) -> None:
    played = session(ALL, rule)
    outcome = settle(ALL, lambda wanted: played, Expectation(rule, {**POLICIES, rule.name: rule}))
    assert not [each.scenario for each in outcome.results if each.verdict is Verdict.FAIL]
    assert outcome.identity
    assert outcome.identity.behaves_as == (rule.name,)
    by_mainline = settle(ALL, lambda wanted: played)
    assert [each for each in by_mainline.results if each.verdict is Verdict.FAIL]


def test_commands_take_a_rule_as_they_take_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--policy", "first-write-snaps", "--policy", OLD, "--policy-file", str(EXAMPLE)]
    assert main(["predict", "three-writes", *asked]) == 0
    assert "so first-write-snaps has it" in capsys.readouterr().out


BEGIN = "from kvmharness.rule import Rule\nclass Mine(Rule):\n"
ASKED = BEGIN + "    def kvm_synchronize_tsc(self, write, memory, otherwise):\n"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("def f(:\n", "{file}:1: invalid syntax"),
        ("import sys\nsys.exit(3)\n", "{file}:2: SystemExit: 3"),
        ("x = 1\ny = x / 0\n", "{file}:2: ZeroDivisionError: division by zero"),
        ("x = 1\n", "{file}: no class in it derives from kvmharness.rule.Rule"),
        (BEGIN + "    snaps = True\n", "{file}:3: snaps: unknown; a rule has kvm_synchronize_tsc, "),
        (BEGIN + "    window_ns = 0\n", "{file}:3: policy.Mine.window_ns: expected a whole number of ns"),
        (BEGIN + "    like = 'nobody'\n", "{file}:3: policy.Mine.like: no policy is called 'nobody'"),
        (
            BEGIN + "    def remember(self, write):\n        return 1\n",
            "{file}:3: remember(self, write, memory",
        ),
        (
            BEGIN
            + "    def kvm_synchronize_tsc(self, write, memory, otherwise):\n        return write.speed\n",
            "{file}:4: AttributeError: 'Write' object has no attribute 'speed'",
        ),
        (
            ASKED + "        return 'yes'\n",
            "{file}:3: kvm_synchronize_tsc() decided 'yes': expected True, False or None",
        ),
        (
            BEGIN + "    def remember(self, write, memory, snapped):\n        return [1]\n",
            "{file}:3: TypeError: unhashable type: 'list'",
        ),
        (
            BEGIN + "    _count = 0\n    def kvm_synchronize_tsc(self, write, memory, otherwise):\n"
            "        self._count += 1\n        return self._count % 3 == 0\n",
            "{file}: Mine does not decide twice alike (",
        ),
        (BEGIN + "    def __init__(self):\n        raise OSError('no')\n", "{file}:2: Mine(): no"),
    ],
)
def test_what_is_wrong_in_a_rule_is_one_line_with_its_place(
    text: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (file := tmp_path / "rule.py").write_text(text)
    assert main(["predict", "young-restore", "--policy-file", str(file)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert len(error.splitlines()) == 1
    assert error.startswith(f"kvmharness: {complaint.format(file=file)}")


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "young-restore", "--policy-file", str(tmp_path / "none.py")]) == 2
    assert (
        capsys.readouterr().err == f"kvmharness: cannot read {tmp_path}/none.py: No such file or directory\n"
    )
