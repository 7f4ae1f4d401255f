# SPDX-License-Identifier: GPL-2.0-or-later
from typing import Any

# cffi's own stubs do not know the fields of structs.
ffi: Any
lib: Any
