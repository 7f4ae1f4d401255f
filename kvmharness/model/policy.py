# SPDX-License-Identifier: GPL-2.0-or-later
"""Policies: the choices in which kernels, and patches to them, differ. Data, no code.

A policy answers a few questions that do not depend on each other, so every combination of answers is a
policy. The rest of the rule is the same for all (see `rules`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from kvmharness.model.arithmetic import NS_PER_SECOND

# The choices, each with what it means.
SNAP_REQUIRES = {
    "user-set-tsc": "userspace has set a TSC of this VM before",
    "vcpu-has-run": "the vCPU has run",
    "vcpus-matched": "another vCPU is matched with the current generation",
    "never": "nothing does",
}
USER_SET_BY = {
    "zero": "a host write of 0 to MSR_IA32_TSC",
    "value": "a host write of any other value to MSR_IA32_TSC",
    "attribute": "KVM_VCPU_TSC_OFFSET",
}
USER_ZERO = {
    "snaps": "is always a request to synchronize",
    "as-value": "is a value like any other",
}
RELOADS = {
    "unstable": "at every vCPU load while the host's TSC is unstable",
    "before-first-run": "also at a load on another CPU, as long as the vCPU never ran",
}
SNAP_RECORDS = {
    "written": "the value written, and the time now",
    "guest": "the TSC that the vCPU really has, and the time now",
    "origin": "nothing: the generation's first value and time stay",
}
KHZ_WRITE = {
    "silent": "nothing is written",
    "synchronizes": "the vCPU's TSC of just before is written, as if userspace had",
}
STABLE_BY = {
    "offsets": "as long as all vCPUs are matched with the current generation",
    "khz": "as long as all vCPUs have the same kHz; PVCLOCK_TSC_STABLE_BIT needs both",
}
FLAGS_FROM = {
    "run": "when a vCPU next enters its guest, and KVM_GET_CLOCK says so from then on",
    "creation": "when a vCPU is created, too, unless it is there already",
}
EPOCH = {
    "first-vcpu": "with the first vCPU, whose TSC then is 0",
    "vm": "with the VM, when its TSC is 0; the first vCPU joins it",
}
RENEWS_MASTERCLOCK = {
    "either": "one of the next two, of which kernels have one or the other",
    "write": "every write while there is one, or while there could be",
    "generation": "a new generation",
    "neither": "nothing but that it comes or goes",
}
CATCHES_UP_TO = {
    "snapshot": "where the TSC should have been when the masterclock was looked at",
    "now": "where the TSC should be now",
}


class PolicyError(ValueError):
    """A policy's description makes no sense; the text names the key."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a kernel does where kernels differ.

    snap_requires  what has to be true before a host write that is not 0 can be a request to
                   synchronize (SNAP_REQUIRES; all of these)
    user_set_by    what sets the VM's user_set_tsc, for "user-set-tsc" above (USER_SET_BY)
    user_zero      what a host write of 0 is (USER_ZERO)
    window_ns      how near to what was expected a written value has to be, in ns of guest cycles
    snap_records   what a synchronized write leaves in last_tsc_write and last_tsc_nsec (SNAP_RECORDS)
    khz_write      what KVM_SET_TSC_KHZ of a vCPU, and its creation, write beside the rate (KHZ_WRITE)
    stable_by      how long there is a masterclock (STABLE_BY)
    flags_from     when the masterclock first comes (FLAGS_FROM)
    epoch          with what the first generation begins (EPOCH)
    renews_masterclock  what has the masterclock looked at again, once it is there (RENEWS_MASTERCLOCK)
    catches_up_to  how far a TSC is advanced that hardware does not scale (CATCHES_UP_TO)
    reloads        when a vCPU load sets the offset again from last_guest_tsc (RELOADS)
    honours_writes whether writes and the offset attribute do anything at all
    rule           what decides where no key does: a written_rule.WrittenRule, or None
    """

    name: str
    summary: str
    source: str
    snap_requires: frozenset[str] = frozenset()
    user_set_by: frozenset[str] = frozenset({"zero", "value", "attribute"})
    user_zero: str = "snaps"
    window_ns: int = NS_PER_SECOND
    snap_records: str = "written"
    khz_write: str = "silent"
    stable_by: str = "offsets"
    flags_from: str = "run"
    epoch: str = "first-vcpu"
    renews_masterclock: str = "either"
    catches_up_to: str = "snapshot"
    reloads: str = "unstable"
    honours_writes: bool = True
    rule: Any = None

    def is_opened_by(self, what: str) -> bool:
        """Whether one of USER_SET_BY sets user_set_tsc, as far as this policy ever looks at that."""
        required = self.snap_requires
        return "never" not in required and "user-set-tsc" in required and what in self.user_set_by


def stated_differences(policy: Policy, other: Policy) -> list[str]:
    """The keys in which a policy differs from another, each with its value, as a policy file states them."""
    keys = [key for key in _KEYS if key not in ("summary", "source")]
    found = {
        key: _stated(getattr(policy, key)) for key in keys if getattr(policy, key) != getattr(other, key)
    }
    return [
        f"{_ABOUT[key]} ({key} = {value})" if key in _ABOUT else f"{key} = {value}"
        for key, value in found.items()
    ]


def _stated(value: object) -> str:
    if isinstance(value, frozenset):
        return f"[{', '.join(map(_stated, sorted(value)))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def one_key_away(policy: Policy) -> list[Policy]:
    """Every policy that differs from this one in one choice, or in one member of a set; named for that."""
    changes: list[dict[str, Any]] = [
        {key: getattr(policy, key) ^ {name}} for key, names in _SETS.items() for name in names
    ]
    changes += [
        {key: value} for key, names in _CHOICES.items() for value in names if value != getattr(policy, key)
    ]
    found = [replace(policy, **change) for change in changes]
    return [
        replace(each, name=f"{policy.name} but for {stated_differences(each, policy)[0]}") for each in found
    ]


_SETS = {"snap_requires": SNAP_REQUIRES, "user_set_by": USER_SET_BY}
_CHOICES = {
    "user_zero": USER_ZERO,
    "snap_records": SNAP_RECORDS,
    "khz_write": KHZ_WRITE,
    "stable_by": STABLE_BY,
    "flags_from": FLAGS_FROM,
    "epoch": EPOCH,
    "renews_masterclock": RENEWS_MASTERCLOCK,
    "catches_up_to": CATCHES_UP_TO,
    "reloads": RELOADS,
}
# Keys whose name does not say which ioctl they are about.
_ABOUT = {"khz_write": "KVM_SET_TSC_KHZ", "honours_writes": "all writes of TSCs"}
_KEYS = tuple(field.name for field in fields(Policy) if field.name not in ("name", "rule"))


def from_tables(data: Mapping[str, Any], known: Mapping[str, Policy]) -> dict[str, Policy]:
    """The policies that a policy file describes, by name: one TOML table each, under [policy].

    A table states the keys of Policy; `like` names a known policy, or one further up in the file,
    from which the rest is taken (the first kernels' rule otherwise). PolicyError names the key that
    is wrong.
    """
    stray = sorted(set(data) - {"policy"})
    if stray or not isinstance(data.get("policy"), dict) or not data["policy"]:
        what = f"{stray[0]}: unknown" if stray else "policy: missing"
        raise PolicyError(f"{what}: a policy file holds tables [policy.NAME] and nothing else")
    found: dict[str, Policy] = {}
    for name, table in data["policy"].items():
        if name in known:
            raise PolicyError(f"policy.{name}: there is a policy of that name; take another")
        if not (name.isascii() and name.isprintable()) or not name or len(name) > 60 or " " in name:
            raise PolicyError(f"policy.{name!a:.60}: a name is one short word of plain text")
        if not isinstance(table, dict):
            raise PolicyError(f"policy.{name}: expected a table of keys, got {table!a:.60}")
        found[name] = _from_table(name, table, {**known, **found})
    return found


def _from_table(name: str, table: dict[str, Any], known: Mapping[str, Policy]) -> Policy:
    choices = dict(table)
    like = choices.pop("like", None)
    if like is not None and (not isinstance(like, str) or like not in known):
        raise PolicyError(f"policy.{name}.like: no policy is called {like!a:.60}")
    base = replace(known[like], name=name) if like else Policy(name, "", "")
    base = replace(base, summary="stated in a policy file", source="a policy file")
    checked = {key: _check(f"policy.{name}.{key}", key, value) for key, value in choices.items()}
    return replace(base, **checked)


def _check(where: str, key: str, value: Any) -> Any:
    if key in _SETS:
        if not isinstance(value, list):
            raise PolicyError(f"{where}: expected a list of {_names(_SETS[key])}, got {value!a:.60}")
        for each in value:
            _one_of(where, each, _SETS[key])
        return frozenset(value)
    if key in _CHOICES:
        return _one_of(where, value, _CHOICES[key])
    if key == "window_ns":
        if type(value) is not int or not 0 < value <= 3600 * NS_PER_SECOND:
            raise PolicyError(f"{where}: expected a whole number of ns up to an hour, got {value!a:.60}")
    elif key == "honours_writes":
        if type(value) is not bool:
            raise PolicyError(f"{where}: expected true or false, got {value!a:.60}")
    elif key in ("summary", "source"):
        if type(value) is not str or not value.isprintable():
            raise PolicyError(f"{where}: expected a line of text, got {value!a:.60}")
    elif isinstance(value, dict):
        raise PolicyError(f"{where}: a table in a table; a name with a dot in it goes into quotes")
    else:
        raise PolicyError(f"{where}: unknown; a policy has {', '.join(('like', *_KEYS))}")
    return value


def _one_of(where: str, value: Any, choices: Mapping[str, str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise PolicyError(f"{where}: expected {_names(choices)}, got {value!a:.60}")
    return value


def _names(choices: Mapping[str, str]) -> str:
    return " or ".join(f'"{name}"' for name in choices)


def key_values(key: str) -> tuple[tuple[str, ...], bool] | None:
    """The words that a key may hold, and whether it holds a set of them; None for a key of another kind."""
    if key in _SETS:
        return tuple(_SETS[key]), True
    return (tuple(_CHOICES[key]), False) if key in _CHOICES else None


def checked(key: str, value: Any) -> Any:
    """The value of a key as a policy holds it, from what a policy file says. PolicyError names the key."""
    return _check(key, key, value)
