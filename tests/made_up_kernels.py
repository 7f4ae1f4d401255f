# SPDX-License-Identifier: GPL-2.0-or-later
"""Made-up kernels: images, modules and built trees that the lab takes for real ones."""

import gzip
import struct
from pathlib import Path

from kvmharness.lab.kernels import Kernel

RELEASE = "6.18.0-mine"
GOOD_CONFIG = "".join(
    f"CONFIG_{name}=y\n"
    for name in (
        *("64BIT", "BINFMT_ELF", "BLK_DEV_INITRD", "DEVTMPFS", "FUTEX", "PROC_FS"),
        *("SERIAL_8250", "SERIAL_8250_CONSOLE", "X86_IOPL_IOPERM", "KVM_AMD"),
    )
)
X86_64, AARCH64 = 62, 183
STUB = b"unpacks it"


def elf(
    *sections: tuple[str, bytes], machine: int = X86_64, segments: tuple[tuple[int, bytes], ...] = ()
) -> bytes:
    """An ELF file of these segments (type and content) and sections (name and content)."""
    heads, body, place = b"", b"", 64 + 56 * len(segments)
    for kind, content in segments:
        heads += struct.pack("<IIQQQQQQ", kind, 0, place + len(body), 0, 0, len(content), len(content), 4)
        body += content
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _ in (*sections, (".shstrtab", b"")))
    rows = bytes(64)
    for name, content in (*sections, (".shstrtab", names)):
        kind = 3 if name == ".shstrtab" else 1
        at = names.index(b"\0" + name.encode() + b"\0") + 1
        rows += struct.pack("<IIQQQQIIQQ", at, kind, 0, 0, place + len(body), len(content), 0, 0, 1, 0)
        body += content
    header = struct.pack(
        *("<4sBBBB8sHHIQQQIHHHHHH", b"\x7fELF", 2, 1, 1, 0, bytes(8), 2, machine, 1, 0, 64),
        *(place + len(body), 0, 64, 56, len(segments), 64, len(rows) // 64, len(rows) // 64 - 1),
    )
    return header + heads + body + rows


def kernel_image(
    release: str = RELEASE,
    machine: int = X86_64,
    pvh: bool = True,
    inside: bytes = b"",
    debugging: bytes = b"",
) -> bytes:
    """An ELF kernel: a banner, what is `inside`, the note that says where to start it, and debugging."""
    banner = f"Linux version {release} (somebody@somewhere) #1 SMP\n".encode()
    note = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x1000000)
    segments = ((1, banner + b"\0" + inside), *(((4, note),) if pvh else ()))
    return elf((".debug_info", debugging), machine=machine, segments=segments)


def bzimage(kernel: bytes, release: str = RELEASE, packed: bytes | None = None) -> bytes:
    """A boot header that names the release, a stub, and the kernel behind it, `packed` somehow or by gzip."""
    payload = gzip.compress(kernel) if packed is None else packed + struct.pack("<I", len(kernel))
    setup = bytearray(2048)
    setup[0x1F1] = 3
    setup[0x202:0x206] = b"HdrS"
    setup[0x20E:0x210] = struct.pack("<H", 0x300)
    text = f"{release} (somebody@somewhere) #1 SMP".encode()
    setup[0x500 : 0x500 + len(text)] = text
    setup[0x248:0x250] = struct.pack("<II", len(STUB), len(payload))
    return bytes(setup) + STUB + payload


def module(release: str = RELEASE, depends: str = "", content: bytes = b"") -> bytes:
    """A module that was built for a release, and needs others."""
    modinfo = f"depends={depends}\0vermagic={release} SMP preempt mod_unload \0".encode()
    return elf((".modinfo", modinfo), (".text", content))


def put(path: Path, content: bytes | str = b"") -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def put_modules(folder: Path, release: str = RELEASE) -> Path:
    """KVM's modules for AMD in a folder such as /lib/modules/RELEASE."""
    put(folder / "kernel/arch/x86/kvm/kvm-amd.ko", module(release, "kvm,ccp"))
    put(folder / "kernel/arch/x86/kvm/kvm.ko", module(release, "irqbypass"))
    put(folder / "kernel/virt/lib/irqbypass.ko", module(release))
    put(folder / "modules.builtin", "kernel/drivers/crypto/ccp/ccp.ko\n")
    return folder


def put_tree(tree: Path, release: str = RELEASE) -> Path:
    """A tree as make leaves it."""
    put(tree / "vmlinux", kernel_image(release))
    put(tree / "arch/x86/boot/bzImage", bzimage(kernel_image(release), release))
    put(tree / "arch/x86/kvm/kvm.ko", module(release, "irqbypass"))
    put(tree / "arch/x86/kvm/kvm-amd.ko", module(release, "kvm"))
    put(tree / "virt/lib/irqbypass.ko", module(release))
    put(tree / "include/config/kernel.release", f"{release}\n")
    put(tree / "modules.order", "arch/x86/kvm/kvm.o\narch/x86/kvm/kvm-amd.o\nvirt/lib/irqbypass.o\n")
    put(tree / "modules.builtin", "")
    put(tree / ".config", GOOD_CONFIG)
    return tree


def orders(kernel: Kernel) -> dict[str, list[str]]:
    return {vendor: [path.name for path in kernel.modules_for(vendor)] for vendor in kernel.load_order}


AMD_ORDER = {"kvm_amd": ["irqbypass.ko", "kvm.ko", "kvm_amd.ko"]}
