# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel shows of a VM's vCPUs in debugfs, beside what it answers to ioctls.

Below kvm/PID-FD/vcpuN lie tsc-offset and, where there is TSC scaling, tsc-scaling-ratio
(kvm_arch_create_vcpu_debugfs), for root, where debugfs is mounted. Kernels before 5.16 have them too, which
tell the offset in no other way. Reading them loads no vCPU, so it moves nothing.
"""

from __future__ import annotations

import _thread
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = "/sys/kernel/debug/kvm"


class Debugfs:
    """What debugfs shows of one VM, which the calling thread has just created as descriptor `vm`.

    Its folder is kept open until close(), which shortens the way to each file. No file is: their descriptors
    cannot be read twice (simple_attr_open).
    """

    def __init__(self, vm: int, root: str = ROOT) -> None:
        # The kernel names it for the thread, by its number in the first namespace of processes.
        folder = f"{root}/{_thread.get_native_id()}-{vm}"
        self._folder = -1
        self._vcpus: set[int] = set()
        if os.access(folder, os.X_OK):
            try:
                self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError:  # it is gone, or there are too many files
                self._folder = -1

    def close(self) -> None:
        """Show nothing more; again is harmless."""
        folder, self._folder = self._folder, -1
        if folder >= 0:
            os.close(folder)

    def expect(self, vcpu: int) -> None:
        """A vCPU is about to be created. If debugfs shows it already, that is another VM's.

        A VM that had the same descriptor may be about to go, and the kernel then makes none for this one; in
        a container they may be anybody's.
        """
        if self._folder >= 0 and vcpu not in self._vcpus:
            self._vcpus.add(vcpu)
            if os.access(f"vcpu{vcpu}", os.F_OK, dir_fd=self._folder):
                self.close()

    def read(self, vcpus: Iterable[int], *, ratio: bool) -> list[list[int]]:
        """Of each vCPU the TSC offset (cycles, modulo 2**64), and with `ratio` its scaling ratio, if shown.

        Nothing at all where the kernel does not show the offsets of all of them.
        """
        if self._folder < 0:
            return []
        try:
            return [self._read(vcpu, ratio) for vcpu in vcpus]
        except (OSError, ValueError):
            return []

    def _read(self, vcpu: int, ratio: bool) -> list[int]:
        found = [self._number(f"vcpu{vcpu}/tsc-offset")]
        scaling = f"vcpu{vcpu}/tsc-scaling-ratio"
        if ratio and os.access(scaling, os.F_OK, dir_fd=self._folder):
            found.append(self._number(scaling))
        return found

    def _number(self, path: str) -> int:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
        try:
            return int(os.read(file, 32)) % 2**64
        finally:
            os.close(file)
