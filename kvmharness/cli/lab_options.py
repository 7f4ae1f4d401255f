# SPDX-License-Identifier: GPL-2.0-or-later
"""The options that the commands of the lab share: machines, and where kernels may come from."""

import argparse
import itertools
import re
from collections.abc import Sequence
from dataclasses import replace

from kvmharness.cli import options, writing
from kvmharness.cli.errors import UsageError
from kvmharness.lab.executor import LabExecutor, LocalExecutor
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import Machine, check_emulator
from kvmharness.player.host_state import MODULES

_PARAMETER = re.compile(rf"(?:{'|'.join(MODULES)})\.[a-z0-9_]+=[A-Za-z0-9_.-]+")


def add_machines(parser: argparse.ArgumentParser, default: str = "amd") -> None:
    """Add --machine, which can be repeated, and --hang-after."""
    parser.add_argument(
        "--machine",
        action="append",
        default=[],
        metavar="NAME",
        help=f"the emulated machine (default: {default}; can be repeated; see `kvmharness list machines`)",
    )
    parser.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="MODULE.NAME=VALUE",
        type=_parameter,
        help="load KVM's modules with this parameter, as in kvm.tsc_tolerance_ppm=0 (can be repeated; each "
        "value of one parameter is a machine of its own)",
    )
    options.add_hang_after(parser)


def _parameter(text: str) -> str:
    if not _PARAMETER.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no parameter of KVM's: write {', '.join(f'{name}.NAME=VALUE' for name in MODULES)}"
        )
    return text


def pick_machines(arguments: argparse.Namespace, default: str = "amd") -> list[Machine]:
    """The machines that were asked for, or else the default, each with each of the values that a parameter
    is to have. UsageError where there is none of a name."""
    machines = options.pick(arguments.machine or [default], MACHINES, "machine")
    values: dict[str, dict[str, None]] = {}
    for parameter in arguments.param:
        values.setdefault(parameter.partition("=")[0], {})[parameter] = None
    return [
        replace(machine, hang_after_s=arguments.hang_after).with_parameters(parameters)
        for machine in machines
        for parameters in itertools.product(*values.values())
    ]


def add_executor(parser: argparse.ArgumentParser) -> None:
    """Add --jobs and --cluster."""
    where = parser.add_mutually_exclusive_group()
    options.add_jobs(where)
    where.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="play on the workers of the dask.distributed cluster whose scheduler is at ADDRESS, as in "
        "tls://host:8786 (see docs/cluster.md)",
    )


def executor(arguments: argparse.Namespace) -> LabExecutor:
    """Where to play. UsageError without the engine, LabError where no cluster is at the address."""
    if not arguments.cluster:
        return LocalExecutor(arguments.jobs)
    try:
        from kvmharness.lab.cluster import ClusterExecutor  # noqa: PLC0415 - it is not always installed
    except ImportError as error:
        raise UsageError(f"--cluster needs pip install 'kvmharness[cluster]': {error}") from None
    return ClusterExecutor(arguments.cluster, lambda line: writing.complain(f"kvmharness: {line}"))


def check_emulators(machines: Sequence[Machine], arguments: argparse.Namespace) -> None:
    """LabError when something that the machines need is not installed here, if it is here that they run."""
    for machine in machines if not arguments.cluster else ():
        check_emulator(machine)


def add_offline(parser: argparse.ArgumentParser) -> None:
    """Add --offline."""
    parser.add_argument(
        "--offline", action="store_true", help="use only what is in the cache; download nothing"
    )
