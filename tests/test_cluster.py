# SPDX-License-Identifier: GPL-2.0-or-later
"""Plays on the workers of a cluster: what they are sent, and what becomes of a worker that is lost."""

import gc
import os
import pickle
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dask
import pytest
from distributed import Client

from kvmharness.judging.session import LostError
from kvmharness.lab import parcels, worker
from kvmharness.lab.cluster import ClusterExecutor
from kvmharness.lab.errors import LabError
from kvmharness.lab.kernels import Kernel
from kvmharness.lab.machines import initramfs
from kvmharness.lab.machines.catalogue import AMD
from kvmharness.lab.machines.console import Remark
from kvmharness.lab.parcels import Parcel
from kvmharness.lab.play import CrashError, LostMachineError
from tests import clusters, made_up_jobs
from tests.clusters import Cluster
from tests.command_line import Capture, one_line, status_of
from tests.made_up_kernels import put

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One with a single worker."""
    with clusters.started(tmp_path_factory.mktemp("cluster"), 1) as found:
        yield found


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Two files, and an image that takes no compiler."""
    monkeypatch.setattr(initramfs, "base", lambda: b"init")
    monkeypatch.setattr(initramfs, "python", lambda: b"python")
    put(tmp_path / "made-up/vmlinux", b"boots")
    put(tmp_path / "made-up/kvm_amd.ko", b"loads")
    return Kernel("built:made-up", "6.1", tmp_path / "made-up", {"kvm_amd": ["kvm_amd.ko"]})


def contents(parcel: Parcel) -> dict[str, bytes]:
    return {digest: parcels.content(digest) for digest in parcel.digests}


@pytest.mark.usefixtures("cache_root")
def test_a_kernel_arrives_as_it_was_with_what_runs_in_it(kernel: Kernel) -> None:
    parcel = parcels.packed(kernel)
    found = parcels.unpacked(pickle.loads(pickle.dumps(parcel)), contents(parcel))
    assert replace(found, folder=kernel.folder) == kernel
    assert found.folder != kernel.folder
    there = {path.name: path.read_bytes() for path in found.folder.iterdir()}
    assert there == {"vmlinux": b"boots", "kvm_amd.ko": b"loads", parcels.SYSTEM: b"initpython"}


@pytest.mark.usefixtures("cache_root")
def test_two_builds_of_a_kernel_are_one_kernel_where_they_arrive(kernel: Kernel, tmp_path: Path) -> None:
    shutil.copytree(kernel.folder, tmp_path / "other")
    put(tmp_path / "other/kvm_amd.ko", b"loads otherwise")
    both = [parcels.packed(each) for each in (kernel, replace(kernel, folder=tmp_path / "other"))]
    first, second = (parcels.unpacked(parcel, contents(parcel)) for parcel in both)
    assert first.folder != second.folder
    assert first.vmlinux.samefile(second.vmlinux)
    assert not (first.folder / "kvm_amd.ko").samefile(second.folder / "kvm_amd.ko")


@pytest.mark.usefixtures("cache_root")
@pytest.mark.parametrize("how", ["other", "no archive"])
def test_a_content_that_is_not_what_its_name_says_is_refused(kernel: Kernel, how: str) -> None:
    parcel = parcels.packed(kernel)
    whole = contents(parcel)
    digest = parcel.files["vmlinux"]
    damaged = whole[parcel.files["kvm_amd.ko"]] if how == "other" else b"nothing"
    with pytest.raises(LabError, match="what was sent"):
        parcels.unpacked(parcel, {**whole, digest: damaged})
    assert parcels.unpacked(parcel, whole).vmlinux.read_bytes() == b"boots"


