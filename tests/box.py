# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian in an emulated machine whose KVM honours TSC writes: what somebody has who owns a box.

It has systemd, sshd, the physical flavour of the kernel, a user in group kvm (dev) and one who is not
(plain). It is reached by ssh alone, and reaches nothing.
"""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.made_up_box import put_ssh
from tests.made_up_kernels import put
from tests.roots import Root, debian

PACKAGES = (
    *("linux-image-amd64", "initramfs-tools", "zstd", "kmod", "udev", "systemd", "systemd-sysv", "dbus"),
    *("libpam-systemd", "openssh-server", "sudo", "procps", "iproute2", "python3"),
)
_USERS = """
for user in dev plain; do useradd --create-home --shell /bin/bash $user; done
groupadd --force --system kvm && usermod --append --groups kvm dev
echo 'dev ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/dev
passwd --delete root >/dev/null
systemctl enable systemd-networkd ssh >/dev/null 2>&1
for home in /root /home/dev /home/plain; do
	install -d -m 700 $home/.ssh && install -m 600 /etc/ssh/key.pub $home/.ssh/authorized_keys
	chown -R --reference=$home $home/.ssh
done
"""
_NETWORK = "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"
# As in the lab's amd-smp (lab/machines/catalogue.py says why).
_CPU = ("-accel", "tcg,thread=multi", "-smp", "2", "-cpu", "max,-cx16,-erms,-fsrm")
_OPTIONS = "root=/dev/vda rw console=ttyS0,115200 nokaslr no_timer_check nowatchdog"
_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# An idle box boots within a minute; a busy host gives it a fraction of a CPU.
_BOOTED_S = 1800


@dataclass(frozen=True, slots=True)
class Disk:
    """An image with the system on it, the kernel to boot it with, and the key that opens it."""

    folder: Path
    release: str

    @property
    def key(self) -> Path:
        """The private key of every user there."""
        return self.folder / "key"


@dataclass(frozen=True, slots=True)
class Box:
    """A box that runs. `folder` has a `bin` with an ssh that knows its key."""

    folder: Path
    port: int
    release: str

    def name(self, user: str = "root") -> str:
        """What --on takes."""
        return f"ssh://{user}@127.0.0.1:{self.port}"

    def command(self, script: str, user: str) -> list[str]:
        """What has a user's shell run a script there."""
        return [str(self.folder / "bin/ssh"), "-p", str(self.port), f"{user}@127.0.0.1", script]

    def run(self, script: str, user: str = "root", stdin: bytes = b"") -> "subprocess.CompletedProcess[str]":
        """What a script comes to, run there by a user."""
        done = subprocess.run(self.command(script, user), input=stdin, capture_output=True, check=False)
        out, err = (each.decode(errors="replace") for each in (done.stdout, done.stderr))
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)

    def said(self, script: str, user: str = "root", stdin: bytes = b"") -> str:
        """What a script prints that has to succeed."""
        done = self.run(script, user, stdin)
        assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}\n{self.console}"
        return done.stdout

    @property
    def console(self) -> str:
        """The end of what its kernel said."""
        file = self.folder / "console"
        return file.read_text(errors="replace")[-4000:] if file.exists() else "it did not start"


def disk(suite: str, folder: Path) -> Disk:
    """A disk with a Debian of this suite. The test is skipped where none can be made."""
    for program in ("mke2fs", "qemu-system-x86_64", "setpriv", "ssh", "ssh-keygen"):
        if shutil.which(program, path=_PATH) is None:
            pytest.skip(f"missing capability {program}")
    root = debian(suite, folder)
    root.install(*PACKAGES)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "key"], check=True)
    put(root.path / "etc/ssh/key.pub", (folder / "key.pub").read_text())
    put(root.path / "etc/hostname", "box\n")
    put(root.path / "etc/hosts", "127.0.0.1 localhost box\n")
    put(root.path / "etc/fstab", "/dev/vda / ext4 errors=remount-ro 0 1\n")
    put(root.path / "etc/systemd/network/10-all.network", _NETWORK)
    root.said(_USERS)
    return image(root, folder)


def image(root: Root, folder: Path) -> Disk:
    """The root as an ext4 image, made without mounting anything."""
    (kernel,) = (root.path / "boot").glob("vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(root.path / f"boot/{name}-{release}", folder / name)
    with (folder / "disk").open("wb") as file:
        file.truncate(6 << 30)
    lazily = "root_owner=0:0,lazy_itable_init=1,lazy_journal_init=1"
    program = shutil.which("mke2fs", path=_PATH) or "mke2fs"
    command = [program, "-q", "-F", "-t", "ext4", "-E", lazily, "-d", str(root.path), str(folder / "disk")]
    subprocess.run(command, check=True, capture_output=True)
    shutil.rmtree(root.path)
    return Disk(folder, release)


@contextmanager
def booted(disk: Disk, folder: Path, options: str = "tsc=reliable") -> Iterator[Box]:
    """A box with that disk, which stays as it was; `options` are for its kernel."""
    port = _free_port()
    real = shutil.which("ssh")
    trust = f"-i {disk.key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    # The first of an option counts: a box on a busy host may be silent for minutes, and not for ever.
    patience = "-o ConnectTimeout=60 -o ServerAliveInterval=60 -o ServerAliveCountMax=10"
    put_ssh(folder / "bin", f'#!/bin/sh\nexec {real} -q {trust} {patience} "$@"\n')
    box = Box(folder, port, disk.release)
    command = [
        *("setpriv", "--pdeathsig", "KILL", "--"),
        *("qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-machine", "pc"),
        *(*_CPU, "-m", "2G", "-no-reboot"),
        *("-kernel", str(disk.folder / "vmlinuz"), "-initrd", str(disk.folder / "initrd.img")),
        *("-append", f"{_OPTIONS} {options}"),
        *("-drive", f"file={disk.folder / 'disk'},format=raw,if=virtio,snapshot=on"),
        *("-device", "virtio-rng-pci"),
        *("-netdev", f"user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-pci,netdev=n,romfile=", "-serial", f"file:{folder / 'console'}"),
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as running:
        try:
            _wait(box, running)
            yield box
        finally:
            running.kill()
            running.wait()


def _wait(box: Box, running: "subprocess.Popen[bytes]") -> None:
    """Until somebody can log in, and KVM is loaded."""
    until = time.monotonic() + _BOOTED_S
    while box.run("test -e /sys/module/kvm_amd && test -c /dev/kvm").returncode:
        assert running.poll() is None, box.console
        assert time.monotonic() < until, box.console
        time.sleep(2)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port
