# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: what it prints where, and what it exits with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvmharness import host
from kvmharness.cli import options
from kvmharness.kvm import System
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.model.policies import POLICIES
from kvmharness.scenarios import SCENARIOS
from tests.command_line import Capture, one_line, status_of
from tests.limits import GIVE_UP_S
from tests.made_up_distribution import on_distribution


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "kvmharness: the following arguments are required: COMMAND (see kvmharness --help)"),
        (["run", "young"], "kvmharness: unknown scenario 'young'"),
        (["run", "young-restor"], "kvmharness: unknown scenario 'young-restor': did you mean young-restore"),
        (
            ["run", "no-such-*"],
            "kvmharness: no scenario is called 'no-such-*': `kvmharness list scenarios` shows all names",
        ),
        (
            ["lab", "run", "debian:6.1", "young-restore"],
            "kvmharness: young-restore is a scenario, not a kernel: --scenario",
        ),
        (
            ["explore", "host", "--machine", "amd*"],
            "kvmharness: no machine is called 'amd*': `kvmharness list machines`",
        ),
        (["lab", "run", "fedora:40"], "kvmharness: unknown kernel 'fedora:40': name it debian:VERSION"),
        (["lab", "run", "debian:6.1", "--machine", "amdd"], "kvmharness: unknown machine 'amdd': did you"),
        (["run", "--format", "xml"], "kvmharness run: argument --format: invalid choice: 'xml'"),
        (["run", "--output", "/no/such/folder/report"], "kvmharness: cannot write to /no/such/folder/report"),
        (["run", "--expect", "mainline"], "kvmharness: unknown policy 'mainline': did you mean mainline-6.7"),
        (["run", "--policy-file", "/no/such/file"], "kvmharness: cannot read /no/such/file: No such file"),
        (["predict", "yung-restore"], "kvmharness: unknown scenario 'yung-restore': did you mean young-rest"),
        (["judge", "/no/such/trace"], "kvmharness: cannot read /no/such/trace: No such file"),
        (["judge", "/dev/null"], "kvmharness: /dev/null: not a saved trace: it does not begin with a probe"),
    ],
)
def test_bad_input_is_one_line_and_status_2(arguments: list[str], line: str, capsys: Capture) -> None:
    assert status_of(*arguments) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert one_line(error).startswith(line)


@pytest.mark.parametrize("command", ["run", "probe"])
def test_no_kvm_is_one_line_and_status_2(
    command: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "System", lambda: System("/dev/no-such-kvm"))
    assert status_of(command) == 2
    assert one_line(capsys.readouterr().err).startswith("kvmharness: there is no /dev/no-such-kvm: load kvm_")