@pytest.mark.parametrize(
    "error",
    [LostMachineError("it hung", ["last"]), CrashError("oops", [], "it", Remark("oops", "an oops", "it"))],
)
def test_a_lost_machine_is_reported_by_a_worker_as_it_is(error: LostMachineError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_a_call_runs_on_a_worker_with_a_kernel_of_its_own_and_with_its_slots(
    cluster: Cluster, kernel: Kernel
) -> None:
    executor = ClusterExecutor(cluster.address, lambda line: None)
    try:
        assert executor.jobs == 1
        found = executor.submit(made_up_jobs.seen, kernel, AMD).result(120)
        lost = executor.submit(made_up_jobs.trouble, LostMachineError("it hung", []))
        assert isinstance(lost.exception(120), LostError)
        refused = executor.submit(made_up_jobs.trouble, LabError("no QEMU")).exception(120)
        assert isinstance(refused, LabError)
        assert str(refused).startswith("worker ")
        assert str(refused).endswith(": no QEMU")
    finally:
        executor.shutdown(cancel_futures=True)
    assert found.process != os.getpid()
    assert found.vmlinux == b"boots"
    assert str(cluster.cache) in found.folder
    assert found.has_slots
    assert found.has_stop


def test_what_nobody_waits_for_is_ended_on_the_worker(cluster: Cluster, tmp_path: Path) -> None:
    executor = ClusterExecutor(cluster.address, lambda line: None)
    executor.submit(made_up_jobs.until_stopped, tmp_path, AMD)
    made_up_jobs.wait_for(tmp_path / "begun")
    executor.shutdown(wait=False, cancel_futures=True)
    made_up_jobs.wait_for(tmp_path / "stopped")


def test_a_worker_with_another_kvmharness_is_refused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "code", lambda: "another")
    with pytest.raises(LabError, match=r"has another kvmharness .*: install the same"):
        ClusterExecutor(cluster.address, lambda line: None)


def test_a_worker_that_is_killed_loses_and_doubles_no_result_and_that_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    with clusters.started(tmp_path, 2) as two:
        executor = ClusterExecutor(two.address, said.append)
        try:
            futures = [executor.submit(made_up_jobs.number, jobs, number) for number in range(8)]
            made_up_jobs.wait_for_any(jobs, 2)
            killed, other = (int(path.name.partition("-")[2]) for path in sorted(jobs.iterdir())[:2])
            os.kill(killed, signal.SIGKILL)
            (jobs / "go").touch()
            results = [future.result(120) for future in futures]
        finally:
            executor.shutdown(cancel_futures=True)
    assert killed != other
    assert results == [(number, other) for number in range(8)]
    assert len(said) == 1
    assert "was lost" in said[0]
    assert "; others play what it had: a job" in said[0]


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    """An authority of this test's own, and a certificate and key by it, as docs/cluster.md makes them."""
    if shutil.which("openssl") is None:
        pytest.skip("missing capability: openssl")
    listing = (ROOT / "docs" / "cluster.md").read_text()
    lines = [line for line in listing.splitlines() if line.startswith("    openssl ")]
    assert len(lines) == 3
    for line in lines:
        subprocess.run(line.split(), cwd=tmp_path, check=True, capture_output=True)
    names = {"ca-file": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    return {option: str(tmp_path / name) for option, name in names.items()}


def test_with_tls_only_who_has_a_certificate_takes_part(
    tmp_path: Path, kernel: Kernel, certificate: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = tuple(word for option, path in certificate.items() for word in (f"--tls-{option}", path))
    mine = {
        "distributed.comm.tls.ca-file": certificate["ca-file"],
        "distributed.comm.tls.client.cert": certificate["cert"],
        "distributed.comm.tls.client.key": certificate["key"],
    }
    said: list[str] = []
    (tmp_path / "cluster").mkdir()
    with clusters.started(tmp_path / "cluster", 1, options) as cluster:
        assert cluster.address.startswith("tls://")
        with dask.config.set(mine):
            executor = ClusterExecutor(cluster.address, said.append)
            try:
                assert executor.submit(made_up_jobs.seen, kernel, AMD).result(120).vmlinux == b"boots"
            finally:
                executor.shutdown(cancel_futures=True)
        assert said == []
        monkeypatch.setattr("kvmharness.lab.cluster._CONNECT_S", 2)
        for address in (cluster.address, cluster.address.replace("tls://", "tcp://")):
            with pytest.raises(LabError, match="no cluster at "):
                ClusterExecutor(address, said.append)


def _clients() -> list[Client]:
    """All that were not collected yet."""
    return [each for each in gc.get_objects() if isinstance(each, Client)]


def test_no_cluster_at_the_address_is_one_line(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmharness.lab.cluster._CONNECT_S", 0.5)
    with pytest.raises(LabError, match=r"no cluster at tcp://127\.0\.0\.1:9"):
        ClusterExecutor("tcp://127.0.0.1:9", lambda line: None)
    with pytest.raises(LabError, match="no cluster at nonsense://"):
        ClusterExecutor("nonsense://", lambda line: None)
    # One that is not, the garbage collector closes; in the midst of another's start that never ends.
    assert {each.status for each in _clients()} <= {"closed"}
    assert status_of("lab", "run", "debian:6.1", "--cluster", "tcp://127.0.0.1:9", "--jobs", "2") == 2
    assert "not allowed with" in one_line(capsys.readouterr().err)
