# SPDX-License-Identifier: GPL-2.0-or-later
"""Operations as JSON data and back: each field by the codec of its type (see `codec`)."""

from dataclasses import MISSING, fields
from functools import cache
from typing import Any

from kvmharness.script.codec import Codec, ScriptError, one_of
from kvmharness.script.operations.base import OPERATIONS, Operation

_kind = one_of(OPERATIONS, "operation")


def to_json(operation: Operation) -> dict[str, Any]:
    """An operation as JSON data; an empty label is left out."""
    data: dict[str, Any] = {"op": operation.name}
    for name, codec in _codecs(operation.name).items():
        value = getattr(operation, name)
        if name != "label" or value:
            data[name] = codec.encode(value)
    return data


def from_json(data: Any) -> Operation:
    """The operation that to_json() made `data` from; ScriptError says what is wrong with it.

    A field that has a default may be left out, as those are in older files that were added since.
    """
    if type(data) is not dict:
        raise ScriptError(f"expected an operation, got {data!a:.60}")
    kind = OPERATIONS[_kind(data.get("op"))]
    codecs = _codecs(kind.name)
    given = {name: value for name, value in data.items() if name != "op"}
    odd = sorted(set(given) - set(codecs) | _required(kind.name) - set(given))
    if odd:
        raise ScriptError(f"{kind.name}: missing or unknown: {', '.join(str(name)[:60] for name in odd)}")
    made = kind(**{name: codecs[name].decode(value) for name, value in given.items()})
    if complaint := made.complaint():
        raise ScriptError(f"{kind.name}: {complaint}")
    return made


@cache
def _required(name: str) -> frozenset[str]:
    """The fields without a default."""
    return frozenset(field.name for field in fields(OPERATIONS[name]) if field.default is MISSING)


@cache
def _codecs(name: str) -> dict[str, Codec]:
    """The codec of each field, in the order of the fields."""
    return {field.name: field.type.__metadata__[0] for field in fields(OPERATIONS[name])}  # type: ignore[union-attr]
