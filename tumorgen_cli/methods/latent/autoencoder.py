"""The KL-VAE: its objectives, its stage, its quality on held-out cases. Reads preprocessed cases."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics import SSIMMetric
from monai.networks.nets import PatchDiscriminator
from safetensors.torch import load_file
from torch import Tensor, nn

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.geometry import Shape, cut, draw_window_start
from tumorgen_cli.models.vae import DOWNSAMPLING, Autoencoder, KlVae
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, load_case
from tumorgen_cli.preprocessing.intensity import scale, unscale
from tumorgen_cli.preprocessing.windows import augment, cut_tumor_window
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import read_plain
from tumorgen_cli.training.stage import Objective, Stage

_MOST_SHIFT = 0.02  # of the clip window, that tumors may come back brighter or darker without a warning
_SHAPES = 9  # the stream of random numbers that patch shapes are drawn from, beside the items' own


@dataclass(frozen=True)
class VaeConfig:
    """The KL-VAE and its training. `patch`: the largest, in voxels; weights are relative to the L1 term.

    `least_psnr`: below this PSNR (dB) on held-out cases the flow starts with a warning.
    """

    widths: tuple[int, ...]
    res_blocks: tuple[int, ...]
    latent_channels: int
    patch: Shape
    batch: int
    iterations: int
    learning_rate: float
    kl_weight: float
    square_weight: float
    gradient_weight: float
    adversarial_weight: float
    ema: float
    least_psnr: float


def load_cases(workspace: Workspace, names: Sequence[str]) -> list[Case]:
    """The preprocessed cases of a split.

    Raises:
        StateError: one is not preprocessed.
    """
    return [load_case(workspace.cases / name) for name in names]


class Codec(Protocol):
    """Latents (B, L, X/4, Y/4, Z/4) of images (B, C, X, Y, Z) in [-1, 1], and back."""

    def encode(self, image: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...


@contextlib.contextmanager
def precise(precision: str, device: str) -> Iterator[None]:
    """Inference without gradients in the plan's precision."""
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        yield


class VaeObjective(nn.Module):
    """L1 + squared error + gradient difference + KL (+ adversarial); batch: image (B, C, ...), noise (B, L, ...)."""

    def __init__(self, vae: KlVae, config: VaeConfig, critic: nn.Module | None) -> None:
        super().__init__()
        self.vae, self.config = vae, config
        self._critic = (critic,)  # a tuple keeps it out of this module's parameters

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        image = batch["image"]
        picture, mean, sigma = self.vae(image, batch["noise"])
        terms = {
            "l1": (picture - image).abs().mean(),
            "square": (picture - image).square().mean(),
            "gradient": gradient_difference(picture, image),
            "kl": 0.5 * (mean.square() + sigma.square() - 1 - 2 * sigma.clamp_min(1e-6).log()).mean(),
        }
        c = self.config
        loss = (
            terms["l1"]
            + c.square_weight * terms["square"]
            + c.gradient_weight * terms["gradient"]
            + c.kl_weight * terms["kl"]
        )
        critic = self._critic[0]
        if critic is not None:
            for parameter in critic.parameters():
                parameter.requires_grad_(False)
            terms["fool"] = (critic(picture)[-1] - 1).square().mean()
            loss = loss + c.adversarial_weight * terms["fool"]
        return loss, {name: value.detach() for name, value in terms.items()}


