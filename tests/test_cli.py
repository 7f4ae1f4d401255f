# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line: what it prints where, and what it exits with."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from kvmharness import host
from kvmharness.cli import lab, options
from kvmharness.cli.main import main
from kvmharness.kvm import KvmUnavailableError, System
from kvmharness.lab import kernels, play
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machine import AMD, Machine
from kvmharness.model.policies import POLICIES
from kvmharness.report import FORMATS, KernelReport
from kvmharness.scenarios import SCENARIOS, Scenario
from kvmharness.session import Session
from kvmharness.verdict import Result, Verdict
from tests.made_up import session

Capture = pytest.CaptureFixture[str]


def status_of(*arguments: str) -> int:
    """What the command exits with; argparse leaves by SystemExit."""
    try:
        return main(arguments)
    except SystemExit as leaving:
        return int(str(leaving.code))


def one_line(text: str) -> str:
    """The text, which has to be exactly one line."""
    assert text.count("\n") == 1, text
    assert text.endswith("\n")
    return text.rstrip()


@pytest.fixture
def made_up_host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Replaces this host's KVM by a made-up one."""

    def use(policy: str = "mainline-6.7") -> None:
        monkeypatch.setattr(host, "play", lambda scenarios: session(scenarios, policy))

    return use


def opening(error: KvmUnavailableError) -> Callable[[], System]:
    def fail() -> System:
        raise error

    return fail


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "kvmharness: the following arguments are required: COMMAND (see kvmharness --help)"),
        (["run", "young"], "kvmharness: unknown scenario 'young'"),
        (["run", "young-restor"], "kvmharness: unknown scenario 'young-restor': did you mean young-restore"),
        (["lab", "run", "fedora:40"], "kvmharness: unknown kernel 'fedora:40': name it debian:VERSION"),
        (["lab", "run", "debian:6.1", "--machine", "amdd"], "kvmharness: unknown machine 'amdd': did you"),
        (["run", "--format", "xml"], "kvmharness run: argument --format: invalid choice: 'xml'"),
        (["run", "--output", "/no/such/folder/report"], "kvmharness: cannot write to /no/such/folder/report"),
        (["run", "--expect", "mainline"], "kvmharness: unknown policy 'mainline': did you mean mainline-6.7"),
        (["run", "--policy-file", "/no/such/file"], "kvmharness: cannot read /no/such/file: No such file"),
        (["predict", "yung-restore"], "kvmharness: unknown scenario 'yung-restore': did you mean young-rest"),
        (["judge", "/no/such/trace"], "kvmharness: cannot read /no/such/trace: No such file"),
        (["judge", "/dev/null"], "kvmharness: /dev/null: a saved trace begins with the probe"),
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
    assert status_of("lab", "run", "debian:6.1") == 2
    assert one_line(capsys.readouterr().err) == (
        "kvmharness: machine amd needs qemu-system-x86_64: install qemu-system-x86"
    )


