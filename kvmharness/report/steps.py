# SPDX-License-Identifier: GPL-2.0-or-later
"""A script in short words, with what is done to one vCPU after the other said once."""

from kvmharness.script import Operation, Read, Script

_LONGEST_BLOCK = 4


def in_short(script: Script) -> list[str]:
    """The steps as phrases: "for each of vCPUs 0 to 3: ..." where a few come again for the next vCPU."""
    wanted = {label for operation in script for label in _read_by(operation)}
    phrases, place = [], 0
    while place < len(script):
        block, times = _block_at(script, place)
        words = [_words(operation, wanted) for operation in script[place : place + block]]
        if times > 1:
            first = _vcpu(script[place]) or 0
            each = ", ".join(_without_vcpu(word, first) for word in words)
            words = [f"for each of vCPUs {first} {'and' if times == 2 else 'to'} {first + times - 1}: {each}"]
        phrases += words
        place += block * times
    return phrases


def _block_at(script: Script, place: int) -> tuple[int, int]:
    """How many steps from here on are repeated for the vCPUs that follow, and how often they are there."""
    for block in range(1, _LONGEST_BLOCK + 1):
        times = 1
        while _is_next(script, place, block, times):
            times += 1
        if times > 1:
            return block, times
    return 1, 1


def _is_next(script: Script, place: int, block: int, times: int) -> bool:
    """Whether the block is there once more, for the next vCPU."""
    first, again = script[place : place + block], script[place + block * times : place + block * (times + 1)]
    vcpu = _vcpu(first[0])
    return (
        vcpu is not None
        and len(again) == block
        and all(
            _vcpu(one) == vcpu and _vcpu(other) == vcpu + times
            for one, other in zip(first, again, strict=True)
        )
        and all(_plain(one) == _plain(other) for one, other in zip(first, again, strict=True))
    )


def _plain(operation: Operation) -> str:
    """A step in words, whichever vCPU it is for."""
    return _without_vcpu(operation.in_words(), _vcpu(operation) or 0)


def _without_vcpu(words: str, vcpu: int) -> str:
    for each in (f" of vCPU {vcpu}", f" to vCPU {vcpu}"):
        words = words.replace(each, "")
    # A label that ends in the vCPU's number.
    return words.replace(f"-{vcpu} read", "-N read").replace(f"-{vcpu})", "-N)")


def _words(operation: Operation, wanted: set[str]) -> str:
    """The step, with its label where a later one goes by what it read."""
    name = f" ({operation.label})" if operation.label in wanted else ""
    return operation.in_words() + name


def _vcpu(operation: Operation) -> int | None:
    return operation.vcpu_numbers[0] if len(operation.vcpu_numbers) == 1 else None


def _read_by(operation: Operation) -> list[str]:
    """The labels of the steps by whose reading this one goes."""
    values: list[object] = [getattr(operation, name, None) for name in ("offset", "value")]
    values += [value for _, value in getattr(operation, "msrs", ())]
    return [value.label for value in values if isinstance(value, Read)]
