"""Check and measure tumorgen's networks on a GPU. Usage: `bash examples/gpu_check.sh`, which starts this.

Networks have the widths that a plan for a GPU of 24 GiB gives. Losses are plain ones; the methods add small terms to
them. Without a GPU everything runs at toy size, which tests the script and measures nothing. After each part
`gpu_check.json` and `gpu_check.html` are written to OUT, so that a part that fails loses no other.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.training.loop import seconds_per_step, train
from tumorgen_cli.training.stage import Objective, Stage

ROOT = Path(__file__).resolve().parents[1]
LATENTS, MASKS, TOLD = 4, 8, 4  # channels of the latents and of a packed mask; values that the flow is told
CELL = 4  # voxels along an edge of a latent cell


@dataclass(frozen=True)
class Sizes:
    """What is measured: widths and batches of a plan, windows in voxels, sampling steps, and the time for it."""

    vae_widths: tuple[int, ...] = (64, 128, 256)
    flow_widths: tuple[int, ...] = (64, 128, 256)
    res_blocks: int = 2
    refiner_width: int = 16
    patch: tuple[int, int, int] = (128, 128, 64)  # of the vae
    window: tuple[int, int, int] = (128, 128, 64)
    batches: tuple[int, int, int] = (1, 8, 4)  # of vae, flow and refiner
    windows: tuple[tuple[int, int, int], ...] = ((128, 128, 64), (96, 96, 96))
    sampling_steps: tuple[int, ...] = (4, 10)
    timed_steps: int = 10
    repeats: int = 10
    shared_seconds: float = 20.0
    budget_gib: float = 24.0  # the memory that these networks are planned for


TOY = Sizes(
    (8, 16, 32), (16, 32), 1, 4, (16, 16, 16), (16, 16, 16), (2, 2, 2), ((16, 16, 16), (32, 16, 16)), (1, 2), 3, 2, 1.0
)


class Copy(nn.Module):
    """The VAE learns to copy patches."""

    def __init__(self, vae: KlVae) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and no other numbers, as for the next two."""
        picture, mean, sigma = self.vae(batch["image"], batch["noise"])
        kl = 0.5 * (mean.square() + sigma.square() - 1 - 2 * sigma.clamp_min(1e-6).log()).mean()
        return (picture - batch["image"]).abs().mean() + 1e-6 * kl, {}