def test_a_host_that_ignores_writes_is_told_so_and_exits_4(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("tsc-protected")
    assert status_of("run") == 4
    out = capsys.readouterr().out
    assert "this KVM ignores writes of MSR_IA32_TSC" in out
    assert "Nothing could be judged here" in out
    assert "PASS" not in out
    assert "FAIL" not in out


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
    assert "It does what was expected of it." in capsys.readouterr().out
    made_up_host("sean-christopherson")
    assert status_of("run", "young-restore", "qemu-pair-old") == 1
    assert "FAIL qemu-pair-old" in capsys.readouterr().out


def test_an_expected_failure_is_no_failure(made_up_host: Callable[..., None], capsys: Capture) -> None:
    made_up_host("mainline-before-6.7")
    assert status_of("run", "young-restore", "--expect", "mainline-before-6.7") == 0
    out = capsys.readouterr().out
    assert "XFAIL, host on /dev/kvm: broken on every kernel with mainline-before-6.7" in out
    assert "judged by mainline-before-6.7" in out
    assert status_of("run", "young-restore", "--judge", "contract") == 1
    assert "judged by the contracts alone" in capsys.readouterr().out


def test_every_report_says_what_the_kernel_behaves_as(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("oliver-upton")
    assert status_of("run") == 1
    assert "It behaves as oliver-upton." in capsys.readouterr().out
    status_of("run", "--format", "ktap")
    assert "  # behaves as oliver-upton\n" in capsys.readouterr().out
    status_of("run", "--format", "json")
    (kernel,) = json.loads(capsys.readouterr().out)["kernels"]
    assert (kernel["behaves_as"], kernel["parted_by"], kernel["expect"]) == (
        ["oliver-upton"],
        "",
        "mainline-6.7",
    )


def test_where_policies_remain_a_scenario_that_would_part_them_is_named(
    made_up_host: Callable[..., None], capsys: Capture
) -> None:
    made_up_host("mainline-before-6.7")
    status_of("run", "young-restore", "old-restore", "--format", "json")
    (kernel,) = json.loads(capsys.readouterr().out)["kernels"]
    assert kernel["behaves_as"] == ["mainline-before-6.7", "like-xu-v1"]
    assert kernel["parted_by"] == "offset-moved would part mainline-before-6.7 from like-xu-v1"


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
    out = capsys.readouterr().out.replace("\n      ", " ")
    assert "It behaves as oliver-upton or my-patch (no scenario parts them)." in out


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
    assert "They part at step 4." in lines
    assert status_of(*arguments, "--format", "json") == 0
    (prediction,) = json.loads(capsys.readouterr().out)["predictions"]
    assert prediction["parting_step"] == 4
    assert [course["contract"] for course in prediction["courses"]] == ["broken", "kept"]


def test_predict_works_for_every_scenario(capsys: Capture) -> None:
    assert status_of("predict") == 0
    out = capsys.readouterr().out
    assert all(f"{name}: " in out for name in SCENARIOS)


def test_saved_traces_are_judged_again_to_the_same_verdicts(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    made_up_host()
    assert status_of("run", "--save-traces", str(tmp_path), "--format", "json") == 0
    first = json.loads(capsys.readouterr().out)
    files = [str(path) for path in tmp_path.iterdir()]
    assert len(files) == len(SCENARIOS)
    assert status_of("judge", "--format", "json", *files) == 0
    again = json.loads(capsys.readouterr().out)

    def by_name(report: dict[str, Any]) -> dict[str, str]:
        (kernel,) = report["kernels"]
        assert kernel["behaves_as"] == ["mainline-6.7"]
        return {result["scenario"]: result["verdict"] for result in kernel["results"]}

    assert by_name(first) == by_name(again)


def test_a_broken_trace_is_one_line_and_status_2(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    made_up_host()
    status_of("run", "old-restore", "--save-traces", str(tmp_path))
    capsys.readouterr()
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for broken, complaint in (
        (whole[:-10], "not JSON"),
        (whole.replace(b'"old-restore"', b'"odd-restore"'), "did you mean old-restore"),
        (b"\xff" + whole, "bytes that are not ASCII"),
    ):
        path.write_bytes(broken)
        assert status_of("judge", str(path)) == 2
        assert complaint in one_line(capsys.readouterr().err)


REPORTS = [
    KernelReport(
        "debian:6.1",
        "amd",
        "6.1.0",
        (
            Result("young-restore", Verdict.FAIL, "It goes on.", "it did not", 5, kept=False, conforms=False),
            Result("old-restore", Verdict.PASS, "It goes on."),
        ),
    ),
    KernelReport(
        "debian:6.12",
        "amd",
        "6.12.9",
        (
            Result("young-restore", Verdict.LOST, "It goes on.", "the machine hung"),
            Result("old-restore", Verdict.SKIP, "It goes on.", "no TSC"),
        ),
        notes=("last words",),
    ),
]


def test_the_text_report_is_a_table_with_reasons_and_plain_words() -> None:
    text = FORMATS["text"](REPORTS)
    assert text.splitlines()[:4] == [
        "               debian:6.1 on amd  debian:6.12 on amd",
        "               6.1.0              6.12.9",
        "young-restore  FAIL               LOST",
        "old-restore    PASS               SKIP",
    ]
    assert "FAIL young-restore, debian:6.1 on amd, step 5" in text
    assert "  | last words" in text
    assert "kernel bug 217423" in text.replace("\n", " ").replace("    ", "")
    assert max(map(len, text.splitlines())) <= 78


def test_the_ktap_report_is_ktap() -> None:
    assert FORMATS["ktap"](REPORTS).splitlines() == [
        "KTAP version 1",
        "1..2",
        "  KTAP version 1",
        "  # Subtest: debian:6.1 on amd",
        "  # release 6.1.0",
        "  # expected mainline-6.7",
        "  1..2",
        "  # step 5: it did not",
        "  not ok 1 young-restore",
        "  ok 2 old-restore",
        "not ok 1 debian:6.1 on amd",
        "  KTAP version 1",
        "  # Subtest: debian:6.12 on amd",
        "  # release 6.12.9",
        "  # expected mainline-6.7",
        "  1..2",
        "  not ok 1 young-restore # ERROR the machine hung",
        "  ok 2 old-restore # SKIP no TSC",
        "  # last words",
        "not ok 2 debian:6.12 on amd",
    ]


def test_the_json_report_has_the_keys_users_rely_on() -> None:
    data = json.loads(FORMATS["json"](REPORTS))
    assert set(data) == {"schema", "tool", "kernels", "summary"}
    kernel = data["kernels"][0]
    assert {"kernel", "machine", "release", "behaves_as", "expect", "results"} <= set(kernel)
    assert kernel["results"][0] == {
        "scenario": "young-restore",
        "verdict": "FAIL",
        "contract": "broken",
        "conforms": False,
        "reason": "it did not",
        "finding": "",
        "step": 5,
    }
    assert data["summary"]["exit_status"] == 1


def test_a_report_that_cannot_be_written_is_printed_instead(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    options.write_report(REPORTS, "ktap", tmp_path / "report")
    out, error = capsys.readouterr()
    assert out == FORMATS["ktap"](REPORTS)
    assert "No space left on device; here it is" in one_line(error)


def test_a_lost_machine_is_reported_with_its_console_and_exits_3(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lose(*_: object) -> Session:
        raise play.LostMachineError("the machine hung, 3 times", ["BUG: something"])

    monkeypatch.setattr(play, "play", lose)
    monkeypatch.setattr(lab, "check_emulator", lambda machine: None)
    monkeypatch.setattr(kernels, "find", lambda spec, *_: Kernel(spec, "6.1.0", tmp_path, {}))
    assert status_of("lab", "run", "debian:6.1") == 3
    out = capsys.readouterr().out
    assert "LOST" in out
    assert "  | BUG: something" in out
    assert "nothing is known about this kernel" in out.replace("\n    ", " ")


@pytest.fixture
def made_up_lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replaces the lab: debian:6.1 is a kernel before 6.7, and debian:5 has no module for any machine."""

    def play_there(kernel: Kernel, machine: Machine, scenarios: Sequence[Scenario]) -> Session:
        if kernel.spec == "debian:5":
            raise LabError(f"{kernel.spec} has no module {machine.vendor_module}")
        if kernel.spec == "debian:4":
            raise OSError(28, "No space left on device")
        return session(scenarios, "mainline-before-6.7" if kernel.spec == "debian:6.1" else "mainline-6.7")

    monkeypatch.setattr(play, "play", play_there)
    monkeypatch.setattr(lab, "check_emulator", lambda machine: None)
    monkeypatch.setattr(kernels, "find", lambda spec, *_: Kernel(spec, spec[7:], tmp_path, {}))


@pytest.mark.usefixtures("made_up_lab")
def test_every_kernel_is_played_on_every_machine(capsys: Capture) -> None:
    machines = ("--machine", "amd", "--machine", "amd-smp")
    assert status_of("lab", "run", "debian:6.1", "debian:6.12", *machines, "--format", "json") == 1
    columns = json.loads(capsys.readouterr().out)["kernels"]
    assert [(column["kernel"], column["machine"], column["behaves_as"]) for column in columns] == [
        ("debian:6.1", "amd", ["mainline-before-6.7"]),
        ("debian:6.1", "amd-smp", ["mainline-before-6.7"]),
        ("debian:6.12", "amd", ["mainline-6.7"]),
        ("debian:6.12", "amd-smp", ["mainline-6.7"]),
    ]


@pytest.mark.usefixtures("made_up_lab")
@pytest.mark.parametrize(("good", "status"), [("debian:6.12", 2), ("debian:6.1", 1)])
def test_a_kernel_that_cannot_be_played_does_not_cost_the_others_their_verdicts(
    capsys: Capture, good: str, status: int
) -> None:
    assert status_of("lab", "run", "debian:5", good) == status
    out, error = capsys.readouterr()
    assert f"It behaves as {'mainline-6.7' if status == 2 else 'mainline-before-6.7'}." in out
    assert one_line(error) == "kvmharness: debian:5 has no module kvm_amd"


@pytest.mark.usefixtures("made_up_lab")
def test_a_full_memory_does_not_cost_the_others_their_verdicts(capsys: Capture) -> None:
    assert status_of("lab", "run", "debian:4", "debian:6.12") == 2
    out, error = capsys.readouterr()
    assert "It behaves as mainline-6.7." in out
    assert "No space left on device" in one_line(error)


@pytest.mark.usefixtures("made_up_lab")
def test_what_is_finished_is_reported_and_saved_when_the_rest_is_interrupted(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def first_only(futures: Sequence[Future[Any]]) -> Iterator[Future[Any]]:
        futures[0].result()
        yield futures[0]
        raise KeyboardInterrupt

    def leave(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(lab, "as_completed", first_only)
    monkeypatch.setattr(os, "_exit", leave)
    folder = tmp_path / "traces"
    assert status_of("lab", "run", "debian:6.1", "debian:6.12", "--save-traces", str(folder)) == 130
    out, error = capsys.readouterr()
    assert "debian:6.1 on amd" in out
    assert one_line(error) == "kvmharness: interrupted"
    assert {path.name.split(".amd.")[0] for path in folder.iterdir()} == {"debian:6.1"}


def test_lists_name_what_other_commands_take(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert status_of("list", "scenarios") == 0
    out = capsys.readouterr().out
    assert all(name in out.splitlines() for name in SCENARIOS)
    assert status_of("list", "policies") == 0
    out = capsys.readouterr().out
    assert all(name in out.splitlines() for name in POLICIES)
    assert status_of("list", "machines") == 0
    assert AMD.name in capsys.readouterr().out.splitlines()


def saved(made_up_host: Callable[..., None], folder: Path) -> Path:
    made_up_host()
    folder.mkdir()
    status_of("run", "old-restore", "--save-traces", str(folder))
    (path,) = folder.iterdir()
    return path


@pytest.mark.parametrize(
    ("good", "hostile"),
    [
        (b'"tsc":[', b'"tsc":[0,9223372036854775808],"was":['),
        (b'"release": "made-up"', b'"release": "\\ud800"'),
        (b'"release": "made-up"', b'"release": "a\\nnot ok 1"'),
        (b'"values":[2000000]', b'"values":[]'),
        (b'"values":[2000000]', b'"values":[1,2,3]'),
    ],
)
def test_a_hostile_trace_is_one_line_and_status_2(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path, good: bytes, hostile: bytes
) -> None:
    path = saved(made_up_host, tmp_path / "traces")
    capsys.readouterr()
    assert good in path.read_bytes()
    path.write_bytes(path.read_bytes().replace(good, hostile))
    assert status_of("judge", str(path)) == 2
    one_line(capsys.readouterr().err)


def test_traces_of_different_folders_are_different_columns(
    made_up_host: Callable[..., None], capsys: Capture, tmp_path: Path
) -> None:
    one, other = saved(made_up_host, tmp_path / "a"), saved(made_up_host, tmp_path / "b")
    capsys.readouterr()
    assert status_of("judge", "--format", "json", str(one), str(other)) == 0
    kernels_seen = [each["kernel"] for each in json.loads(capsys.readouterr().out)["kernels"]]
    assert kernels_seen == [str(tmp_path / "a" / "host"), str(tmp_path / "b" / "host")]


def run_in_shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command through a shell, which can close or fill its files."""
    return subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -m kvmharness {command}'],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
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