class CriticObjective(nn.Module):
    """Least-squares discriminator on real patches and reconstructions (MAISI's setting: 3 layers, 32 channels)."""

    def __init__(self, critic: nn.Module, vae: KlVae) -> None:
        super().__init__()
        self.critic = critic
        self._vae = (vae,)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        for parameter in self.critic.parameters():
            parameter.requires_grad_(True)
        with torch.no_grad():
            picture = self._vae[0](batch["image"], batch["noise"])[0]
        real = (self.critic(batch["image"])[-1] - 1).square().mean()
        fake = self.critic(picture)[-1].square().mean()
        return (real + fake) / 2, {}


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the finite differences along the three axes: edges stay sharp."""
    return torch.stack([(a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (2, 3, 4)]).mean()


def make_critic(channels: int) -> nn.Module:
    return PatchDiscriminator(
        spatial_dims=3, num_layers_d=3, channels=32, in_channels=channels, out_channels=1, norm="INSTANCE"
    )


def patch_shape(largest: Shape, seed: int, step: int) -> Shape:
    """The shape of a step's patches: each side a multiple of 16 from 32 voxels, or the largest where that is less, to the largest.

    Group norms see the patch as a whole: trained at one size, an autoencoder shifts intensities at all others.
    """
    most = np.array(largest) // rules.SIDE_MULTIPLE
    least = np.minimum(rules.SMALLEST_SIDE // rules.SIDE_MULTIPLE, most)
    drawn = np.random.default_rng([seed, _SHAPES, step]).integers(least, most + 1)
    return tuple(int(rules.SIDE_MULTIPLE * n) for n in drawn)  # type: ignore[return-value]


def draw_patch(cases: Sequence[Case], plan: Plan, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A scaled patch (C, *shape) of any place, two thirds of them around a tumor, mirrored and rescaled."""
    case = cases[rng.integers(len(cases))]
    start = draw_window_start(case.record.shape, shape, rng)
    if case.record.components and rng.random() < 2 / 3:
        component = case.record.components[rng.integers(len(case.record.components))]
        start = tuple(  # type: ignore[assignment]
            int(np.clip(round(c - p * rng.uniform(0.2, 0.8)), min(0, n - p), max(0, n - p)))
            for c, p, n in zip(component.box.center, shape, case.record.shape, strict=True)
        )
    limits = np.array(case.record.limits, np.float32)
    image = scale(cut(case.image, start, shape), plan.channels, limits)
    return augment(image, np.ones(shape, np.float32), rng, spatial=False)[0]


