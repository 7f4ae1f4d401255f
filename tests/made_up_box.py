# SPDX-License-Identifier: GPL-2.0-or-later
"""An `ssh` that reaches no box: what stands in for it on PATH, and what is played at its other end."""

import io
import json
import marshal
import os
import sys
import tarfile
from pathlib import Path

from kvmharness import trace
from kvmharness.lab.machines import protocol
from kvmharness.remote import there
from kvmharness.script import from_json
from tests import made_up
from tests.made_up_kernels import put

# The remote command is run on this machine, by a shell that knows nothing of this environment.
LOCAL = """\
#!/bin/sh
for last; do :; done
echo "$@" | head -n 1 >>{log}
cd / && exec env -i PATH=/usr/bin:/bin HOME={home} TMPDIR={home} sh -c "$last"
"""
MADE_UP = """\
#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.made_up_box import main
main({policy!r}, {cut}, {end!r})
"""


def put_ssh(folder: Path, text: str) -> None:
    """Put a program called ssh into a folder."""
    put(folder / "ssh", text).chmod(0o755)


def made_up_ssh(
    policy: str = "mainline-6.7", cut: int = 0, end: tuple[object, ...] = (there.CHANGED,)
) -> str:
    """An ssh to a box whose KVM has a policy. Of the frames the last `cut` are lost, with the connection;
    `end` is the one after those of the scripts."""
    return MADE_UP.format(
        python=sys.executable, root=str(Path(__file__).parents[1]), policy=policy, cut=cut, end=list(end)
    )


def main(policy: str, cut: int, end: list[object]) -> None:
    """Play what comes on stdin on a made-up KVM."""
    with tarfile.open(fileobj=io.BytesIO(sys.stdin.buffer.read())) as archive:
        job = archive.extractfile("job")
        assert job is not None
        number, rounds = marshal.loads(job.read())
    frames = []
    for name, script in (each for together in rounds for each in together):
        played = made_up.play(name, tuple(map(from_json, script)), policy)
        lines = [*trace.to_lines(played)]
        steps = [json.loads(line) for line in lines[1:-1]]
        for step in steps:
            del step["op"]
        created = json.loads(lines[0]).get("created")
        frames.append([name, "6.0-of-the-box", created, steps, {"clocksource": "tsc"}])
    contents = [*frames, end, protocol.END]
    kept = contents[: len(contents) - cut]
    sys.stdout.buffer.write(b"".join(protocol.encode(number, each) for each in kept))
    sys.stdout.flush()
    if cut:
        print("client_loop: send disconnect: Broken pipe", file=sys.stderr, flush=True)
    os._exit(255 if cut else 0)
