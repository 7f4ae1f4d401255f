# SPDX-License-Identifier: GPL-2.0-or-later
"""The reference model: what a kernel with a given policy must have done. Pure: it neither reads nor waits.

policy, policies       the choices in which kernels differ, and those that were merged or proposed
arithmetic, interval, quantity
                       KVM's arithmetic, and what is known of numbers that were not seen
state, rules, rates    what KVM keeps, and what it does
operations             what each operation of a script leads to
judge, sentence        whether a trace is possible, and what to say if it is not
simulate               the model as a player
predict, identify      what policies would do of a script, which of them a kernel's traces are consistent with
"""
