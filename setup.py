# SPDX-License-Identifier: GPL-2.0-or-later
"""Only what pyproject.toml cannot say: the cffi extensions, and what is installed outside the package."""

from pathlib import Path

from setuptools import setup

setup(
    cffi_modules=["cdefs/build.py:ffi", "cdefs/build.py:tracer"],
    # The extensions keep to the stable ABI: one wheel is for every CPython from 3.11 on.
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
    # Shell, not entry points: where Python does not start, git must not be given an answer.
    scripts=["scripts/bisect-fault", "scripts/bisect-fix", "scripts/bisect-on-box"],
    data_files=[("share/doc/kvmharness", ["README.md", *sorted(map(str, Path("docs").glob("*")))])],
)
