# SPDX-License-Identifier: GPL-2.0-or-later
"""What is varied: the keys of a policy. A key that holds a set is varied word by word.

A new key of Policy is varied without a change here, if it says what values it may have.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from kvmharness.model.policies import EXPECTED, POLICIES
from kvmharness.model.policy import Policy, PolicyError, checked, key_values

# A KVM that ignores writes has no rule for them.
_NEVER_VARIED = frozenset({"name", "summary", "source", "honours_writes"})
# What these keys decide is about clocks and about the VM's beginning, not about writes. They are varied when
# they are asked for: all at once they would make 64 times as many policies.
_VARIED_IF_ASKED = frozenset({"stable_by", "flags_from", "epoch", "renews_masterclock", "catches_up_to"})


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision of a policy: the value of a key, or, with a `word`, whether the key's set holds it."""

    key: str
    word: str
    values: tuple[Any, ...]

    def of(self, policy: Policy) -> Any:
        """What a policy decides."""
        value = getattr(policy, self.key)
        return self.word in value if self.word else value


@dataclass(frozen=True, slots=True)
class Space:
    """All policies that decide `choices` in any way and are like `base` in the rest."""

    choices: tuple[Choice, ...]
    base: Policy

    @property
    def size(self) -> int:
        """How many policies these are."""
        size = 1
        for choice in self.choices:
            size *= len(choice.values)
        return size

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that are varied."""
        return tuple(dict.fromkeys(choice.key for choice in self.choices))

    def policy(self, decided: Mapping[Choice, Any], like: Policy | None = None) -> Policy:
        """The policy that decides so, and like another one (by default the base) what is not in `decided`."""
        like = like or self.base
        values: dict[str, Any] = {}
        for choice, value in decided.items():
            if choice.word:
                held = values.get(choice.key, getattr(like, choice.key))
                values[choice.key] = held | {choice.word} if value else held - {choice.word}
            else:
                values[choice.key] = value
        return replace(like, name="", **values)

    def __contains__(self, policy: Policy) -> bool:
        """Whether a policy is one of these."""
        decided = {choice: choice.of(policy) for choice in self.choices}
        within = all(value in choice.values for choice, value in decided.items())
        return within and _rule_of(self.policy(decided)) == _rule_of(policy)


def _rule_of(policy: Policy) -> Policy:
    return replace(policy, name="", summary="", source="")


def space(varied: Iterable[str] = (), base: Policy = POLICIES[EXPECTED]) -> Space:
    """The space in which these keys are varied: each KEY, or KEY=VALUE,VALUE for these values of it alone.

    Without any it is every key that has a few values and is about writes. PolicyError names what is wrong.
    """
    keys = [field.name for field in fields(Policy) if field.name not in _NEVER_VARIED]
    asked = [(key, values.split(",") if equals else []) for key, equals, values in map(_parts, varied)]
    for key, values in asked:
        if key not in keys or not _choices(key, values, base):
            few = ", ".join(key for key in keys if _choices(key, [], base))
            raise PolicyError(f"{key!a:.60} cannot be varied; these can: {few}, and KEY=VALUE,VALUE a number")
    by_itself = [(key, list[str]()) for key in keys if key not in _VARIED_IF_ASKED]
    found = [_choices(key, values, base) for key, values in asked or by_itself]
    return Space(tuple(choice for choices in found for choice in choices), base)


def _parts(text: str) -> tuple[str, str, str]:
    return text.partition("=")


def _choices(key: str, only: Sequence[str], base: Policy) -> tuple[Choice, ...]:
    """What there is to decide of a key, `only` these values if any; nothing where they are not known."""
    words = key_values(key)
    if words:
        for value in only:
            checked(key, [value] if words[1] else value)
        values = tuple(only) or words[0]
        return (
            tuple(Choice(key, word, (False, True)) for word in values)
            if words[1]
            else (Choice(key, "", values),)
        )
    if isinstance(getattr(base, key), bool):
        return (Choice(key, "", (False, True)),)
    try:
        numbers = tuple(checked(key, int(value)) for value in only)
    except ValueError as error:
        raise (
            error if isinstance(error, PolicyError) else PolicyError(f"{key}: expected whole numbers")
        ) from None
    return (Choice(key, "", numbers),) if numbers else ()
