# SPDX-License-Identifier: GPL-2.0-or-later
"""Scripts: what to do to a VM, as plain data.

A script is a tuple of operations. An operation may carry a label, by which later values and a
contract refer to it. Everything goes to JSON and back unchanged; the player plays the JSON.

A value to write is a number of cycles, or
    Time(ns)              that many ns of the vCPU's own cycles
    Read(label, plus, place)
                          a value that the step with that label read (the first unless `place` says which
                          other, from 0), plus a number or a Time
A frequency to write is a number of kHz, or
    Ppm(ppm)              what it was to begin with, and that many millionths more
"""

from kvmharness.script.json import MAX_SLEEP_NS, ScriptError, from_json, to_json
from kvmharness.script.operation import (
    HOST_TSC,
    OPERATIONS,
    PVCLOCK_GUEST_STOPPED,
    PVCLOCK_TSC_STABLE_BIT,
    REALTIME,
    TSC_STABLE,
    CreateVcpu,
    GetClock,
    GetMsrs,
    GetTscKhz,
    GetTscOffset,
    GuestWrite,
    KvmclockCtrl,
    MoveThread,
    Operation,
    ReadKvmclock,
    Run,
    RunTogether,
    Script,
    SetClock,
    SetMsrs,
    SetTscKhz,
    SetTscOffset,
    SetVmTscKhz,
    Sleep,
    WriteTogether,
    vcpus_of,
)
from kvmharness.script.value import Khz, Ppm, Read, Time, Value

MAX_STEPS = 10_000

__all__ = [
    "HOST_TSC",
    "MAX_SLEEP_NS",
    "MAX_STEPS",
    "OPERATIONS",
    "PVCLOCK_GUEST_STOPPED",
    "PVCLOCK_TSC_STABLE_BIT",
    "REALTIME",
    "TSC_STABLE",
    "CreateVcpu",
    "GetClock",
    "GetMsrs",
    "GetTscKhz",
    "GetTscOffset",
    "GuestWrite",
    "Khz",
    "KvmclockCtrl",
    "MoveThread",
    "Operation",
    "Ppm",
    "Read",
    "ReadKvmclock",
    "Run",
    "RunTogether",
    "Script",
    "ScriptError",
    "SetClock",
    "SetMsrs",
    "SetTscKhz",
    "SetTscOffset",
    "SetVmTscKhz",
    "Sleep",
    "Time",
    "Value",
    "WriteTogether",
    "from_json",
    "to_json",
    "vcpus_of",
]