def test_no_permission_is_one_line_and_status_2(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    real_open = os.open

    def refuse(path: str, *rest: int) -> int:
        if path == "/dev/kvm":
            raise PermissionError(13, "no")
        return real_open(path, *rest)

    monkeypatch.setattr(os, "open", refuse)
    assert status_of("run") == 2
    assert one_line(capsys.readouterr().err).startswith("kvmharness: no permission to open /dev/kvm")


def test_no_qemu_is_one_line_and_status_2(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    on_distribution(monkeypatch, "debian")
    assert status_of("lab", "run", "debian:6.1") == 2
    assert one_line(capsys.readouterr().err) == (
        "kvmharness: machine amd needs qemu-system-x86_64: apt-get install qemu-system-x86"
    )


def test_a_host_that_ignores_writes_is_told_so_and_judged_by_what_holds_there(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("tsc-protected")
    assert status_of("run", "old-restore", "qemu-pair-old") == 4
    out = capsys.readouterr().out
    assert "this KVM ignores writes of MSR_IA32_TSC" in out
    assert "could not be judged, which says nothing about the kernel" in " ".join(out.split())
    assert status_of("run", "-v") == 0
    lines = capsys.readouterr().out.splitlines()
    judged = {line.split()[0] for line in lines if line.endswith(" PASS")}
    protected = {"protected-write", "protected-offset", "protected-pair"}
    timers = {name for name, scenario in SCENARIOS.items() if scenario.needs == ("deadline-timer",)}
    steal = {name for name, scenario in SCENARIOS.items() if "steal-time" in scenario.needs}
    others = {"qemu-stop-continue", "guest-never-runs-back", "new-pair-at-once", "host-cpu-offline-meet"}
    assert {*protected, *timers, *steal, *others} == judged
    assert not any("FAIL" in line for line in lines)


@pytest.mark.kvm
def test_this_hosts_own_kvm_is_played_without_a_false_alarm(system: System, capsys: Capture) -> None:
    # Whatever this KVM is, its guests run; only a kernel that breaks a contract may fail one.
    assert status_of("probe") == 0
    text = capsys.readouterr().out
    for name in ("guest-16", "guest-64"):
        assert any(line.split()[:2] == [name, "yes"] for line in text.splitlines())
    writes = any(line.split()[:2] == ["tsc-write", "yes"] for line in text.splitlines())
    status = status_of("run", "old-restore")
    assert status == (0 if writes else 4)


def test_a_host_that_passes_exits_0_and_one_that_fails_exits_1(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host()
    assert status_of("run", "young-restore") == 0
    assert "PASS  host on /dev/kvm (" in capsys.readouterr().out
    made_up_host("sean-christopherson")
    assert status_of("run", "young-restore", "qemu-pair-old") == 1
    assert "FAIL qemu-pair-old" in capsys.readouterr().out


def test_an_expected_failure_is_no_failure(made_up_host: Callable[..., None], capsys: Capture) -> None:
    made_up_host("mainline-before-6.7")
    assert status_of("run", "young-restore", "--expect", "mainline-before-6.7") == 0
    out = capsys.readouterr().out
    assert "XFAIL: every kernel with mainline-before-6.7 breaks these contracts" in out
    assert "conforms to mainline-before-6.7: 1 of 1 judged" in " ".join(out.split())
    assert status_of("run", "young-restore", "--judge", "contract") == 1
    assert "does not keep the contracts alone: 1 of 1 judged" in " ".join(capsys.readouterr().out.split())


def test_where_policies_remain_a_scenario_that_would_part_them_is_named(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("mainline-before-6.7")
    status_of("run", "young-restore", "old-restore", "--format", "json")
    (kernel,) = json.loads(capsys.readouterr().out)["kernels"]
    assert kernel["behaves_as"] == ["mainline-before-6.7", "like-xu-v1", "clock-series-2026-khz"]
    assert kernel["distinguished_by"] == (
        "scenario offset-moved would distinguish mainline-before-6.7 from like-xu-v1"
    )


POLICY_FILE = """
[policy.my-patch]
like = "mainline-6.7"
summary = "The offset attribute does not count."
user_set_by = ["zero", "value"]
"""


def test_a_policy_of_ones_own_is_judged_by_and_identified(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    (file := tmp_path / "mine.toml").write_text(POLICY_FILE)
    made_up_host("oliver-upton")
    assert status_of("run", "--expect", "my-patch", "--policy-file", str(file)) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "(no scenario distinguishes them)" in out


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            '[policy.my-patch]\nuser_zero = "maybe"',
            'policy.my-patch.user_zero: expected "snaps" or "as-value"',
        ),
        ("[policy.my-patch", "end of document"),
        ("", "policy: missing"),
    ],
)
def test_a_policy_file_that_is_wrong_is_one_line_and_status_2(
    capsys: Capture, tmp_path: Path, text: str, complaint: str
) -> None:
    (file := tmp_path / "mine.toml").write_text(text)
    assert status_of("predict", "young-restore", "--policy-file", str(file)) == 2
    line = one_line(capsys.readouterr().err)
    assert line.startswith(f"kvmharness: {file}: ")
    assert complaint in line


def test_predict_shows_where_policies_part_and_needs_no_kvm(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "System", lambda: System("/dev/no-such-kvm"))
    arguments = ("predict", "young-restore", "--policy", "mainline-before-6.7", "--policy", "mainline-6.7")
    assert status_of(*arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[-4:] == ["50.022", "ms", "900.001", "ms"] for line in lines)
    assert any(line.split() == ["contract", "broken", "kept"] for line in lines)
    assert "The policies first differ at step 4." in lines
    assert status_of(*arguments, "--format", "json") == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["first_difference"] == 4
    assert [each["contract"] for each in prediction["by_policy"]] == ["broken", "kept"]


def test_predict_works_for_every_scenario(capsys: Capture) -> None:
    assert status_of("predict") == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in SCENARIOS)


def test_lists_name_what_other_commands_take(capsys: Capture) -> None:
    assert status_of("list", "scenarios") == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if line in SCENARIOS] == list(SCENARIOS)
    assert all(len(line) <= 80 for line in out.splitlines())
    # Whole sentences.
    assert all(scenario.contract in " ".join(out.split()) for scenario in SCENARIOS.values())
    assert status_of("list", "policies") == 0
    out = capsys.readouterr().out
    assert all(name in out.splitlines() for name in POLICIES)
    assert status_of("list", "machines") == 0
    assert AMD.name in capsys.readouterr().out.splitlines()


def run_in_shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command through a shell, which can close or fill its files."""
    return subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m kvmharness {command}'],
        capture_output=True,
        text=True,
        check=False,
        timeout=GIVE_UP_S,
        env={**os.environ, **environment},
    )


def test_a_full_stdout_is_one_line_and_status_2() -> None:
    done = run_in_shell("list machines >/dev/full")
    assert done.returncode == 2
    assert one_line(done.stderr) == "kvmharness: No space left on device"


def test_closed_files_do_no_harm() -> None:
    assert run_in_shell("list machines >&- 2>&- <&-").returncode == 0


def test_no_home_is_one_line_and_status_2(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert status_of("list", "kernels") == 2
    assert "set XDG_CACHE_HOME" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "words", [("lab", "run", "nonsense:x", "--offline"), ("lab", "run"), ("list", "nonsense")]
)
def test_bad_input_is_status_2_also_when_nobody_reads_what_is_wrong(words: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "kvmharness", *words]
    done = subprocess.run(command, stdout=writing, stderr=writing, check=False, timeout=GIVE_UP_S)
    os.close(writing)
    assert done.returncode == 2


def test_a_pattern_names_all_that_match_each_once() -> None:
    picked = options.pick_scenarios(["young-*", "young-restore", "qemu-pair-ol?"])
    names = [each.name for each in picked]
    assert names == [*(name for name in SCENARIOS if name.startswith("young-")), "qemu-pair-old"]
    assert len(names) > 2
