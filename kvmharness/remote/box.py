# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays on the /dev/kvm of a box that is reached by ssh.

Nothing has to be installed there: the interpreter that runs this travels with the player and what both load,
and is removed again. The box needs a Linux for x86-64 with sh, tar, gzip and mktemp. Traces are brought back
and judged here.
"""

import functools
import gzip
import logging
import os
import re
import shlex
import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from kvmharness import host
from kvmharness.judging.session import LostError, Session
from kvmharness.kvm import KvmUnavailableError
from kvmharness.lab import distribution
from kvmharness.lab.errors import LabError
from kvmharness.lab.machines import interpreter, results
from kvmharness.lab.machines.interpreter import Files
from kvmharness.lab.machines.results import BrokenResultError
from kvmharness.lab.play import Job, job_for, trace_of
from kvmharness.printable import plain
from kvmharness.remote import there
from kvmharness.scenarios import Scenario
from kvmharness.trace import HOSTS_OWN, Place, Trace, TraceError

_LOG = logging.getLogger(__name__)

_NAME = re.compile(
    r"ssh://(?P<where>(?:[^@/\s:-][^@/\s:]*@)?(?:\[[0-9a-fA-F:.]+\]|[^@/\s:\[\]-][^@/\s:\[\]]*))"
    r"(?::(?P<port>[0-9]{1,5}))?/?"
)
# A box that crashed says nothing any more, and its kernel does not close the connection.
_OPTIONS = ("-T", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")
# ssh's own exit status, when the connection fails (ssh(1)).
_OF_SSH = 255
_END_OF_ARCHIVE = bytes(2 * tarfile.BLOCKSIZE)

# Takes what comes on stdin into a folder of its own, on a file system from which programs may run, plays
# there, and removes it.
_COMMAND = """\
umask 077
for base in "${TMPDIR:-/tmp}" "$HOME" /var/tmp; do
d=$(mktemp -d "$base/kvmharness.XXXXXXXX" 2>/dev/null) || continue
printf "#!/bin/sh\\n" >"$d/try" && chmod 700 "$d/try" && "$d/try" 2>/dev/null && break
rm -rf "$d"; d=
done
if [ -z "$d" ]; then echo "no folder to run from in /tmp, HOME or /var/tmp" >&2; exit 1; fi
trap "rm -rf \\"$d\\"" EXIT
trap "exit 1" HUP INT TERM PIPE
tar -xzf - -C "$d" || exit 1
"""


class BoxLostError(LostError, LabError):
    """The box, or the connection to it, was lost, or nothing can be run there."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box that is reached by ssh, by its name: ssh://[USER@]HOST[:PORT]. HOST may be an alias of ssh's
    configuration."""

    name: str
    where: str
    port: str = ""

    @classmethod
    def named(cls, name: str) -> "Box":
        """The box of this name; ValueError where that is none."""
        found = _NAME.fullmatch(name)
        if not found or not 0 < int(found["port"] or 22) < 2**16:
            raise ValueError(
                f"{name!r} is no box: name it ssh://HOST, ssh://USER@HOST or ssh://USER@HOST:PORT"
            )
        return cls(name.rstrip("/"), found["where"].replace("[", "").replace("]", ""), found["port"] or "")

    def play(self, scenarios: Sequence[Scenario]) -> Session:
        """Play the probe and the scenarios there; see host.play(). BoxLostError; KvmUnavailableError."""
        job = job_for(scenarios)
        pack = _packed(job)
        return host.until_unchanged(lambda: self._play(job, pack))

    def _play(self, job: Job, pack: "_Pack") -> tuple[list[Trace], list[str]]:
        status, out, said = self._run(pack)
        try:
            *played, last = results.decode(job.number, out) if out else []
            kind, *rest = last
        except (BrokenResultError, ValueError, TypeError):
            raise BoxLostError(f"{self.name}: {_why(status, said, begun=bool(out))}") from None
        if kind == there.NO_KVM:
            raise KvmUnavailableError(int(rest[0]), f"{self.name}: {rest[1]}")
        if kind != there.CHANGED:
            raise OSError(int(rest[0]), f"{self.name}: {rest[1]}")
        session = os.urandom(8).hex()
        place = Place(plain(self.name), HOSTS_OWN, session, may_protect_tscs=True, counts_instructions=False)
        try:
            traces = [replace(trace_of(job, *each), place=place) for each in played]
        except (TraceError, TypeError, ValueError, KeyError) as error:
            raise BoxLostError(f"{self.name}: what came back makes no sense: {error}") from None
        return traces, [str(each) for each in rest]

    def _run(self, pack: "_Pack") -> tuple[int, bytes, str]:
        """The exit status of ssh, and what came on stdout and stderr."""
        if shutil.which("ssh") is None:
            raise LabError(f"there is no ssh on this machine: {distribution.install('openssh-client')}")
        port = ["-p", self.port] if self.port else []
        remote = f"exec sh -c {shlex.quote(_COMMAND + pack.command)}"
        command = ["ssh", *_OPTIONS, *port, "--", self.where, remote]
        _LOG.info("%s: %d KB travel there", self.name, len(pack.content) // 1024)
        done = subprocess.run(command, input=pack.content, capture_output=True, check=False)
        return done.returncode, done.stdout, done.stderr.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class _Pack:
    """What travels: a compressed archive, and what to do in the folder $d that it is unpacked in."""

    content: bytes
    command: str


def _packed(job: Job) -> _Pack:
    """A job with all that plays it. The archive is two gzip files, one after the other: the first is the same
    for each job."""
    found = _player()
    return _Pack(
        _base() + gzip.compress(_entry("job", job.content, 0o600) + _END_OF_ARCHIVE), _command(found)
    )


@functools.cache
def _player() -> Files:
    return interpreter.files(there.__name__)


@functools.cache
def _base() -> bytes:
    found = _player()
    entries = [_entry(path, None, 0o700) for path in found.folders]
    entries += [_entry(path, content, mode) for path, (content, mode) in found.contents.items()]
    return gzip.compress(b"".join(entries), 6)


def _entry(path: str, content: bytes | None, mode: int) -> bytes:
    """A file of a tar archive; a folder, where it has no content."""
    entry = tarfile.TarInfo(path.lstrip("/"))
    entry.size, entry.mode = len(content or b""), mode
    entry.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
    return entry.tobuf() + (content or b"") + bytes(-entry.size % tarfile.BLOCKSIZE)


def _command(found: Files) -> str:
    """What starts the player, from the files in the folder $d alone."""
    libraries = {
        str(PurePosixPath(path).parent) for path in found.contents if ".so" in PurePosixPath(path).name
    }
    program = str(interpreter.interpreter())
    prefix = str(PurePosixPath(program).parent.parent)
    code = (
        "import os, sys; d = sys.argv[1]; "
        f"sys.path[:0] = [d + each for each in {interpreter.import_path()!r}]; "
        f"from {there.__name__} import main; main(d); os._exit(0)"
    )
    words = [
        f'env -i PYTHONHOME="$d"{shlex.quote(prefix)} "$d"{shlex.quote(found.loader)} --library-path',
        ":".join(f'"$d"{shlex.quote(each)}' for each in sorted(libraries)),
        f'"$d"{shlex.quote(program)} -S -B -c {shlex.quote(code)} "$d"',
    ]
    return " ".join(words) + "\n"


def _why(status: int, said: str, *, begun: bool) -> str:
    """Why there is no whole result, in one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = f": {lines[-1]}" if lines else ""
    if status == _OF_SSH:
        return (
            f"the connection was lost while it was played on{last}"
            if begun
            else f"ssh does not connect{last}"
        )
    if status < 0:
        return f"ssh was ended by signal {-status}{last}"
    return f"the player did not come to its end there (exit status {status}){last}"
