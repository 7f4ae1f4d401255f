#!/bin/sh
# SPDX-License-Identifier: GPL-2.0-or-later
# A result for each scenario in output/result.txt, as Linaro's test-definitions have it. With -k KERNEL the
# kernel is played on in the lab, otherwise this machine's own.
harness=${KVMHARNESS:-kvmharness}
output=$(pwd)/output
kernel=
while getopts k: option; do
	case $option in
	k) kernel=$OPTARG ;;
	*) echo "usage: $0 [-k KERNEL]" >&2; exit 2 ;;
	esac
done
mkdir -p "$output"
if [ -n "$kernel" ]; then
	"$harness" lab run "$kernel" --format ktap --output "$output/kvmharness.ktap"
else
	"$harness" run --format ktap --output "$output/kvmharness.ktap"
fi
status=$?
case $status in
0 | 1 | 4) ;;
*) echo "kvmharness fail" >"$output/result.txt" ;;
esac
if [ -s "$output/kvmharness.ktap" ]; then
	awk '/^ok [0-9]+ .*# SKIP/ { print $3, "skip"; next }
		/^ok [0-9]+ / { print $3, "pass" }
		/^not ok [0-9]+ / { print $4, "fail" }' "$output/kvmharness.ktap" >>"$output/result.txt"
fi
[ "$status" -ne 4 ] || echo "kvmharness skip" >>"$output/result.txt"
cat "$output/result.txt"
