# SPDX-License-Identifier: GPL-2.0-or-later
"""What each operation of a script leads to: worlds, each with the answers it predicts.

Its rule is the function of its name in one of these modules.
"""

from collections.abc import Callable

from kvmharness.model import (
    clock_operations,
    hyperv_operations,
    nested_operations,
    runstate_operations,
    steal_operations,
    timer_operations,
    together,
    vcpu_operations,
    xen_operations,
)
from kvmharness.model.outcome import Action, Outcome
from kvmharness.model.rules import Rules
from kvmharness.model.state import World
from kvmharness.script import OPERATIONS

HANDLERS: dict[str, Callable[[Rules, World, Action], list[Outcome]]] = {
    name: getattr(module, name)
    for module in (
        *(vcpu_operations, clock_operations, hyperv_operations, timer_operations),
        *(nested_operations, steal_operations, xen_operations, runstate_operations),
        together,
    )
    for name in OPERATIONS
    if hasattr(module, name)
}


def perform(rules: Rules, world: World, action: Action) -> list[Outcome]:
    """All that an operation may lead to. Uses `world` up."""
    return HANDLERS[action.operation.name](rules, world, action)
