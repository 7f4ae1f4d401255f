# SPDX-License-Identifier: GPL-2.0-or-later
"""A survey of all rules: which contracts each combination of a policy's keys breaks, on the model alone.

keys      what is varied: the keys of a policy, and the values of each
plays     one scenario under all combinations, each way that the model can go played once
rules     the combinations that predict the same, what they break, which of them no other beats
workers   the scenarios, on as many CPUs as wanted
"""
