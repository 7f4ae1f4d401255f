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

from kvmharness.script.codec import MAX_SLEEP_NS as MAX_SLEEP_NS
from kvmharness.script.codec import ScriptError as ScriptError
from kvmharness.script.json import from_json as from_json
from kvmharness.script.json import to_json as to_json
from kvmharness.script.operations.base import OPERATIONS as OPERATIONS
from kvmharness.script.operations.base import Operation as Operation
from kvmharness.script.operations.base import Resolver as Resolver
from kvmharness.script.operations.base import Script as Script
from kvmharness.script.operations.clock import *
from kvmharness.script.operations.guest import *
from kvmharness.script.operations.host import *
from kvmharness.script.operations.hyperv import *
from kvmharness.script.operations.khz import *
from kvmharness.script.operations.msr import *
from kvmharness.script.operations.nested import *
from kvmharness.script.operations.runstate import *
from kvmharness.script.operations.steal import *
from kvmharness.script.operations.thread import *
from kvmharness.script.operations.timer import *
from kvmharness.script.operations.vcpu import *
from kvmharness.script.operations.xen import *
from kvmharness.script.value import Khz as Khz
from kvmharness.script.value import Ppm as Ppm
from kvmharness.script.value import Read as Read
from kvmharness.script.value import Time as Time
from kvmharness.script.value import Value as Value
from kvmharness.script.value import value_to_json as value_to_json

MAX_STEPS = 10_000
