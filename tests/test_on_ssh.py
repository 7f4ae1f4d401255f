# SPDX-License-Identifier: GPL-2.0-or-later
"""--on ssh://BOX: what comes back from a box is judged here, and a box that is lost is never an answer."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvmharness.judging.bisection import BAD, GIVE_UP, GOOD, SKIP
from kvmharness.remote import there
from kvmharness.remote.box import Box
from tests.command_line import Capture, one_line, status_of
from tests.limits import GIVE_UP_S
from tests.made_up_box import LOCAL, made_up_ssh, put_ssh

ON = ("--on", "ssh://me@box:2222")
PutSsh = Callable[[str], None]


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PutSsh:
    """Puts a program called ssh before all others on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return lambda text: put_ssh(tmp_path / "bin", text)


@pytest.mark.parametrize(
    ("name", "where", "port"),
    [
        ("ssh://box", "box", ""),
        ("ssh://root@box.example.org:2222/", "root@box.example.org", "2222"),
        ("ssh://me@[::1]:22", "me@::1", "22"),
        ("ssh://10.0.0.1", "10.0.0.1", ""),
    ],
)
def test_a_box_is_named_as_ssh_does(name: str, where: str, port: str) -> None:
    box = Box.named(name)
    assert (box.where, box.port) == (where, port)


@pytest.mark.parametrize(
    "name",
    ["box", "ssh://", "ssh://-oProxyCommand=x", "ssh://-x@box", "ssh://a b", "ssh://box:0", "ssh://b:99999"],
)
def test_what_is_no_box_is_refused_in_one_line(name: str, capsys: Capture) -> None:
    assert status_of("run", "--on", name) == 2
    assert "is no box: name it ssh://HOST" in one_line(capsys.readouterr().err)
    assert status_of("bisect-step", "--host", "--on", name) == GIVE_UP


def test_what_a_box_did_is_judged_here(ssh: PutSsh, capsys: Capture, tmp_path: Path) -> None:
    ssh(made_up_ssh("mainline-before-6.7"))
    traces = tmp_path / "traces"
    assert status_of("run", "young-restore", "qemu-pair-old", *ON, "--save-traces", str(traces)) == 1
    said = capsys.readouterr().out
    assert said.startswith("FAIL  ssh://me@box:2222 on /dev/kvm (6.0-of-the-box) does not conform")
    assert "behaves as mainline-before-6.7" in " ".join(said.split())
    files = [str(path) for path in traces.iterdir()]
    assert len(files) == 2
    assert status_of("judge", *files, "--expect", "mainline-before-6.7") == 0
    assert "6.0-of-the-box" in capsys.readouterr().out


def test_a_step_of_a_search_is_judged_here(ssh: PutSsh, capsys: Capture) -> None:
    asked = ("bisect-step", "--host", *ON, "--scenario", "young-restore")
    ssh(made_up_ssh("mainline-6.7"))
    assert status_of(*asked) == GOOD
    ssh(made_up_ssh("mainline-before-6.7"))
    assert status_of(*asked) == BAD
    assert "bad: young-restore FAIL, step 5: " in capsys.readouterr().out
    assert status_of("bisect-step", *ON) == GIVE_UP
    assert "--on goes with --host" in one_line(capsys.readouterr().err)


SAYS = "#!/bin/sh\ncat >/dev/null\necho 'Warning: something' >&2\necho '{said}' >&2\nexit {status}\n"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (SAYS.format(said="ssh: connect to host box port 2222: Connection refused", status=255),
         "ssh does not connect: ssh: connect to host box port 2222: Connection refused"),
        (SAYS.format(said="sh: 1: tar: not found", status=127),
         "the player did not come to its end there (exit status 127): sh: 1: tar: not found"),
        ("#!/bin/sh\nexit 255\n", "ssh does not connect"),
        ("#!/bin/sh\necho Welcome\n", "the player did not come to its end there (exit status 0)"),
        (made_up_ssh(cut=1), "the connection was lost while it was played on: client_loop: send disconnect"),
        (made_up_ssh(cut=4), "the connection was lost while it was played on: client_loop: send disconnect"),
        (made_up_ssh(end=(there.FAILED, errno.EINVAL, "no such CPU")), "no such CPU"),
    ],
)  # fmt: skip
def test_a_lost_box_is_one_line_and_no_answer_for_git(
    ssh: PutSsh, capsys: Capture, program: str, reason: str
) -> None:
    ssh(program)
    assert status_of("bisect-step", "--host", *ON) == GIVE_UP
    said = capsys.readouterr()
    assert said.out == ""
    assert one_line(said.err).startswith(f"kvmharness: ssh://me@box:2222: {reason}")


@pytest.mark.parametrize("command", ["run", "probe"])
def test_a_lost_box_ends_a_command_with_one_line(ssh: PutSsh, capsys: Capture, command: str) -> None:
    ssh(SAYS.format(said="sh: 1: tar: not found", status=127))
    assert status_of(command, *ON) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert one_line(said.err).endswith("(exit status 127): sh: 1: tar: not found")


