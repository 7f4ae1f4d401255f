# SPDX-License-Identifier: GPL-2.0-or-later
"""Parameters of KVM's modules, which make a machine another one."""

import json
from pathlib import Path

import pytest

from kvmharness.cli import lab_options
from kvmharness.cli.again import command
from kvmharness.cli.main import parser
from kvmharness.judging import saved
from kvmharness.lab.errors import LabError
from kvmharness.lab.machines.catalogue import MACHINES
from kvmharness.lab.machines.machine import Machine
from kvmharness.lab.play import check_parameters
from tests.command_line import Capture, one_line, status_of

ZERO, DEFAULT, SWITCH = "kvm.tsc_tolerance_ppm=0", "kvm.tsc_tolerance_ppm=250", "kvm.ignore_msrs=1"


def machines(*words: str) -> list[Machine]:
    return lab_options.pick_machines(parser().parse_args(["lab", "run", "debian:6.1", *words]))


def asking_for(*parameters: str) -> list[str]:
    return [word for each in parameters for word in ("--param", each)]


def test_each_value_of_a_parameter_is_a_machine_of_its_own() -> None:
    assert [each.name for each in machines("--machine", "amd", "--machine", "intel")] == ["amd", "intel"]
    asked = asking_for(ZERO, DEFAULT, SWITCH, ZERO)
    assert [each.name for each in machines("--machine", "amd", "--machine", "amd-smp", *asked)] == [
        f"{name}+{value}+{SWITCH}" for name in ("amd", "amd-smp") for value in (ZERO, DEFAULT)
    ]


def test_a_machine_with_a_parameter_has_snapshots_of_its_own(tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinux"
    kernel.write_bytes(b"x")
    plain, zero, default = machines()[0], *machines(*asking_for(ZERO, DEFAULT))
    places = {each.snapshot_place(kernel, b"image") for each in (plain, zero, default)}
    later = {each.loading_modules_later.snapshot_place(kernel, b"image") for each in (zero, default)}
    assert len(places | later) == 5
    assert zero.kernel_options == f"{MACHINES['amd'].kernel_options} {ZERO}"


def test_the_nested_machine_has_the_parameter_too() -> None:
    (smp,) = machines("--machine", "amd-smp", *asking_for(ZERO))
    assert smp.nested is not None
    assert smp.nested.kernel_options.endswith(f" {ZERO}")


@pytest.mark.parametrize(
    "wrong", ["tsc_tolerance_ppm=0", "kvm.x", "loop.max_loop=1", "kvm.x=1 init=/bin/sh", "kvm.x="]
)
def test_what_is_no_parameter_of_kvms_is_refused(wrong: str, capsys: Capture) -> None:
    assert status_of("lab", "run", "debian:6.1", "--param", wrong) == 2
    assert "is no parameter of KVM's: write kvm.NAME=VALUE" in one_line(capsys.readouterr().err)


def test_a_kernel_has_to_show_the_parameter_with_that_value() -> None:
    zero, _ = machines(*asking_for(ZERO, DEFAULT))
    (switch,) = machines(*asking_for(SWITCH))
    check_parameters("debian:6.1", zero, {"kvm.tsc_tolerance_ppm": "0"})
    check_parameters("debian:6.1", switch, {"kvm.ignore_msrs": "Y"})
    with pytest.raises(LabError, match=r"tsc_tolerance_ppm is 250, though 0 was asked for"):
        check_parameters("debian:6.1", zero, {"kvm.tsc_tolerance_ppm": "250"})
    with pytest.raises(LabError, match=r"ignore_msrs is N, though 1 was asked for"):
        check_parameters("debian:6.1", switch, {"kvm.ignore_msrs": "N"})
    with pytest.raises(LabError, match=r"shows a parameter kvm\.ignore_msrs"):
        check_parameters("debian:6.1", switch, {"kvm.tsc_tolerance_ppm": "0"})


def test_saved_traces_of_each_value_have_a_file_name_that_every_file_system_takes() -> None:
    names = [saved.file_name("debian:6.1", each.name, "x") for each in machines(*asking_for(ZERO, DEFAULT))]
    assert names == [
        "debian-6.1.amd+kvm.tsc_tolerance_ppm-0.x.jsonl",
        "debian-6.1.amd+kvm.tsc_tolerance_ppm-250.x.jsonl",
    ]


def test_the_command_that_validates_again_has_the_parameters() -> None:
    words = ["lab", "validate", "debian:6.1", "--range", "a..b", *asking_for(ZERO, SWITCH)]
    again = command(parser().parse_args(words), [])
    assert [again[place + 1] for place, word in enumerate(again) if word == "--param"] == [ZERO, SWITCH]


@pytest.mark.full
@pytest.mark.lab
def test_a_real_kernel_tolerates_what_the_parameter_says(capsys: Capture, tmp_path: Path) -> None:
    asked = ["--scenario", "young-restore", *asking_for(ZERO, DEFAULT), "--format", "json"]
    status = status_of("lab", "run", "debian:6.1", *asked, "--save-traces", str(tmp_path))
    said = capsys.readouterr()
    assert status == 1, said.err
    kernels = json.loads(said.out)["kernels"]
    assert [each["machine"] for each in kernels] == [f"amd+{ZERO}", f"amd+{DEFAULT}"]
    assert [each["host"]["kvm.tsc_tolerance_ppm"] for each in kernels] == ["0", "250"]
    assert [each.name for each in sorted(tmp_path.iterdir())] == [
        f"debian-6.1.amd+kvm.tsc_tolerance_ppm-{value}.young-restore.jsonl" for value in (0, 250)
    ]


@pytest.mark.full
@pytest.mark.lab
def test_a_parameter_that_a_kernel_does_not_have_is_one_line(capsys: Capture) -> None:
    asked = ["--scenario", "young-restore", "--param", "kvm.no_such_thing=1"]
    assert status_of("lab", "run", "debian:6.1", *asked) == 2
    assert "no module of its KVM shows a parameter kvm.no_such_thing" in one_line(capsys.readouterr().err)
