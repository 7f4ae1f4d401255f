# SPDX-License-Identifier: GPL-2.0-or-later
"""Only what pyproject.toml cannot say: the cffi extensions."""

from setuptools import setup

setup(cffi_modules=["cdefs/build.py:ffi", "cdefs/build.py:tracer"])
