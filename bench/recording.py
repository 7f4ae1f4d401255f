# SPDX-License-Identifier: GPL-2.0-or-later
"""What recording costs a VMM: tests/vmms/four_threads.c with `kvmharness record` beside it without."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from kvmharness.recording.lines import from_text

ROOT = Path(__file__).parent.parent
ROUNDS = 5
IOCTLS = 3_000
TURNS = 200_000  # of a guest, about a second on a KVM that is emulated itself


def bench() -> None:
    """Ioctls, brackets, and a guest that computes."""
    with tempfile.TemporaryDirectory() as folder:
        vmm, output = Path(folder) / "vmm", Path(folder) / "r.jsonl"
        source = ROOT / "tests" / "vmms" / "four_threads.c"
        subprocess.run(["cc", "-O2", "-static", "-pthread", "-o", vmm, source], check=True)
        record = [sys.executable, "-m", "kvmharness", "record", "--output", str(output), "--"]
        ways: dict[str, Sequence[str]] = {"alone": [], "recorded": record}
        took: dict[str, list[float]] = {name: [] for name in ways}
        widths: dict[str, list[float]] = {name: [] for name in ways}
        computed: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                pair, width = _numbers([*way, str(vmm), "ioctls", str(IOCTLS)])
                took[name].append(pair)
                widths[name].append(width)
            lines = from_text(output.read_text()).lines
            widths["recorded"][-1] = median(
                line.tsc[1] - line.tsc[0] for line in lines if line.op == "get_msrs"
            )
            for name, way in ways.items():
                computed[name] += _numbers([*way, str(vmm), "compute", str(TURNS)])
        _show("KVM_RUN and GET_MSRS", "cycles", took)
        _show("bracket of GET_MSRS, width", "cycles", widths)
        _show("a guest that computes", "cycles", computed)


def _numbers(command: Sequence[str]) -> list[float]:
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return [float(each) for each in done.stdout.split()]


def _show(what: str, unit: str, measured: dict[str, list[float]]) -> None:
    """The best rounds, and their ratio: a noisy machine only adds to a round."""
    alone, recorded = min(measured["alone"]), min(measured["recorded"])
    print(
        f"{what:28} alone {alone:.0f} {unit}, recorded {recorded:.0f} {unit}: {recorded / alone:.2f} x alone"
    )
