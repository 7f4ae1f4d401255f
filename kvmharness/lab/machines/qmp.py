# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's monitor: commands to a running QEMU over its standard input and output (docs/interop/qmp-spec)."""

import json
import subprocess
from contextlib import suppress
from typing import Any

# Of what it prints, the last.
_MOST_OUTPUT = 1 << 16


class EndedError(Exception):
    """QEMU ended; what it printed until then is still to be had."""


class CommandRefusedError(Exception):
    """QEMU said no to a command."""


class Monitor:
    """The monitor of a QEMU that was started with `-qmp stdio`, both ends piped, its errors among them.

    What QEMU prints beside the monitor's own lines is kept as its output.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._to, self._from = process.stdin, process.stdout
        self._output = b""
        self._events: set[str] = set()

    def execute(self, command: str, **arguments: object) -> dict[str, Any]:
        """What a command returned; CommandRefusedError if QEMU does not do it, EndedError if it is gone."""
        request = {"execute": command, "arguments": arguments}
        try:
            self._to.write(json.dumps(request).encode() + b"\n")
            self._to.flush()
        except OSError:
            with suppress(OSError):
                self._to.close()  # what could not be written would be tried again
            raise EndedError(command) from None
        while True:
            answer = self._next()
            if "return" in answer:
                returned = answer["return"]
                return returned if isinstance(returned, dict) else {}
            if "error" in answer:
                raise CommandRefusedError(f"{command}: {answer['error']}")

    def wait_for(self, event: str) -> None:
        """Return once the event came; EndedError when QEMU ends without it."""
        while not self.has_seen(event):
            self._next()

    def has_seen(self, event: str) -> bool:
        """Whether the event came already."""
        return event in self._events

    def rest(self) -> bytes:
        """Wait for QEMU's end; all that it printed beside the monitor's lines."""
        try:
            while True:
                self._next()
        except EndedError:
            return self._output

    def _next(self) -> dict[str, Any]:
        """The next line of the monitor's; EndedError when there are no more."""
        for line in self._from:
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict):
                self._output = (self._output + line)[-_MOST_OUTPUT:]
                continue
            if "event" in message:
                self._events.add(str(message["event"]))
            return message
        raise EndedError("QEMU ended")
