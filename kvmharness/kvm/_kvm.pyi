# SPDX-License-Identifier: GPL-2.0-or-later
from typing import Any

from cffi import FFI

ffi: FFI
lib: Any
