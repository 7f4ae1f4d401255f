# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of emulated machines share: an init of their own, and waiting for something to happen."""

import hashlib
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from kvmharness.lab import kernels
from kvmharness.lab.kernels import Kernel, elf
from kvmharness.lab.machines.cpio import Archive
from tests.limits import GIVE_UP_S

_HEADERS = "".join(f"#include <{name}.h>\n" for name in ("fcntl", "unistd", "sys/io", "sys/mount", "termios"))


def with_init_that(does: str, tmp_path: Path) -> bytes:
    """A piece whose /init replaces the real one and does only this, in C."""
    source, program = tmp_path / "init.c", tmp_path / "init"
    source.write_text(f"{_HEADERS}int main(void) {{ {does} }}\n")
    subprocess.run(["cc", "-static", "-w", "-o", program, source], check=True, timeout=GIVE_UP_S)
    archive = Archive()
    archive.add_file("/init", program.read_bytes(), 0o755)
    return bytes(archive)


def built_again(kernel: Kernel, name: str) -> Kernel:
    """The kernel with another build of kvm.ko, which differs in its build id alone, as built:NAME."""
    built = {path.stem: path.read_bytes() for path in kernel.modules_for("kvm_amd")}
    with elf.opened(built["kvm"], "kvm") as file:
        section = file.get_section_by_name(".note.gnu.build-id")
        assert section is not None
        note = section["sh_offset"]
    changed = bytearray(built["kvm"])
    changed[note + 16 : note + 36] = hashlib.sha1(name.encode()).digest()
    return kernels.keep_built(name, kernel, {**built, "kvm": bytes(changed)})


def wait_until(condition: Callable[[], bool], tries: int = 600) -> bool:
    """Whether the condition came true within many tries; how long each takes does not matter."""
    for _ in range(tries):
        if condition():
            return True
        time.sleep(0.05)
    return False
