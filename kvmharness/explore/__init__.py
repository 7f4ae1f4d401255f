# SPDX-License-Identifier: GPL-2.0-or-later
"""Looks for what no author of a scenario thought of: scripts are made, played, judged, made smaller, kept.

draft      a script in the making, which the model plays along; values: what to write where
anything   steps of every kind; lives: what VMMs do, in any order
coverage   what of the model a script reaches; generator: makes scripts that reach what is new
"""
