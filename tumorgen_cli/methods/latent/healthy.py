"""Tumor-free windows of the scans without labels, cut as the windows of training tumors are, and their latents.

A window has a place of a training tumor's size in the body. A method can learn from it what is there without a tumor:
latents of healthy tissue, and an empty mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import PartialState

from tumorgen_cli.data.body import body_mask
from tumorgen_cli.geometry import Box, Shape, cut, cut_mask, place_window
from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.latent.quality import Codec, inference_context
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.cases import Case
from tumorgen_cli.preprocessing.healthy import Scans, case_records, open_healthy, unlabeled_records
from tumorgen_cli.preprocessing.intensity import scale
from tumorgen_cli.preprocessing.windows import augment
from tumorgen_cli.system import console
from tumorgen_cli.system.arrays import prepare_cache, read_arrays, write_arrays
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.tumors.boxes import place_box

FORMAT = 1  # version of the cache's files; raise it also when the windows are cut in another way


@dataclass(frozen=True)
class HealthyWindow:
    """A window without a tumor.

    Attributes:
        name: name of the scan.
        image: (C, X, Y, Z) float32 in [-1, 1], augmented as a training tumor's window.
        place: (X, Y, Z) uint8, 1 where a tumor could be: a box of a training tumor's size, augmented with the image.
    """

    name: str
    image: np.ndarray
    place: np.ndarray


@dataclass(frozen=True)
class HealthyLatents:
    """Encoded windows without tumors.

    Attributes:
        latents: (N, L, x, y, z) float32.
        packed: their places on the working grid, (N, X, Y, Z / 8), bits packed along z.
    """

    latents: np.ndarray
    packed: np.ndarray

    def __len__(self) -> int:
        """The number of windows."""
        return len(self.latents)

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Latents (L, x, y, z) of a random window, and its place (X, Y, Z) uint8."""
        at = int(rng.integers(len(self.latents)))
        return self.latents[at], np.unpackbits(self.packed[at], axis=-1)


def tumor_shapes(method: Method) -> list[Shape]:
    """The shapes, in working voxels, of the tight boxes of the training tumors that fit into a window.

    Raises:
        DataError: None fits.
    """
    train = {*method.workspace.splits().train}
    records = [record for record in case_records(method.workspace) if record.case in train]
    found = [each.box.shape for record in records for each in record.components if each.fits]
    if not found:
        remedy = "plan with a larger window (--memory, or --set window.shape=[...]) or check the labels"
        fault = Fault("the training cases", "no tumor that fits the window", "one tumor or more", remedy)
        raise DataError("No place for a tumor is known", [fault])
    return found


def draw_healthy_window(
    case: Case, shapes: Sequence[Shape], plan: Plan, rng: np.random.Generator
) -> HealthyWindow | None:
    """Draw a window around a place in the body of a scan; None if the scan has none.

    Args:
        case: The scan.
        shapes: Shapes of training tumors in voxels, of which one is drawn.
        plan: The plan.
        rng: Makes all random draws.
    """
    window, volume = plan.window.shape, case.record.shape
    wanted = shapes[int(rng.integers(len(shapes)))]
    size = (min(wanted[0], volume[0]), min(wanted[1], volume[1]), min(wanted[2], volume[2]))
    box: Box | None = place_box(size, body_mask(np.asarray(case.image[0], np.float32)), rng)
    if box is None:
        return None
    inside = np.zeros(volume, np.float32)
    inside[box.slices] = 1
    start = place_window(box, volume, window, rng)
    image = scale(cut(case.image, start, window), plan.channels, np.array(case.record.limits, np.float32))
    image, place = augment(image, cut_mask(inside, start, window), rng)
    return HealthyWindow(case.record.case, image, (place > 0.5).astype(np.uint8))


def healthy_windows(method: Method, count: int) -> Iterator[HealthyWindow]:
    """Windows of the workspace's scans without labels; none if it has no such scans.

    Of more scans than windows, scans at even distances are taken; of fewer, each gives several windows. The same scans
    and plan always give the same windows. Scans without a place for a tumor give none.

    Args:
        method: The method, for its plan and workspace.
        count: Number of windows.

    Raises:
        StateError: The scans were preprocessed by another plan.
        DataError: Scans are cases of the data set, or no training tumor fits into a window.
    """
    scans = open_healthy(method.workspace, method.plan)
    if not len(scans) or not count:
        return iter(())
    shapes = tumor_shapes(method)
    windows = (draw_numbered_window(scans, shapes, method.plan, count, number) for number in range(count))
    return (window for window in windows if window is not None)


def draw_numbered_window(
    scans: Scans, shapes: Sequence[Shape], plan: Plan, count: int, number: int
) -> HealthyWindow | None:
    """Window `number` of the `count` windows of scans; None if its scan has no place for a tumor."""
    chosen = number % len(scans) if count >= len(scans) else round(number * (len(scans) - 1) / max(1, count - 1))
    name = scans.folders[chosen].name
    seed = derive_seed(plan.seed, "healthy window", name, number // len(scans))
    return draw_healthy_window(scans[chosen], shapes, plan, np.random.default_rng(seed))


def healthy_latents(method: Method, encoder: Codec, encoder_hash: str, count: int) -> HealthyLatents | None:
    """The latents of `healthy_windows`; encoded once, in the method's folder `healthy_latents`. None without windows.

    An interrupted call goes on where it stopped. With several processes the first one encodes, and the others wait.

    Args:
        method: The method.
        encoder: The trained autoencoder.
        encoder_hash: Hash of its weights.
        count: Number of windows.
    """
    plan, folder = method.plan, method.folder("healthy_latents")
    scans = open_healthy(method.workspace, plan)
    if not len(scans):
        return None
    content = [(record.case, record.hashes[0]) for record in unlabeled_records(method.workspace)]
    shapes = tumor_shapes(method)
    settings = [plan.window, plan.channels, plan.precision, plan.seed, shapes]
    made_from = hash_value([FORMAT, encoder_hash, settings, count, content])
    processes = PartialState(cpu=method.device == "cpu")
    quiet = not processes.is_main_process
    parts = []
    with processes.main_process_first(), console.progress("encoding healthy windows", count, quiet=quiet) as tick:
        prepare_cache(folder, made_from)
        for number in range(count):
            path = folder / f"{number:06d}.npz"
            part = read_arrays(path)
            if part is None:
                window = draw_numbered_window(scans, shapes, plan, count, number)
                if window is None:
                    continue
                with inference_context(plan.precision, method.device):
                    latent = encoder.encode(torch.from_numpy(window.image)[None].to(method.device))[0]
                part = {"latents": latent.float().cpu().numpy(), "packed": np.packbits(window.place, axis=-1)}
                write_arrays(path, part)
            parts.append(part)
            tick(number + 1, "")
    if not parts:
        return None
    return HealthyLatents(*(np.stack([part[name] for part in parts]) for name in ("latents", "packed")))
