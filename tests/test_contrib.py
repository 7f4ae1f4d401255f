# SPDX-License-Identifier: GPL-2.0-or-later
"""What other people's machinery takes from contrib/, run with a made-up kvmharness."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kvmharness.cli.main import parser
from kvmharness.report import render
from tests import ktap
from tests.test_formats import ONE, REPORTS

CONTRIB = Path(__file__).parents[1] / "contrib"

Shell = Callable[..., "subprocess.CompletedProcess[str]"]

# Writes what it was asked, one call a line, prints what it was given (to --output where that is asked for),
# and exits as it was told.
STUB = """#!/bin/sh
echo "${{0##*/}} $*" >>{folder}/calls
out=
while [ $# -gt 0 ]; do [ "$1" = --output ] && out=$2; shift; done
case $0 in
*/kvmharness)
	if [ -n "$out" ]; then cat {folder}/said >"$out"; else cat {folder}/said; fi
	exit $(cat {folder}/status)
	;;
esac
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a script in a folder of its own where kvmharness, pip, sudo and apt-get are made up."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("kvmharness", "pip", "sudo", "apt-get"):
        (programs / name).write_text(STUB.format(folder=tmp_path))
        (programs / name).chmod(0o755)

    def run(
        command: list[str], *, said: str = "", status: int = 0, given: str = "", **env: str
    ) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "said").write_text(said)
        (tmp_path / "status").write_text(str(status))
        (tmp_path / "calls").write_text("")
        path = {"PATH": f"{programs}:{os.environ['PATH']}"}
        return subprocess.run(
            command, cwd=tmp_path, env=path | env, input=given, capture_output=True, text=True, check=False
        )

    return run


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def is_a_command(call: str) -> None:
    """The real kvmharness takes these words."""
    parser().parse_args(call.split()[1:])


def loaded(name: str) -> Any:
    return yaml.safe_load((CONTRIB / name).read_text())


KTAP = render(REPORTS["one kernel"], "ktap")
WRAPPER = str(CONTRIB / "kselftest/kvmharness.sh")


@pytest.mark.parametrize(("status", "exits"), [(0, 0), (1, 1), (2, 1), (3, 1), (4, 4), (130, 1)])
def test_the_kselftest_wrapper_exits_as_kselftest_wants(shell: Shell, status: int, exits: int) -> None:
    done = shell([WRAPPER], said=KTAP, status=status)
    assert done.returncode == exits
    assert ktap.read(done.stdout) == ktap.read(KTAP)


def test_the_kselftest_wrapper_takes_its_arguments_as_the_runner_gives_them(
    shell: Shell, tmp_path: Path
) -> None:
    shell([WRAPPER])
    assert calls(tmp_path) == ["kvmharness run --format ktap"]
    args = "run young-restore --strict"
    shell([WRAPPER], KSELFTEST_KVMHARNESS_SH_ARGS=args)
    assert calls(tmp_path) == ["kvmharness run young-restore --strict --format ktap"]
    # The runner hands them over itself, and leaves the variable in the environment.
    shell([WRAPPER, *args.split()], KSELFTEST_KVMHARNESS_SH_ARGS=args)
    assert calls(tmp_path) == ["kvmharness run young-restore --strict --format ktap"]
    is_a_command(calls(tmp_path)[0])


def test_the_kselftest_wrapper_skips_where_kvmharness_is_not_installed(shell: Shell) -> None:
    done = shell([WRAPPER], KVMHARNESS="/nowhere/kvmharness")
    assert done.returncode == 4
    assert done.stdout.splitlines()[1].startswith("1..0 # SKIP")


def test_the_line_for_the_runner_of_the_kvm_selftests_is_a_command(shell: Shell, tmp_path: Path) -> None:
    (line,) = (CONTRIB / "kvm-selftests/kvmharness.test").read_text().splitlines()
    program, *args = line.split()
    assert program == Path(WRAPPER).name
    shell([WRAPPER, *args])
    is_a_command(calls(tmp_path)[0])