class Draw(nn.Module):
    """The flow learns the velocity."""

    def __init__(self, net: FlowUNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As for the VAE."""
        x = rectified_flow.path(batch["noise"], batch["joint"], batch["time"])
        velocity = self.net(torch.cat([x, batch["told"]], 1), batch["time"])
        return rectified_flow.velocity_loss(velocity, batch["noise"], batch["joint"]), {}


class Refine(nn.Module):
    """The refiner learns a mask from the features of the frozen VAE."""

    def __init__(self, refiner: MaskRefiner, vae: KlVae) -> None:
        super().__init__()
        self.refiner, self._vae = refiner, (vae.requires_grad_(False),)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As for the VAE."""
        with torch.no_grad():
            _, features = self._vae[0].decode_with_features(batch["joint"][:, :LATENTS])
        logits = self.refiner(batch["joint"][:, LATENTS:], features)
        return nn.functional.binary_cross_entropy_with_logits(logits, batch["mask"]), {}


@dataclass
class Check:
    """The networks, the arrays that they see, and where they compute."""

    sizes: Sizes
    device: str
    precision: str
    images: list[np.ndarray]

    def vae(self) -> KlVae:
        """The autoencoder with its first weights, as for the next two."""
        torch.manual_seed(0)
        return KlVae(1, self.sizes.vae_widths, LATENTS, (self.sizes.res_blocks,) * 3)

    def net(self) -> FlowUNet:
        """The vector field."""
        torch.manual_seed(1)
        joint = LATENTS + MASKS
        return FlowUNet(joint + LATENTS + TOLD, joint, self.sizes.flow_widths, self.sizes.res_blocks)

    def refiner(self) -> MaskRefiner:
        """The mask refiner."""
        torch.manual_seed(2)
        return MaskRefiner(tuple(reversed(self.sizes.vae_widths)), self.sizes.refiner_width, mask_channels=MASKS)

    def window(self, shape: tuple[int, ...], number: int) -> np.ndarray:
        """A window (1, X, Y, Z) of one of the arrays; smaller arrays are repeated."""
        image = self.images[number % len(self.images)]
        repeats = [-(-n // m) for n, m in zip(shape, image.shape, strict=True)]
        return np.ascontiguousarray(np.tile(image, repeats)[tuple(slice(n) for n in shape)][None], np.float32)

    def item(self, shape: tuple[int, ...], number: int) -> dict[str, Any]:
        """What any of the objectives reads."""
        rng, cells = np.random.default_rng(number), tuple(n // CELL for n in shape)
        image = self.window(shape, number)
        return {
            "image": image,
            "noise": rng.standard_normal((LATENTS + MASKS, *cells), np.float32),
            "joint": rng.standard_normal((LATENTS + MASKS, *cells), np.float32),
            "told": rng.standard_normal((LATENTS + TOLD, *cells), np.float32),
            "mask": (image > 0).astype(np.float32),
            "time": np.float32(rng.random()),
        }

    def stage(self, name: str, iterations: int) -> Stage:
        """A training stage of the plan's batch."""
        number = ("vae", "flow", "refiner").index(name)
        shape = self.sizes.patch if name == "vae" else self.sizes.window
        objective: nn.Module
        if name == "vae":
            objective = Copy(self.vae())
        elif name == "flow":
            objective = Draw(self.net())
        else:
            objective = Refine(self.refiner(), self.vae().to(self.device))
        models = {"net": next(objective.children())}
        parts = {"vae": ("image", "noise"), "flow": ("noise", "joint", "told", "time"), "refiner": ("joint", "mask")}

        def item(index: int) -> dict[str, Any]:
            found = {key: value for key, value in self.item(shape, index).items() if key in parts[name]}
            return {**found, "noise": found["noise"][:LATENTS]} if name == "vae" else found

        batch = self.sizes.batches[number]
        objectives = (Objective(name, objective, 1e-4),)
        return Stage(name, name, models, objectives, item, iterations, batch, 0.9, "gpu_check", previews=0)

    # -- the parts ---------------------------------------------------------------------------------------------
    def steps(self) -> dict[str, Any]:
        """Seconds and peak memory of a training step."""
        found = {}
        for name in ("vae", "flow", "refiner"):
            self.forget_peak()
            stage = self.stage(name, self.sizes.timed_steps)
            seconds = seconds_per_step(stage, self.device, self.precision)
            found[name] = {"batch": stage.batch, "seconds": seconds, **self.peak()}
        return found

    def pairs(self) -> dict[str, Any]:
        """Seconds and peak memory of a pair by window and sampling steps: network, decoding, and all with transfers."""
        painter = Painter(self)
        found = {}
        for shape in self.sizes.windows:
            for steps in self.sizes.sampling_steps:
                self.forget_peak()
                times = [painter.paint(shape, steps, number) for number in range(self.sizes.repeats + 1)][1:]
                medians = {key: statistics.median(each[key] for each in times) for key in times[0]}
                found[f"{'x'.join(map(str, shape))}, {steps} steps"] = {**medians, **self.peak()}
        return found

    def resumed(self) -> dict[str, Any]:
        """Whether a training that was stopped and resumed has the weights of an unbroken one."""
        from safetensors.torch import load_file

        with tempfile.TemporaryDirectory() as name:
            whole, broken = Path(name, "whole"), Path(name, "broken")
            train(self.stage("flow", 6), whole, self.device, self.precision)
            stage = self.stage("flow", 6)
            stopping = StopAt(stage.objectives[0].module, 3)
            try:
                objectives = (Objective("flow", stopping, 1e-4),)
                train(Stage(**{**vars(stage), "objectives": objectives}), broken, self.device, self.precision)
            except KeyboardInterrupt:
                stopped = json.loads((broken / "progress.json").read_text())["step"]
            train(self.stage("flow", 6), broken, self.device, self.precision)
            a, b = (load_file(folder / "weights.safetensors") for folder in (whole, broken))
            largest = max(float((a[key] - b[key]).abs().max()) for key in a)
        if largest > 1e-3:
            raise RuntimeError(f"the resumed training differs by {largest}")
        return {"stopped_after": stopped, "equal_bit_by_bit": largest == 0.0, "largest_difference": largest}

    def tests(self) -> dict[str, Any]:
        """The tests that are marked `gpu`."""
        environment = {**os.environ, "TUMORGEN_GPU_TESTS": self.device}
        words = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-rA", "-p", "no:cacheprovider"]
        ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if ended.returncode:
            raise RuntimeError(f"pytest ended with {ended.returncode}: {ended.stdout[-2000:]}{ended.stderr[-1000:]}")
        lines = ended.stdout.splitlines()
        return {name: sum(line.startswith(f"{name} ") for line in lines) for name in ("PASSED", "SKIPPED")}

    def shared(self) -> dict[str, Any]:
        """Pairs a second of one process, and of two processes on the same device."""
        found = {}
        for count in (1, 2):
            words = [sys.executable, __file__, "-", "--paint", str(self.sizes.shared_seconds)]
            started = [subprocess.Popen(words, stdout=subprocess.PIPE, text=True) for _ in range(count)]
            told = [process.communicate()[0] for process in started]
            if any(process.returncode for process in started):
                raise RuntimeError(f"{count} processes: one failed")
            found[f"{count} processes"] = {"pairs_a_second": sum(float(text) for text in told)}
        return found

    # -- memory ------------------------------------------------------------------------------------------------
    def forget_peak(self) -> None:
        """Begin to look for the peak of the GPU's memory."""
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> dict[str, float]:
        """The peak of the GPU's memory since then."""
        if self.device != "cuda":
            return {}
        peak = torch.cuda.max_memory_allocated() / 2**30
        return {"peak_gib": peak, "share_of_budget": peak / self.sizes.budget_gib}


class StopAt(nn.Module):
    """An objective that asks its process to stop at a step, as SLURM does."""

    def __init__(self, inner: nn.Module, step: int) -> None:
        super().__init__()
        self.inner, self.step, self.seen = inner, step, 0

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """As the objective inside."""
        self.seen += 1
        if self.seen == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
        found: tuple[Tensor, dict[str, Tensor]] = self.inner(batch)
        return found


class Painter:
    """Draws pairs with networks of random weights."""

    def __init__(self, check: Check) -> None:
        self.check, self.device = check, check.device
        networks = (check.vae(), check.net(), check.refiner())
        self.vae, self.net, self.refiner = (each.to(self.device).eval() for each in networks)

    def paint(self, shape: tuple[int, ...], steps: int, number: int) -> dict[str, float]:
        """Draw a pair into a window; returns the seconds of its parts."""
        check = self.check
        noise = torch.from_numpy(check.item(shape, number)["noise"])[None]
        image = torch.from_numpy(check.window(shape, number))[None]
        bf16 = torch.autocast(self.device, torch.bfloat16, enabled=check.precision == "bf16")
        with torch.inference_mode(), bf16:
            begun = self.now()
            context = self.vae.encode(image.to(self.device))
            told = context.new_zeros(1, TOLD, *context.shape[2:])
            encoded = self.now()

            def velocity(x: Tensor, t: Tensor) -> Tensor:
                return self.net(torch.cat([x, context, told], 1), t)

            joint = rectified_flow.sample(velocity, noise.to(self.device), steps)
            drawn = self.now()
            picture, features = self.vae.decode_with_features(joint[:, :LATENTS])
            mask = self.refiner(joint[:, LATENTS:], features).sigmoid()
            decoded = self.now()
            for each in (picture, mask):
                if not torch.isfinite(each).all():
                    raise RuntimeError("a pair is not finite")
                each.float().cpu().numpy()
        parts = {"encode": encoded - begun, "network": drawn - encoded, "decode": decoded - drawn}
        return {**parts, "whole": self.now() - begun}

    def now(self) -> float:
        """The time when the device has finished."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def read_arrays(folder: Path | None) -> list[np.ndarray]:
    """The first channels (X, Y, Z) of preprocessed cases, scaled to [-1, 1]; drawn balls in noise without a folder."""
    if folder is None:
        rng, space = np.random.default_rng(0), np.indices((64, 64, 64))
        balls = [np.square(space - rng.uniform(16, 48, (3, 1, 1, 1))).sum(0) < 150 for _ in range(4)]
        return [(ball + 0.1 * rng.standard_normal(ball.shape) - 0.5).astype(np.float32) for ball in balls]
    files = sorted(folder.glob("cases/*/image.npy"))[:8]
    if not files:
        raise SystemExit(f"{folder} has no cases/CASE/image.npy: preprocess it, or leave the arrays out")
    images = [np.load(path, mmap_mode="r", allow_pickle=False)[0].astype(np.float32) for path in files]
    return [np.clip(2 * image / max(float(np.percentile(image, 99.9)), 1e-6) - 1, -1, 1) for image in images]


def machine(check: Check) -> dict[str, Any]:
    """What was measured on."""
    return {
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "device": torch.cuda.get_device_name() if check.device == "cuda" else f"CPU ({platform.machine()}), toy size",
        "precision": check.precision,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "sizes": asdict(check.sizes),
    }


def run_parts(check: Check, out: Path) -> bool:
    """Run every part; returns whether none failed."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "seconds of a training step": check.steps,
        "seconds of a pair": check.pairs,
        "a resumed training": check.resumed,
        "two processes on one device": check.shared,
        "tests": check.tests,
    }
    found: dict[str, Any] = {"machine": machine(check)}
    for name, part in parts.items():
        begun = time.monotonic()
        try:
            found[name] = part()
        except Exception as error:  # noqa: BLE001  (the other parts are still measured)
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        found[name]["took_seconds"] = time.monotonic() - begun
        print(f"{name}: {json.dumps(found[name])}", flush=True)
        write(out, found)
    return not any("error" in each for each in found.values())


def write(out: Path, found: Mapping[str, Any]) -> None:
    """Write the JSON and the page."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu_check.json").write_text(json.dumps(found, indent=1) + "\n")
    sections = [f"<h2>{html.escape(name)}</h2>\n{table(each)}" for name, each in found.items()]
    head = "<!doctype html><meta charset=utf-8><title>tumorgen on a GPU</title>"
    style = "<style>body{font:16px sans-serif;margin:2em}"
    style += "td,th{padding:.2em .8em;text-align:left;border-bottom:1px solid #ccc}</style><h1>tumorgen on a GPU</h1>"
    (out / "gpu_check.html").write_text("\n".join([head + style, *sections]) + "\n")


def table(values: Mapping[str, Any]) -> str:
    """A table with a row for each value; a nested record has its values in one cell."""

    def cell(value: Any) -> str:
        if isinstance(value, Mapping):
            return "; ".join(f"{key} {cell(each)}" for key, each in value.items())
        return f"{value:.4g}" if isinstance(value, float) else str(value)

    rows = [f"<tr><th>{html.escape(key)}<td>{html.escape(cell(value))}" for key, value in values.items()]
    return f"<table>{''.join(rows)}</table>"


def paint_for(check: Check, seconds: float) -> None:
    """Paint for some seconds and print the pairs a second."""
    painter, shape, steps = Painter(check), check.sizes.windows[0], check.sizes.sampling_steps[0]
    painter.paint(shape, steps, 0)
    begun, count = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        painter.paint(shape, steps, count)
        count += 1
    print(count / (time.perf_counter() - begun))


def main() -> None:
    """Read the options and run the check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="Folder of gpu_check.json and gpu_check.html.")
    parser.add_argument("--arrays", type=Path, help="A preprocessed workspace. Default: arrays are drawn.")
    parser.add_argument("--paint", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    precision = "bf16" if on_gpu and torch.cuda.is_bf16_supported() else "fp32"
    check = Check(Sizes() if on_gpu else TOY, "cuda" if on_gpu else "cpu", precision, read_arrays(given.arrays))
    if given.paint is not None:
        paint_for(check, given.paint)
        return
    if not on_gpu:
        print("no CUDA device: everything runs at toy size, which tests this script and measures nothing")
    sys.exit(0 if run_parts(check, given.out) else 1)


if __name__ == "__main__":
    main()