def test_without_an_ssh_client_git_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert status_of("bisect-step", "--host", *ON) == GIVE_UP
    assert "there is no ssh on this machine: " in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(("number", "status"), [(errno.ENOENT, SKIP), (errno.EACCES, GIVE_UP)])
def test_a_box_without_kvm_is_skipped_and_one_that_forbids_it_ends_the_search(
    ssh: PutSsh, capsys: Capture, number: int, status: int
) -> None:
    ssh(made_up_ssh(end=(there.NO_KVM, number, "there is no /dev/kvm")))
    assert status_of("bisect-step", "--host", *ON) == status
    said = capsys.readouterr()
    assert "ssh://me@box:2222: there is no /dev/kvm" in one_line(said.out or said.err)


def test_a_box_that_does_not_stop_changing_is_never_bad(ssh: PutSsh, capsys: Capture) -> None:
    ssh(made_up_ssh("mainline-before-6.7", end=(there.CHANGED, "clocksource was tsc and is hpet")))
    assert status_of("bisect-step", "--host", *ON, "--scenario", "young-restore") == SKIP
    assert "clocksource was tsc and is hpet" in capsys.readouterr().out


def test_the_player_runs_where_nothing_of_this_environment_is_known_and_leaves_nothing(
    ssh: PutSsh, capsys: Capture, tmp_path: Path, system: object
) -> None:
    home, log = tmp_path / "home", tmp_path / "log"
    home.mkdir()
    ssh(LOCAL.format(log=log, home=home))
    assert status_of("probe", *ON) == 0
    here = capsys.readouterr().out
    assert f"/dev/kvm of {os.uname().release} on ssh://me@box:2222, found by its effects" in here
    assert [*home.iterdir()] == []
    assert log.read_text().startswith(
        "-T -o ServerAliveInterval=15 -o ServerAliveCountMax=4 -p 2222 -- me@box "
    )


def test_what_travels_opens_no_file_of_the_python_that_is_installed(tmp_path: Path) -> None:
    """Where only the folder is there, and what a shell needs."""
    if subprocess.run(["unshare", "--map-root-user", "true"], capture_output=True, check=False).returncode:
        pytest.skip("missing capability: user namespaces")
    root = tmp_path / "root"
    programs = [shutil.which(name) for name in ("sh", "tar", "gzip", "mktemp", "rm", "chmod", "env")]
    for program in filter(None, programs):
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for path in {program, *(word for word in linked.split() if word.startswith("/"))}:
            (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, root / path.lstrip("/"))
    (root / "tmp").mkdir()
    (root / "dev").mkdir()
    (root / "dev/null").touch()
    (root / "bin").symlink_to("usr/bin")
    put_ssh(
        tmp_path / "bin",
        f"#!/bin/sh\nfor last; do :; done\nexec unshare --map-root-user chroot {root} "
        f'{shutil.which("env")} -i PATH=/usr/bin:/bin HOME=/tmp {shutil.which("sh")} -c "$last"\n',
    )
    command = [sys.executable, "-m", "kvmharness", "probe", *ON]
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=GIVE_UP_S
    )
    # No /dev is there, so no KVM either: it is the player that says so.
    assert "ssh://me@box:2222: there is no /dev/kvm: load kvm_amd" in one_line(done.stderr)
    assert [*(root / "tmp").iterdir()] == []


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[int]:
    """The port of a real sshd of this test's own; whose ssh is told where its keys are by HOME/.ssh."""
    program = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None or shutil.which("ssh-keygen") is None:
        pytest.skip("missing capability sshd: install openssh-server")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    options = {
        "HostKey": tmp_path / "host",
        "AuthorizedKeysFile": tmp_path / "user.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PidFile": "none",
        "ListenAddress": f"127.0.0.1:{port}",
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    with subprocess.Popen([program, "-D", "-f", "/dev/null", *words], stderr=subprocess.PIPE) as running:
        try:
            for _ in range(100):
                with socket.socket() as trying:
                    if trying.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield port
        finally:
            running.terminate()


@pytest.mark.full
def test_a_real_sshd_takes_it(
    sshd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, system: object
) -> None:
    real = shutil.which("ssh")
    keys = f"-i {tmp_path / 'user'} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -q"
    put_ssh(tmp_path / "bin", f'#!/bin/sh\nexec {real} {keys} "$@"\n')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert status_of("probe", "--on", f"ssh://127.0.0.1:{sshd}") == 0
    assert "stable-tsc" in capsys.readouterr().out
    wrong = f"ssh://127.0.0.1:{sshd + 1}"
    assert status_of("bisect-step", "--host", "--on", wrong) == GIVE_UP
    assert f"{wrong}: ssh does not connect" in one_line(capsys.readouterr().err)