def test_linaros_test_has_a_result_for_each_scenario(shell: Shell, tmp_path: Path) -> None:
    definition = loaded("linaro/kvmharness.yaml")
    assert definition["metadata"]["format"] == "Lava-Test Test Definition 1.0"
    folder = tmp_path / "automated/linux/kvmharness"
    shutil.copytree(CONTRIB / "linaro", folder)
    sender = tmp_path / "automated/utils/send-to-lava.sh"
    sender.parent.mkdir()
    sender.write_text("#!/bin/sh\ncat $1\n")
    sender.chmod(0o755)
    steps = "\n".join(definition["run"]["steps"])
    done = shell(["sh", "-e", "-c", steps], said=KTAP, status=1, KERNEL="debian:6.12")
    (call,) = calls(tmp_path)
    assert call.startswith("kvmharness lab run debian:6.12 --format ktap --output ")
    is_a_command(call)
    results = done.stdout.splitlines()
    assert results[: len(results) // 2] == results[len(results) // 2 :]
    expected = {"PASS": "pass", "XFAIL": "pass", "FAIL": "fail", "LOST": "fail"}
    assert results[: len(results) // 2] == [
        f"{each.scenario} {expected.get(each.verdict.value, 'skip')}" for each in ONE.results
    ]


@pytest.mark.parametrize(("status", "last"), [(2, "kvmharness fail"), (4, "kvmharness skip")])
def test_linaros_test_says_so_where_nothing_could_be_judged(shell: Shell, status: int, last: str) -> None:
    done = shell([str(CONTRIB / "linaro/kvmharness.sh")], status=status)
    assert done.stdout.splitlines() == [last]


def test_kernelcis_job_is_the_test_of_linaros() -> None:
    config = loaded("kernelci/kvmharness.yaml")
    (job,) = config["jobs"]
    assert [each["job"] for each in config["scheduler"]] == [job]
    test = config["jobs"][job]["params"]["test_definitions"]
    assert (CONTRIB / "linaro" / Path(test).name).exists()


def parts_of_github() -> list[str]:
    (job,) = loaded("github/kvmharness.yml")["jobs"].values()
    return [each["run"] for each in job["steps"] if "run" in each]


def parts_of_gitlab() -> list[str]:
    (job,) = loaded("gitlab/kvmharness.yml").values()
    return ["\n".join(job["before_script"]), "\n".join(job["script"])]


@pytest.mark.parametrize("parts", [parts_of_github, parts_of_gitlab], ids=["github", "gitlab"])
@pytest.mark.parametrize("status", [0, 1, 4])
def test_a_workflow_ends_as_the_run_did_and_leaves_its_reports(
    shell: Shell, tmp_path: Path, parts: Callable[[], list[str]], status: int
) -> None:
    install, play = parts()
    assert shell(["bash", "-e", "-c", install]).returncode == 0
    assert any(call.startswith("pip install") and "kvmharness[html]" in call for call in calls(tmp_path))
    done = shell(["bash", "-e", "-c", play], said="report", status=status, KERNEL="debian:6.12")
    assert done.returncode == status
    for call in calls(tmp_path):
        is_a_command(call)
    assert (tmp_path / "kvmharness.html").read_text() == "report"
    assert (tmp_path / "kvmharness.xml").read_text() == "report"


CHECK = str(CONTRIB / "b4/kvmharness-check")


def test_b4s_check_reads_the_cover_letter_and_prints_its_json(shell: Shell, tmp_path: Path) -> None:
    said = render(REPORTS["one kernel"], "b4")
    done = shell([CHECK], said=said, status=1, given="From: a\nSubject: [PATCH 0/2] $(rm -rf .)\n")
    assert json.loads(done.stdout) == json.loads(said)
    (call,) = calls(tmp_path)
    assert call == "kvmharness lab validate debian:6.12 --range @{upstream}..HEAD --tree . --format b4"
    is_a_command(call)


def test_b4s_check_is_json_also_where_nothing_was_judged(shell: Shell) -> None:
    (check,) = json.loads(shell([CHECK], status=2, given="x").stdout)
    assert {*check} == {"tool", "status", "summary", "url", "details"}
    assert check["status"] == "warn"
    assert "exit status 2" in check["summary"]
