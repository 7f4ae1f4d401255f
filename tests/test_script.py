# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts as JSON."""

import json
from typing import Any

import pytest
from hypothesis import given

from kvmharness import script
from kvmharness.script import (
    GuestWrite,
    Operation,
    Ppm,
    Read,
    ScriptError,
    SetMsrs,
    SetTscKhz,
    Time,
    from_json,
    to_json,
)
from tests.strategies import operations


@given(operations)
def test_every_operation_survives_json(operation: Operation) -> None:
    assert from_json(json.loads(json.dumps(to_json(operation)))) == operation


def test_json_reads_like_what_it_does() -> None:
    operation = SetMsrs(vcpu=1, msrs=(("TSC", Read("tsc", Time(5))),), label="restore")
    assert to_json(operation) == {
        "op": "set_msrs",
        "vcpu": 1,
        "msrs": [["TSC", {"read": "tsc", "plus": {"ns": 5}}]],
        "label": "restore",
    }


def test_a_frequency_may_be_a_change_in_ppm() -> None:
    assert to_json(SetTscKhz(vcpu=0, khz=Ppm(200))) == {"op": "set_tsc_khz", "vcpu": 0, "khz": {"ppm": 200}}
    assert to_json(SetTscKhz(vcpu=0, khz=200)) == {"op": "set_tsc_khz", "vcpu": 0, "khz": 200}


def test_a_guest_has_as_long_for_a_write_as_for_a_run() -> None:
    assert to_json(GuestWrite(vcpu=0, msr="TSC", value=Time(5))) == {
        "op": "guest_write",
        "vcpu": 0,
        "msr": "TSC",
        "value": {"ns": 5},
        "ns": script.Run(vcpu=0).ns,
    }


def test_a_field_that_has_a_default_may_be_left_out() -> None:
    written = {"op": "guest_write", "vcpu": 0, "msr": "TSC", "value": 1}
    assert from_json(written) == script.GuestWrite(vcpu=0, msr="TSC", value=1)
    # A trace that was saved before an L2 could have a rate of its own.
    old = {"op": "run_l2", "vcpu": 0, "offset": 5, "ns": 7}
    assert from_json(old) == script.RunL2(vcpu=0, offset=5, ns=7)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (7, "expected an operation, got 7"),
        ({"op": "fly"}, "no operation is called 'fly'"),
        ({"op": ["sleep"]}, "no operation is called"),
        ({"op": "sleep"}, "sleep: missing or unknown: ns"),
        ({"op": "sleep", "ns": 1, "vcpu": 0}, "sleep: missing or unknown: vcpu"),
        ({"op": "sleep", "ns": True}, "whole number"),
        ({"op": "sleep", "ns": -1}, "whole number from 0"),
        ({"op": "get_msrs", "vcpu": 24, "indices": ["TSC"]}, "whole number from 0 to 23"),
        ({"op": "get_msrs", "vcpu": 0, "indices": ["TCS"]}, "no MSR is called 'TCS'"),
        ({"op": "get_msrs", "vcpu": 0, "indices": []}, "a list that is not empty"),
        ({"op": "set_msrs", "vcpu": 0, "msrs": [["TSC"]]}, "an MSR and its value"),
        ({"op": "create_vcpu", "vcpu": 0, "guest": "dos"}, "no guest is called 'dos'"),
        ({"op": "set_tsc_khz", "vcpu": 0, "khz": -1}, "whole number from 0 to 4294967295"),
        ({"op": "set_tsc_khz", "vcpu": 0, "khz": 2**32}, "whole number from 0 to 4294967295"),
        ({"op": "set_tsc_khz", "vcpu": 0, "khz": {"ns": 1}}, "whole number"),
        ({"op": "set_tsc_khz", "vcpu": 0, "khz": {"ppm": 1, "of": 2}}, "whole number"),
        ({"op": "set_vm_tsc_khz", "khz": {"ppm": 0.5}}, "whole number from -1000000"),
        ({"op": "set_vm_tsc_khz", "khz": {"ppm": -1_000_001}}, "whole number from -1000000"),
        ({"op": "set_vm_tsc_khz", "vcpu": 0, "khz": 1}, "set_vm_tsc_khz: missing or unknown: vcpu"),
        ({"op": "move_thread", "to": 16}, "whole number from 0 to 15"),
        ({"op": "guest_write", "vcpu": 0, "msr": "TSC"}, "guest_write: missing or unknown: value"),
        ({"op": "guest_write", "vcpu": 0, "msr": 16, "value": 1, "ns": 1}, "no MSR is called 16"),
        ({"op": "guest_write", "vcpu": 0, "msr": "TSC", "value": {"ppm": 1}, "ns": 1}, "whole number"),
        (
            {
                "op": "set_tsc_offset",
                "vcpu": 0,
                "offset": {"read": "a", "plus": {"read": "b", "plus": 1}},
            },
            "cannot be a reading itself",
        ),
    ],
)
def test_json_that_makes_no_sense_is_refused_with_the_reason(data: Any, complaint: str) -> None:
    with pytest.raises(ScriptError, match=complaint):
        from_json(data)
