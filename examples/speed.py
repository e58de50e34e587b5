"""Measure the speed of training and of planning against other tools, in turn in one run.

    python examples/speed.py training -w WORK
    python examples/speed.py planning DATASET

- training: seconds a step of TumorGen's stages, and of a plain loop of MONAI and torch with the same networks: cropped
  and flipped patches, one L1 or squared error, AdamW. The workspace needs a trained VAE and flow.
- planning: seconds of the fingerprint of a data set with every voxel checked, and of nnU-Net's check and fingerprint of
  its cases, all in this process. DATASET is a folder of nnU-Net's raw form.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from monai.data.dataloader import DataLoader as MonaiLoader
from monai.data.dataset import Dataset as MonaiDataset
from monai.transforms.compose import Compose
from monai.transforms.croppad.dictionary import RandSpatialCropd, SpatialPadd
from monai.transforms.spatial.dictionary import RandFlipd
from monai.transforms.utility.dictionary import ToTensord
from origin import origin_and_command
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import default_collate

from tumorgen_cli.data.dataset import find_dataset, read_dataset
from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.tumorgen.method import TumorGen
from tumorgen_cli.planning.fingerprint import make_fingerprint
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scale
from tumorgen_cli.system.devices import DeviceName, find_device
from tumorgen_cli.training.loop import seconds_per_step
from tumorgen_cli.training.stage import Stage

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
NNUNET_SAMPLES = 10**8  # foreground voxels of a data set that its fingerprint looks at
Loss = Callable[[dict[str, Tensor]], Tensor]


@app.command()
def training(
    work: Annotated[Path, typer.Option("-w", "--work", help="A workspace with a trained VAE and flow.")],
    rounds: Annotated[int, typer.Option(help="Rounds in which both loops are measured.", min=1)] = 5,
    steps: Annotated[int, typer.Option(help="Steps of each loop in a round.", min=1)] = 5,
    device: DeviceName = "auto",
) -> None:
    """Print the median seconds a step of VAE, flow and refiner beside those of a plain loop.

    Both draw the same shapes of patches. On a GPU the time to draw a batch is left out on both sides.
    """
    workspace, where = Workspace(work), find_device(device).type
    for name, plain in (("vae", plain_vae), ("flow", plain_flow), ("refiner", plain_refiner)):
        method = TumorGen(workspace.plan(), workspace, where)
        stage = replace(method.stage(name), iterations=steps + 1)  # the first step is not counted
        precision = method.plan.precision
        batches, loss = plain(method, stage)
        modules = nn.ModuleList(stage.models.values())
        ours, others = [], []
        for _ in range(rounds):
            ours.append(seconds_per_step(stage, where, precision))
            others.append(plain_seconds(modules, batches, loss, steps, (where, precision)))
        mine, other = float(np.median(ours)), float(np.median(others))
        print(
            f"{name}: {mine:.4f} s a step, plain loop {other:.4f} s, {mine / other:.2f} times it, batch {stage.batch}"
        )


def plain_vae(method: TumorGen, stage: Stage) -> tuple[Iterator[dict[str, Tensor]], Loss]:
    """Batches of MONAI's random crops, as large as the stage's, and L1 with the KL term."""
    plan, config = method.plan, method.config.vae
    cases = load_cases(method.workspace, method.workspace.splits().train)
    limits = [np.array(case.record.limits, np.float32) for case in cases]
    scans = [{"image": scale(case.image, plan.channels, own)} for case, own in zip(cases, limits, strict=True)]

    shapes = [stage.item(number * stage.batch)["image"].shape[1:] for number in range(stage.iterations)]

    def batches() -> Iterator[dict[str, Tensor]]:
        for shape in itertools.cycle(shapes):
            flips = [RandFlipd("image", 0.5, axis) for axis in range(3)]
            crop = (SpatialPadd("image", shape), RandSpatialCropd("image", shape, random_size=False))
            draw = Compose([*crop, *flips, ToTensord("image")])
            yield next(iter(MonaiLoader(MonaiDataset(scans, draw), batch_size=stage.batch, shuffle=True)))

    def loss(batch: dict[str, Tensor]) -> Tensor:
        image, noise = batch["image"], torch.randn(1, 1, 1, 1, 1, device=batch["image"].device)
        picture, mean, sigma = method.vae(image, noise)
        kl = 0.5 * (mean.square() + sigma.square() - 1 - 2 * sigma.log()).mean()
        return functional.l1_loss(picture, image) + config.kl_weight * kl

    return batches(), loss


def plain_flow(method: TumorGen, stage: Stage) -> tuple[Iterator[dict[str, Tensor]], Loss]:
    """Batches of ready tensors, and the squared error of the network's output."""
    channels = method.net.out_channels + method.condition.channels
    size = (stage.batch, channels, *stage.item(0)["latent"].shape[1:])

    def batches() -> Iterator[dict[str, Tensor]]:
        while True:
            yield {"x": torch.randn(size), "t": torch.rand(stage.batch)}

    def loss(batch: dict[str, Tensor]) -> Tensor:
        output = method.net(batch["x"], batch["t"])
        return functional.mse_loss(output, batch["x"][:, : output.shape[1]])

    return batches(), loss


