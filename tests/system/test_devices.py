"""Devices are read or measured; what is not there is told."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from tumorgen_cli.system import devices
from tumorgen_cli.system.devices import find_budget, find_device
from tumorgen_cli.system.errors import DeviceError


def test_cuda_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceError, match="use --device cpu, or install a driver and a CUDA build of torch"):
        find_device("cuda")
    assert find_device("auto").type == "cpu"


def test_the_budget_of_a_cpu(monkeypatch):
    monkeypatch.setattr(devices, "measure_bf16_speedup", lambda: 1.5)
    monkeypatch.setattr(devices, "available_memory_gib", lambda: 15.55)
    assert find_budget("cpu", None) == devices.DeviceBudget("cpu", 15.6, 1.5)
    assert find_budget("cpu", 4.0).memory_gib == 4.0


def test_bf16_is_not_measured_where_it_would_take_minutes(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True}, raising=False)
    assert devices.measure_bf16_speedup() == 0.0


def test_what_this_machine_has():
    assert devices.usable_cores() >= 1
    assert 0.01 < devices.peak_memory_gib() < devices.available_memory_gib()


@pytest.mark.parametrize(
    ("told", "limits", "expected"),
    [
        (
            "0::/slurm/job_7/step_0\n",
            {"slurm/job_7/memory.max": "34359738368", "slurm/job_7/step_0/memory.max": "max"},
            34359738368,
        ),
        (
            "5:cpu:/a\n4:cpuacct,memory:/slurm/job_7\n0::/\n",
            {"memory/slurm/job_7/memory.limit_in_bytes": "1000", "memory.max": "2000"},
            1000,
        ),
        ("4:memory:/not/seen/from/inside\n", {"memory/memory.limit_in_bytes": "500"}, 500),
    ],
    ids=["version 2", "version 1", "a container"],
)
def test_the_memory_of_a_job_is_that_of_its_control_group(tmp_path, told, limits, expected):
    (tmp_path / "told").write_text(told)
    for name, text in limits.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert min(devices._memory_limits(tmp_path / "told", tmp_path / "root")) == expected
    assert devices._memory_limits(tmp_path / "none", tmp_path / "none") == []


def test_a_gpu_that_is_full_is_told():
    with (
        pytest.raises(DeviceError, match="The GPU's memory does not suffice") as error,
        devices.catch_out_of_memory("the judge"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    assert error.value.faults[0].remedy.startswith("stop other programs that use the GPU, or use --device cpu")
    with pytest.raises(RuntimeError, match="shapes"), devices.catch_out_of_memory("the judge"):
        raise RuntimeError("shapes do not match")


@pytest.mark.skipif(
    sys.platform != "linux", reason="elsewhere a process is told its own peak only as far as the system knows it"
)
def test_a_process_does_not_count_what_its_parent_held():
    held = np.ones(2**28, np.uint8)
    told = "from tumorgen_cli.system.devices import peak_memory_gib; print(peak_memory_gib())"
    assert (
        float(subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout)
        < 0.2
        < len(held) / 2**30
    )


@pytest.mark.parametrize(
    ("told", "files", "expected"),
    [
        ("0::/slurm/job_7\n", {"slurm/cpu.max": "max 100000", "slurm/job_7/cpu.max": "250000 100000"}, [2.5]),
        (
            "4:cpu,cpuacct:/a\n",
            {"cpu/a/cpu.cfs_quota_us": "400000", "cpu/a/cpu.cfs_period_us": "100000", "cpu/cpu.cfs_quota_us": "-1"},
            [4.0],
        ),
    ],
    ids=["version 2", "version 1"],
)
def test_the_cores_of_a_container_are_those_of_its_control_group(tmp_path, told, files, expected):
    (tmp_path / "told").write_text(told)
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert devices._core_limits(tmp_path / "told", tmp_path / "root") == expected


def test_threads_follow_the_cores_that_are_allowed(monkeypatch):
    monkeypatch.setattr(devices, "_cores_in_sight", lambda: 16)
    monkeypatch.setattr(devices, "_core_limits", lambda *_: [6.5])
    found = []
    for task, given in (("", ""), ("4", ""), ("32", ""), ("4", "3")):
        for name, value in (("SLURM_CPUS_PER_TASK", task), ("OMP_NUM_THREADS", given), ("OMP_WAIT_POLICY", "")):
            monkeypatch.delenv(name, raising=False)
            if value:
                monkeypatch.setenv(name, value)
        devices.set_threads()
        found.append((devices.usable_cores(), os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]))
    assert found == [(6, "6", "PASSIVE"), (4, "4", "PASSIVE"), (6, "6", "PASSIVE"), (4, "3", "PASSIVE")]
    monkeypatch.setattr(devices, "_core_limits", lambda *_: [])
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    devices.set_threads()
    assert "OMP_NUM_THREADS" not in os.environ  # libraries leave out the second threads of a core
    assert os.environ["OMP_WAIT_POLICY"] == "ACTIVE"


def test_the_command_line_sets_threads_before_torch_is_loaded():
    code = (
        "import os, sys\nfrom tumorgen_cli.cli import __main__, main\n"
        "main.start = lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n__main__.start()"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OMP_")}
    told = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["PASSIVE", "False"]


def test_processes_share_a_device(monkeypatch):
    monkeypatch.setattr(devices, "usable_cores", lambda: 7)
    assert devices.share_devices("cpu") == [{}]
    assert devices.share_devices("cpu", 3) == [{"OMP_NUM_THREADS": "2"}] * 3
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, GPU-5")
    assert devices.share_devices("cuda") == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "GPU-5"}]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [each["CUDA_VISIBLE_DEVICES"] for each in devices.share_devices("cuda", 3)] == ["0", "1", "0"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices.share_devices("cuda", 1) == [{}]  # planned for a GPU, and there is none here
