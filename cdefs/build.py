# SPDX-License-Identifier: GPL-2.0-or-later
"""Compiles the declarations beside this file into kvmharness.kvm._kvm (cffi, API mode).

What records a VMM is compiled into kvmharness.recording._tracer: it is not needed inside a lab machine.

The headers are read twice: by cffi as declarations, and by the C compiler, so that a constant or a
layout stands in one place. They hold numbers only, no macros, because cffi reads nothing else; a
test has the C compiler hold them against the system's own <linux/kvm.h>.
"""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent
HEADERS = ("system.h", "vm.h", "tsc.h", "vcpu.h", "host.h")
SOURCES = ("host.c", "run.c")
TRACER = ("tracer.h", "tracer_lines.c", "tracer_objects.c", "tracer_ioctls.c", "tracer.c")


def _text(names: tuple[str, ...]) -> str:
    return "".join((HERE / name).read_text() for name in names)


ffi = FFI()
ffi.cdef(_text(HEADERS))
ffi.set_source(
    "kvmharness.kvm._kvm",
    "#define _GNU_SOURCE\n#include <stdint.h>\n#include <stdlib.h>\n" + _text(HEADERS) + _text(SOURCES),
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)

tracer = FFI()
tracer.cdef(_text(("tracer.h",)))
tracer.set_source(
    "kvmharness.recording._tracer",
    "#include <stdint.h>\n#include <stdlib.h>\n" + _text(TRACER),
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)
