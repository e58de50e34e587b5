"""Which device there is, how much memory it has, and whether bf16 is faster: read or measured, never guessed.

Functions import torch when they are called.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tumorgen_cli.system.errors import DeviceError, Fault

if TYPE_CHECKING:
    import torch


DeviceName = Literal["auto", "cpu", "cuda"]

_MEMBERSHIPS, _GROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")  # of the control groups of this process
_NO_CPU_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # in the RuntimeError of torch
_LESS_MEMORY = "plan for less memory (`tumorgen plan DATASET --memory GIB`) and run the following commands again"


@dataclass(frozen=True)
class DeviceBudget:
    """The resources that planning may use.

    `memory_gib` is in GiB. `bf16_speedup` says how many times faster bf16 convolutions are than fp32 ones.
    """

    device: Literal["cpu", "cuda"]
    memory_gib: float
    bf16_speedup: float

    @property
    def large(self) -> bool:
        """Whether networks of the papers' size fit: CUDA with 16 GiB or more."""
        return self.device == "cuda" and self.memory_gib >= 16


def find_device(name: DeviceName) -> torch.device:
    """Find the torch device for `auto`, `cpu` or `cuda`.

    Raises:
        DeviceError: CUDA was requested, but there is none.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        remedy = "use --device cpu, or install a driver and a CUDA build of torch"
        raise DeviceError(
            "No such device", [Fault("--device cuda", "torch sees no CUDA device", "a CUDA device", remedy)]
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":  # each process of a torchrun has its own GPU; "cuda" then means that one
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


def find_budget(name: DeviceName, memory_gib: float | None) -> DeviceBudget:
    """Measure the budget of a device; `memory_gib`, if given, replaces the memory that the device has."""
    import torch

    device = find_device(name)
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device).total_memory / 2**30
        return DeviceBudget("cuda", round(memory_gib or found, 1), 2.0 if torch.cuda.is_bf16_supported() else 0.0)
    return DeviceBudget("cpu", round(memory_gib or available_memory_gib(), 1), measure_bf16_speedup())


def available_memory_gib() -> float:
    """Memory that this process may use, in GiB.

    That is the physical memory, or the lowest limit of the control groups of this process, for instance those of a
    SLURM job or a container.
    """
    return (
        min(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            *_memory_limits(_MEMBERSHIPS, _GROUPS),
        )
        / 2**30
    )


def _memory_limits(memberships: Path, root: Path) -> list[int]:
    """Read the memory limits, in bytes, of control groups and of the groups that contain them; versions 1 and 2.

    Args:
        memberships: The file that lists the control groups of a process.
        root: The folder where control groups are mounted.
    """
    found = []
    for group in _control_groups(memberships, root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
                found.append(int((group / name).read_text()))
    return found


def _core_limits(memberships: Path, root: Path) -> list[float]:
    """Read how many cores' time control groups and the groups that contain them may use; see `_memory_limits`."""
    found = []
    for group in _control_groups(memberships, root, "cpu"):
        with contextlib.suppress(OSError, ValueError):  # no such file, or the word "max"
            quota, period = map(int, (group / "cpu.max").read_text().split())
            found.append(quota / period)
        with contextlib.suppress(OSError, ValueError):
            quota, period = (int((group / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
            if quota > 0:  # -1: no limit
                found.append(quota / period)
    return found


def _control_groups(memberships: Path, root: Path, controller: str) -> list[Path]:
    """The folders of the control groups that limit a process, and of the groups that contain them; versions 1 and 2."""
    groups = [(root, ""), (root / controller, "")]
    with contextlib.suppress(OSError):  # only Linux has control groups
        for line in memberships.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if controller in controllers.split(","):
                groups.append((root / controller, group))
            elif not controllers:
                groups.append((root, group))
    found = []
    for top, group in groups:
        parts = [part for part in group.split("/") if part]
        found += [top.joinpath(*parts[:depth]) for depth in range(len(parts) + 1)]
    return found


@contextlib.contextmanager
def catch_out_of_memory(who: str) -> Iterator[None]:
    """Turn an error for want of memory in the block into a `DeviceError`; `who` names what ran.

    Raises:
        DeviceError: the memory of the GPU or of the machine does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        known = from_memory_error(error, who)
        if known is None:
            raise
        raise known from error


def from_memory_error(error: BaseException, who: str) -> DeviceError | None:
    """Turn an error for want of memory, of Python, NumPy or torch, into a `DeviceError`; `who` names what ran.

    Returns:
        The error to raise; None for an error of another cause.
    """
    found = (str(error).splitlines() or [""])[0] or "no memory left"
    if type(error).__name__ == "OutOfMemoryError":  # torch's, of a GPU
        remedy = f"stop other programs that use the GPU, or use --device cpu, or {_LESS_MEMORY}"
        return DeviceError("The GPU's memory does not suffice", [Fault(who, found, "enough memory", remedy)])
    if isinstance(error, MemoryError) or _NO_CPU_MEMORY in str(error):
        remedy = f"stop other programs, or {_LESS_MEMORY}; plan and preprocess also need less with --workers 0"
        return DeviceError("The memory does not suffice", [Fault(who, found, "enough memory", remedy)])
    return None


def usable_cores() -> int:
    """Number of CPU cores that this process may use.

    It is the lowest of its affinity, the limits of its control groups, as containers have them, and the cores of its
    SLURM task.
    """
    found = [_cores_in_sight(), *(max(1, int(limit)) for limit in _core_limits(_MEMBERSHIPS, _GROUPS))]
    with contextlib.suppress(KeyError, ValueError):
        found.append(max(1, int(os.environ["SLURM_CPUS_PER_TASK"])))
    return min(found)


def _cores_in_sight() -> int:
    """Number of CPU cores that libraries find."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads() -> None:
    """Set the variables by which torch and NumPy choose their threads, unless the user has.

    Call it before their import. There are not more threads than usable cores. There are not fewer on a busy machine
    either, because the last bits of what is painted depend on their number. Threads wait without computing, because
    threads that spin take the cores that the others wait for: two trainings side by side on two cores, beside other
    programs, took 9.5 s a step instead of 18.6 s (convolutions of 16 channels at 32³, torch 2.15, load 13, 30 November
    2026).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if usable_cores() < _cores_in_sight():
        os.environ.setdefault("OMP_NUM_THREADS", str(usable_cores()))


def share_devices(device: str, count: int | None = None) -> list[dict[str, str]]:
    """The variables of the environment of processes that run at the same time: a GPU, or a share of the cores, each.

    Args:
        device: What they compute on, `cpu` or `cuda`.
        count: How many there are. None: one for each GPU, or one.
    """
    if device == "cuda":
        import torch

        found = torch.cuda.device_count()
        given = os.environ.get("CUDA_VISIBLE_DEVICES")  # the GPUs that a scheduler or the user allows
        gpus = [each.strip() for each in given.split(",")][:found] if given else [str(i) for i in range(found)]
        if gpus:
            return [{"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} for i in range(count or len(gpus))]
    count = count or 1
    return [{"OMP_NUM_THREADS": str(max(1, usable_cores() // count))}] * count if count > 1 else [{}]


def measure_bf16_speedup() -> float:
    """Measure how many times faster bf16 is than fp32 for a 3D convolution, forward and backward, on this CPU.

    The factor depends on the processor: 3 to 8 with AMX, 0.7 to 5 with AVX512-BF16, less than 0.01 with plain AVX2.
    A CPU without bf16 instructions is not measured and gets 0, because one convolution can take a minute there. The
    measurement takes less than a second.
    """
    import torch

    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not (capabilities.get("amx_bf16") or capabilities.get("avx512_bf16")):
        return 0.0
    seconds = {}
    for kind in (torch.float32, torch.bfloat16):
        layer = torch.nn.Conv3d(32, 32, 3, padding=1).to(kind)
        x = torch.zeros(1, 32, 24, 24, 24, dtype=kind, requires_grad=True)
        times = []
        for _ in range(4):
            begun = time.perf_counter()
            layer(x).sum().backward()
            times.append(time.perf_counter() - begun)
        seconds[kind] = min(times[1:])
    return round(seconds[torch.float32] / seconds[torch.bfloat16], 2)


def peak_memory_gib() -> float:
    """Peak resident memory of this process so far, in GiB. For GPU memory see `torch.cuda.max_memory_allocated`."""
    # on Linux, getrusage starts with the peak of the parent process, so the value of /proc is preferred
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
