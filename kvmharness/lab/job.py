# SPDX-License-Identifier: GPL-2.0-or-later
"""What is carried into a lab machine and out of it again.

In: a job, scripts with their names. Out: their traces between a first and a last line that carry the
job's number, a count and a checksum, so that nothing a dying machine leaves can pass for a result.
"""

import binascii
import json
from collections.abc import Iterable, Iterator
from typing import Any

from kvmharness import script, trace
from kvmharness.script import Script
from kvmharness.trace import Trace, TraceError

JOB_PATH = "/job.json"


def to_json(number: str, scripts: dict[str, Script]) -> str:
    """A job: play these scripts, in this order."""
    plays = [
        {"scenario": name, "script": [script.to_json(operation) for operation in operations]}
        for name, operations in scripts.items()
    ]
    return json.dumps({"job": number, "plays": plays})


def from_json(text: str) -> tuple[str, dict[str, Script]]:
    """The job's number and scripts."""
    data: dict[str, Any] = json.loads(text)
    scripts = {
        play["scenario"]: tuple(script.from_json(operation) for operation in play["script"])
        for play in data["plays"]
    }
    return data["job"], scripts


def result_lines(number: str, traces: Iterable[Trace]) -> Iterator[str]:
    """The result's lines with their ends, each as soon as there is something to say."""
    checksum, count = 0, 0
    yield json.dumps({"job": number}) + "\n"
    for each in traces:
        for line in trace.to_lines(each):
            checksum = binascii.crc32(line.encode(), checksum)
            count += 1
            yield line + "\n"
    yield json.dumps({"job": number, "lines": count, "crc32": checksum}) + "\n"


def read_result(number: str, data: bytes) -> list[Trace]:
    """The traces in a result. TraceError when it is not this job's, or not whole."""
    try:
        lines = data.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise TraceError("the result holds bytes that were never written to it") from None
    if lines[-1] != "" or len(lines) < 3:
        raise TraceError(f"the result is cut off after {len(data)} bytes")
    first, body, last = lines[0], lines[1:-2], lines[-2]
    checksum = 0
    for line in body:
        checksum = binascii.crc32(line.encode(), checksum)
    ends = {"job": number, "lines": len(body), "crc32": checksum}
    if first != json.dumps({"job": number}) or last != json.dumps(ends):
        raise TraceError("the result has no end mark of this job: cut off, or damaged on its way")
    return list(trace.from_lines(body))
