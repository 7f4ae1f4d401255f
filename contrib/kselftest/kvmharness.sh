#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# kvmharness as a kselftest: KTAP, and the exit statuses 0 (pass), 1 (fail) and 4 (skip). The runner hands
# over $KSELFTEST_KVMHARNESS_SH_ARGS as arguments; started by hand, the script takes them from there itself.
harness=${KVMHARNESS:-kvmharness}
# shellcheck disable=SC2086 # they are words
[ $# -gt 0 ] || set -- ${KSELFTEST_KVMHARNESS_SH_ARGS:-run}

if ! command -v "$harness" >/dev/null; then
	echo "KTAP version 1"
	echo "1..0 # SKIP $harness is not installed"
	exit 4
fi
"$harness" "$@" --format ktap
case $? in
0) exit 0 ;;
4) exit 4 ;;
*) exit 1 ;; # also 2 and 3, which mean XFAIL and XPASS to kselftest
esac
