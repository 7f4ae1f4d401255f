# SPDX-License-Identifier: GPL-2.0-or-later
"""kvmharness: does a Linux kernel's KVM synchronize guest TSCs as it should?

The parts, in the order data flows through them: `script` (what to do), `player` (does it, on
`kvm` with the programs of `guests`), `trace` (what happened, between host clock readings),
`contract` (what userspace is entitled to), `verdict`, `report`. `scenarios` holds the scripts,
`lab` boots other kernels and plays inside them, `cli` is the command line.
"""

__version__ = "0.2.0.dev0"

# As in `api`, which is too much to import for whoever wants one part of the package: a lab machine, for one.
__all__ = [
    "MSRS",
    "POLICIES",
    "SCENARIOS",
    "Claim",
    "ClockClaim",
    "Comparison",
    "Difference",
    "EndClaim",
    "Event",
    "ForwardClaim",
    "Identity",
    "JudgedRun",
    "KvmError",
    "KvmUnavailableError",
    "LabError",
    "NoWarpClaim",
    "OffsetClaim",
    "Policy",
    "Prediction",
    "Promptly",
    "RateClaim",
    "ReadsClaim",
    "Result",
    "SameClaim",
    "Scenario",
    "ScenarioError",
    "Session",
    "Status",
    "System",
    "Trace",
    "TraceError",
    "Verdict",
    "compare",
    "load",
    "predict",
    "run_in_lab",
    "run_on_host",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from kvmharness.api import *


def __getattr__(name: str) -> object:
    """The public names, imported from `api` when the first of them is used."""
    if name not in __all__:
        raise AttributeError(f"module 'kvmharness' has no attribute {name!r}")
    import importlib  # noqa: PLC0415

    found: object = getattr(importlib.import_module("kvmharness.api"), name)
    return found