def vae_item(cases: Sequence[Case], plan: Plan, config: VaeConfig, seed: int) -> Callable[[int], dict[str, Any]]:
    """Items of the VAE's training: patches, and noise for their latents."""

    def item(number: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, number])
        shape = patch_shape(config.patch, seed, number // config.batch)
        latent = (config.latent_channels, *(n // DOWNSAMPLING for n in shape))
        return {"image": draw_patch(cases, plan, shape, rng), "noise": rng.standard_normal(latent, np.float32)}

    return item


def vae_stage(
    vae: KlVae,
    config: VaeConfig,
    plan: Plan,
    workspace: Workspace,
    device: str,
    made_from: str,
    iterations: int | None,
    initial: Path | None,
) -> Stage:
    """The training of a KL-VAE on the training cases, from `initial` where it is given; previews show held-out cases."""
    splits = workspace.splits()
    train, test = load_cases(workspace, splits.train), load_cases(workspace, splits.test)
    if initial is not None:
        load_initial(vae, initial)
    vae.to(device)
    critic = make_critic(len(plan.channels)) if config.adversarial_weight else None
    objectives = [Objective("vae", VaeObjective(vae, config, critic), config.learning_rate)]
    if critic is not None:
        objectives.append(Objective("critic", CriticObjective(critic, vae), config.learning_rate))

    def finish() -> dict[str, float]:
        measure_latents(vae, train, plan, device)
        return quality(vae, test, plan, device) if test else {}

    return Stage(
        "vae",
        "KL-VAE",
        {"vae": vae},
        tuple(objectives),
        vae_item(train, plan, config, derive_seed(plan.seed, "vae")),
        iterations or config.iterations,
        config.batch,
        config.ema,
        made_from,
        reconstruction_preview(vae, (test or train)[:4], plan, device),
        finish,
    )


def reconstruction_preview(vae: Codec, cases: Sequence[Case], plan: Plan, device: str) -> Callable[[Path], None]:
    """Draws scan, reconstruction and their difference through the largest tumor of each case."""

    def preview(path: Path) -> None:
        rows = []
        for case in cases:
            image = whole_image(case, plan)
            picture = reconstruct(vae, image, plan, device)
            axial, main = busiest_slice(case.tumors), plan.main_channel
            rows.append(
                [
                    image[main, :, :, axial],
                    picture[main, :, :, axial],
                    np.abs(picture - image)[main, :, :, axial] * 4 - 1,
                ]
            )
        save_grid_preview(
            path, rows, [case.record.case for case in cases], ["scan", "reconstruction", "4 × |difference|"], -1, 1
        )

    return preview


def busiest_slice(mask: np.ndarray) -> int:
    """The axial slice with the largest tumor area."""
    return int((np.asarray(mask) > 0).sum(axis=(0, 1)).argmax())


def tell_quality(run_file: Path, least_psnr: float) -> None:
    """Shows a trained autoencoder's quality, and warns where it is below `least_psnr` dB."""
    numbers = read_plain(run_file, "train it again")["numbers"]
    if not numbers:
        return
    text = f"the autoencoder on {numbers['cases']:.0f} held-out cases: PSNR {numbers['psnr']:.2f} dB, SSIM {numbers['ssim']:.3f}"
    shift = numbers.get("tumor_shift", 0.0)
    text += f", tumors shifted by {shift:+.1%} of the clip window"
    if numbers["psnr"] < least_psnr:
        console.warn(f"{text}; below {least_psnr} dB tumors will look blurred: train it longer or wider")
    elif abs(shift) > _MOST_SHIFT:
        console.warn(f"{text}; beyond {_MOST_SHIFT:.0%} they will look too bright or too dark: train it longer")
    else:
        console.note(text)


def load_initial(vae: KlVae, path: Path) -> None:
    """Starts a VAE from a MAISI checkpoint (keys of `AutoencoderKlMaisi`) or from a VAE of this project.

    Reads safetensors, or a torch file with `weights_only=True`; a nested `state_dict`, `autoencoder_state_dict` or
    `model` is found.

    Raises:
        StateError: unreadable, or keys or shapes do not fit; every one of them is listed (at most 12).
    """
    try:
        state: Any = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
        if not isinstance(state, dict):
            raise TypeError(f"a {type(state).__name__}, not tensors by name")
    except Exception as error:  # (torch and safetensors raise many kinds for a file that is not theirs)
        fault = Fault(
            str(path),
            f"{type(error).__name__}: {str(error)[:120]}",
            "safetensors, or tensors saved by torch",
            "export the weights alone",
        )
        raise StateError("The checkpoint cannot be read", [fault]) from error
    for name in ("state_dict", "autoencoder_state_dict", "model"):
        if isinstance(state.get(name), dict):
            state = state[name]
    state = {key.removeprefix("module.").removeprefix("vae.net."): value for key, value in state.items()}
    own = vae.net.state_dict()
    remedy = "plan with the checkpoint's widths (--set methods.tumorgen.vae.widths=[64,128,256])"
    faults = [
        Fault(f"{path.name}: {key}", "missing", f"a tensor of {tuple(value.shape)}", remedy)
        for key, value in own.items()
        if key not in state
    ]
    faults += [
        Fault(f"{path.name}: {key}", f"{tuple(state[key].shape)}", f"{tuple(value.shape)}", remedy)
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if faults:
        raise StateError(f"The checkpoint does not fit the plan ({len(faults)} tensors)", faults[:12])
    vae.net.load_state_dict({key: state[key] for key in own})


def whole_image(case: Case, plan: Plan) -> np.ndarray:
    """The whole case scaled, sides continued to multiples of the network's 4: (C, X, Y, Z)."""
    shape = tuple(-(-n // DOWNSAMPLING) * DOWNSAMPLING for n in case.record.shape)
    return scale(cut(case.image, (0, 0, 0), shape), plan.channels, np.array(case.record.limits, np.float32))  # type: ignore[arg-type]


def reconstruct(vae: Codec, image: np.ndarray, plan: Plan, device: str) -> np.ndarray:
    """D(E(image)) of a scaled image (C, X, Y, Z), sides divisible by 4."""
    with precise(plan.precision, device):
        return vae.decode(vae.encode(torch.from_numpy(image)[None].to(device)))[0].float().cpu().numpy()


def _seen(vae: Codec, image: np.ndarray, limits: np.ndarray, plan: Plan, device: str) -> tuple[np.ndarray, np.ndarray]:
    """A scaled image (C, X, Y, Z) and its reconstruction, in the scan's units, divided by the width of the clip window."""
    width = (limits[:, 1] - limits[:, 0]).reshape(-1, 1, 1, 1)
    found = (unscale(each, plan.channels, limits) / width for each in (image, reconstruct(vae, image, plan, device)))
    return tuple(found)  # type: ignore[return-value]


def tumor_errors(
    vae: Codec, cases: Sequence[Case], plan: Plan, shape: Shape, device: str
) -> tuple[float, float] | None:
    """Of reconstructed patches of a shape, centred on the cases' tumors: the root mean square error, and how much brighter than it is
    a tumor comes back, on average, in the channel that shifts most; both as shares of the clip window. None without a tumor."""
    squares, shifts = [], []
    for case in cases:
        for component in (c for c in case.record.components if c.fits):
            image, mask = cut_tumor_window(case, component, plan.channels, shape, None)
            real, picture = _seen(vae, image, np.array(case.record.limits, np.float32), plan, device)
            squares.append(float(np.mean((picture - real) ** 2)))
            if mask.any():
                shifts.append(np.mean((picture - real)[:, mask > 0], axis=1))
    if not shifts:
        return None
    shift = np.mean(shifts, axis=0)
    return math.sqrt(np.mean(squares)), float(shift[np.abs(shift).argmax()])


def quality(vae: Codec, cases: Sequence[Case], plan: Plan, device: str) -> dict[str, float]:
    """PSNR and SSIM of the reconstructions of whole held-out cases, mean and worst, and `tumor_shift` of windows (see `tumor_errors`;
    absent where no window holds a tumor).

    The peak of PSNR, and SSIM's data range, is the clip window; voxels beyond it are clipped on both sides.
    """
    psnr, ssim = [], []
    for case in cases:
        limits = np.array(case.record.limits, np.float32)
        keep = (slice(None), *(slice(0, n) for n in case.record.shape))
        real, picture = (whole[keep] for whole in _seen(vae, whole_image(case, plan), limits, plan, device))
        psnr.append(-10 * np.log10(max(float(np.mean((picture - real) ** 2)), 1e-12)))
        metric = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=min(7, min(case.record.shape)))
        ssim.append(float(metric(torch.from_numpy(picture)[None], torch.from_numpy(real)[None]).mean()))
    found = {
        "psnr": float(np.mean(psnr)),
        "psnr_worst": float(np.min(psnr)),
        "ssim": float(np.mean(ssim)),
        "cases": float(len(cases)),
    }
    errors = tumor_errors(vae, cases, plan, plan.window.shape, device)
    return {**found, "tumor_shift": errors[1]} if errors else found


@torch.no_grad()
def measure_latents(vae: Autoencoder, cases: Sequence[Case], plan: Plan, device: str) -> None:
    """Sets an autoencoder's mean and std per latent channel from the training cases (at most 64 of them)."""
    vae.mean.zero_(), vae.std.fill_(1.0)
    sums, squares, count = 0.0, 0.0, 0
    for case in list(cases)[:64]:
        with precise(plan.precision, device):
            z = vae.encode(torch.from_numpy(whole_image(case, plan))[None].to(device)).double()
        sums, squares, count = (
            sums + z.sum((0, 2, 3, 4)),
            squares + z.square().sum((0, 2, 3, 4)),
            count + z[0, 0].numel(),
        )
    mean = sums / count
    vae.mean.copy_(mean), vae.std.copy_((squares / count - mean**2).clamp_min(1e-8).sqrt())


def upsample_mask(mask: Tensor) -> Tensor:
    """The unrefined mask on the working grid: trilinear, in [0, 1] (the ablation without VMR); mask in [-1, 1]."""
    return ((F.interpolate(mask, scale_factor=DOWNSAMPLING, mode="trilinear") + 1) / 2).clamp(0, 1)