def plain_refiner(method: TumorGen, stage: Stage) -> tuple[Iterator[dict[str, Tensor]], Loss]:
    """Batches of true latents and masks, and the squared error of the refined masks; no step of the flow is made."""
    items = [stage.item(number) for number in range(4 * stage.batch)]

    def batches() -> Iterator[dict[str, Tensor]]:
        for number in itertools.count():
            drawn = [items[(number * stage.batch + each) % len(items)] for each in range(stage.batch)]
            yield default_collate([{name: item[name] for name in ("latent", "mask", "target")} for item in drawn])

    def loss(batch: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            _, features = method.vae.decode_with_features(batch["latent"])
        logits = method.refiner(2 * batch["mask"] - 1, features)
        return functional.mse_loss(torch.sigmoid(logits[:, :1]), batch["target"][:, :1])

    return batches(), loss


def plain_seconds(
    modules: nn.Module, batches: Iterator[dict[str, Tensor]], loss: Loss, steps: int, where: tuple[str, str]
) -> float:
    """Mean seconds of a step of a plain loop, the first step not counted; `where` is the device and the precision."""
    device, precision = where
    optimizer = torch.optim.AdamW([each for each in modules.parameters() if each.requires_grad], lr=1e-5)
    durations = []
    for _ in range(steps + 1):
        begun = time.perf_counter()
        drawn = next(batches)
        if device == "cuda":  # as `seconds_per_step` counts
            begun = time.perf_counter()
        batch = {name: torch.as_tensor(value).to(device) for name, value in drawn.items()}
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            value = loss(batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        float(value.detach())  # waits for the device
        durations.append(time.perf_counter() - begun)
    return sum(durations[1:]) / steps


@app.command()
def planning(
    dataset: Annotated[str, typer.Argument(help="A folder of nnU-Net's raw form, DatasetNNN_NAME.")],
    rounds: Annotated[int, typer.Option(help="Rounds in which both are measured.", min=1)] = 3,
) -> None:
    """Print the median seconds of the checked fingerprint, and of nnU-Net's check and fingerprint."""
    folder = find_dataset(dataset).resolve()
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases
    from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
    from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

    content = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    cases = list(get_filenames_of_train_images_and_targets(str(folder), content).values())
    channels, samples = len(content["channel_names"]), NNUNET_SAMPLES // len(cases)

    def check() -> None:
        for case in cases:
            check_cases(case["images"], case["label"], channels, SimpleITKIO)

    def analyze() -> None:
        for case in cases:
            DatasetFingerprintExtractor.analyze_case(case["images"], case["label"], SimpleITKIO, samples)

    tasks: dict[str, Callable[[], Any]] = {
        "tumorgen, check and fingerprint": lambda: make_fingerprint(read_dataset(folder), workers=0),
        "nnU-Net, check": check,
        "nnU-Net, fingerprint": analyze,
    }
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            begun = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - begun)
    for name, values in seconds.items():
        print(f"{name}: {np.median(values):.2f} s")


if __name__ == "__main__":
    torch.manual_seed(0)
    print(origin_and_command())
    app()
