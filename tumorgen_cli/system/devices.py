"""Which device, how much memory, whether bf16 pays: read or measured, never guessed. Imports torch when called."""

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


@dataclass(frozen=True)
class DeviceBudget:
    """What planning may spend: device kind, memory in GiB, how many times faster bf16 convolutions are than fp32."""

    device: Literal["cpu", "cuda"]
    memory_gib: float
    bf16_speedup: float

    @property
    def large(self) -> bool:
        """Whether networks of the papers' size fit: CUDA with 16 GiB or more."""
        return self.device == "cuda" and self.memory_gib >= 16


def find_device(name: DeviceName) -> torch.device:
    """The torch device for `auto`, `cpu` or `cuda`.

    Raises:
        DeviceError: CUDA asked for where there is none.
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
    """The budget of a device; `memory_gib` overrides what the device has."""
    import torch

    device = find_device(name)
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device).total_memory / 2**30
        return DeviceBudget("cuda", round(memory_gib or found, 1), 2.0 if torch.cuda.is_bf16_supported() else 0.0)
    return DeviceBudget("cpu", round(memory_gib or available_memory_gib(), 1), measure_bf16_speedup())


def available_memory_gib() -> float:
    """Physical memory, or the lowest limit of the control groups that this process is in: those of a SLURM job or a container."""
    return (
        min(
            os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            *_memory_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")),
        )
        / 2**30
    )


def _memory_limits(told: Path, root: Path) -> list[int]:
    """The limits in bytes of the control groups in `told`, and of those that they are part of, up to `root`; of versions 1 and 2."""
    groups = [(root, ""), (root / "memory", "")]
    with contextlib.suppress(OSError):  # elsewhere than on Linux there are none
        for line in told.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if "memory" in controllers.split(","):
                groups.append((root / "memory", group))
            elif not controllers:
                groups.append((root, group))
    found = []
    for top, group in groups:
        parts = [part for part in group.split("/") if part]
        for depth in range(len(parts) + 1):
            for name in ("memory.max", "memory.limit_in_bytes"):
                with contextlib.suppress(OSError, ValueError):  # no such file; "max"
                    found.append(int(top.joinpath(*parts[:depth], name).read_text()))
    return found


@contextlib.contextmanager
def catch_out_of_memory(who: str) -> Iterator[None]:
    """Turns a GPU's running out of memory in the block into an error that a user is told.

    Raises:
        DeviceError: the memory does not suffice.
    """
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        remedy = "leave it the GPU to itself, take --device cpu, or plan for less (--memory)"
        raise DeviceError(
            "The GPU's memory does not suffice", [Fault(who, str(error).splitlines()[0], "room for it", remedy)]
        ) from error


def usable_cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure_bf16_speedup() -> float:
    """How many times faster a bf16 3D convolution, forward and backward, is than fp32 on this CPU (below a second).

    AMX gives 3 to 8, AVX512-BF16 0.7 to 5 by make, plain AVX2 less than 0.01: only measuring tells. A CPU whose
    instruction set has no bf16 is not measured, since one convolution can take a minute there.
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
    """Peak resident memory of this process so far; on CUDA see `torch.cuda.max_memory_allocated`."""
    with contextlib.suppress(
        OSError, StopIteration
    ):  # Linux's own; what getrusage tells there begins with the peak of this process's parent
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
