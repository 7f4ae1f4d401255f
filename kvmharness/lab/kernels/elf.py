# SPDX-License-Identifier: GPL-2.0-or-later
"""Reading ELF files that may be broken."""

import io
from collections.abc import Iterator
from contextlib import contextmanager

from elftools.elf.elffile import ELFFile

from kvmharness.lab.errors import LabError


@contextmanager
def opened(data: bytes, name: str) -> Iterator[ELFFile]:
    """An ELF file; LabError, calling it `name`, for one that cannot be read, also while it is looked into."""
    try:
        yield ELFFile(io.BytesIO(data))
    except LabError:
        raise
    except Exception as error:
        # pyelftools checks little, and fails by whatever a wrong number leads to: a seek, a key, a shift.
        raise LabError(f"{name} is not an ELF file that makes sense: {error}") from None
