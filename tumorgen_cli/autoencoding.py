"""The autoencoder stage: objectives of the KL-VAE, its quality on held-out cases, the cache of augmented latents.

Reads preprocessed cases; the cache lies beside the run that uses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.metrics import SSIMMetric
from monai.networks.nets import PatchDiscriminator
from safetensors.torch import load_file
from torch import Tensor, nn

from tumorgen_cli.errors import DataError, Fault, StateError
from tumorgen_cli.files import atomic, derive_seed, read_plain, write_json
from tumorgen_cli.nets.vae import DOWNSAMPLING, KlVae
from tumorgen_cli.plan import Plan
from tumorgen_cli.records import Shape
from tumorgen_cli.windows import Case, Component, augment, cut, load_case, scale, tumor_window, unscale
from tumorgen_cli.workspace import Workspace


@dataclass(frozen=True)
class VaeConfig:
    """The KL-VAE and its training. `patch` in voxels; weights are relative to the L1 term.

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


@dataclass(frozen=True)
class Candidate:
    """A tumor component of a case that a window can hold."""

    case: Case
    component: Component

    @property
    def name(self) -> str:
        return f"{self.case.record.case}_{self.component.number}"


def load_cases(workspace: Workspace, names: Sequence[str]) -> list[Case]:
    """The preprocessed cases of a split.

    Raises:
        StateError: one is not preprocessed.
    """
    return [load_case(workspace.cases / name) for name in names]


def find_candidates(cases: Sequence[Case]) -> list[Candidate]:
    """Every tumor component of the cases that fits the window.

    Raises:
        DataError: there is none.
    """
    found = [Candidate(case, component) for case in cases for component in case.record.components if component.fits]
    if not found:
        remedy = "plan with a larger window (--memory, or --set window.shape=[...]) or check the labels"
        fault = Fault("the cases", "no tumor that fits the window", "one tumor or more", remedy)
        raise DataError("Nothing to learn from", [fault])
    return found


@contextlib.contextmanager
def precise(precision: str, device: str) -> Iterator[None]:
    """Inference without gradients in the plan's precision."""
    with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        yield


# -- training --------------------------------------------------------------------------------------------------
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
        loss = terms["l1"] + c.square_weight * terms["square"] + c.gradient_weight * terms["gradient"] + c.kl_weight * terms["kl"]
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
    return PatchDiscriminator(spatial_dims=3, num_layers_d=3, channels=32, in_channels=channels, out_channels=1, norm="INSTANCE")


def vae_item(cases: Sequence[Case], plan: Plan, config: VaeConfig, seed: int) -> Callable[[int], dict[str, Any]]:
    """Items of the VAE's training: patches of any place, two thirds of them around a tumor, mirrored and rescaled."""
    latent = (config.latent_channels, *(n // DOWNSAMPLING for n in config.patch))

    def item(number: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, number])
        case = cases[rng.integers(len(cases))]
        start = [int(rng.integers(min(0, n - p), max(0, n - p) + 1)) for n, p in zip(case.record.shape, config.patch, strict=True)]
        if case.record.components and rng.random() < 2 / 3:
            component = case.record.components[rng.integers(len(case.record.components))]
            start = [
                int(np.clip(round(c - p * rng.uniform(0.2, 0.8)), min(0, n - p), max(0, n - p)))
                for c, p, n in zip(component.box.center, config.patch, case.record.shape, strict=True)
            ]
        limits = np.array(case.record.limits, np.float32)
        image = scale(cut(case.image, (start[0], start[1], start[2]), config.patch), plan.channels, limits)
        image, _ = augment(image, np.ones(config.patch, np.float32), rng, spatial=False)
        return {"image": image, "noise": rng.standard_normal(latent, np.float32)}

    return item


def load_initial(vae: KlVae, path: Path) -> None:
    """Starts a VAE from a MAISI checkpoint (keys of `AutoencoderKlMaisi`) or from a VAE of this project.

    Reads safetensors, or a torch file with `weights_only=True`; a nested `state_dict`, `autoencoder_state_dict` or
    `model` is found.

    Raises:
        StateError: unreadable, or keys or shapes do not fit; every one of them is listed (at most 12).
    """
    try:
        state: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError(f"a {type(state).__name__}, not tensors by name")
    except Exception as error:  # (torch and safetensors raise many kinds for a file that is not theirs)
        fault = Fault(str(path), f"{type(error).__name__}: {str(error)[:120]}", "safetensors, or tensors saved by torch", "export the weights alone")
        raise StateError("The checkpoint cannot be read", [fault]) from error
    for name in ("state_dict", "autoencoder_state_dict", "model"):
        if isinstance(state.get(name), dict):
            state = state[name]
    state = {key.removeprefix("module.").removeprefix("vae.net."): value for key, value in state.items()}
    own = vae.net.state_dict()
    remedy = "plan with the checkpoint's widths (--set methods.tumorgen.vae.widths=[64,128,256])"
    faults = [Fault(f"{path.name}: {key}", "missing", f"a tensor of {tuple(value.shape)}", remedy) for key, value in own.items() if key not in state]
    faults += [
        Fault(f"{path.name}: {key}", f"{tuple(state[key].shape)}", f"{tuple(value.shape)}", remedy)
        for key, value in own.items()
        if key in state and state[key].shape != value.shape
    ]
    if faults:
        raise StateError(f"The checkpoint does not fit the plan ({len(faults)} tensors)", faults[:12])
    vae.net.load_state_dict({key: state[key] for key in own})


# -- quality ---------------------------------------------------------------------------------------------------
def whole_image(case: Case, plan: Plan) -> np.ndarray:
    """The whole case scaled, sides continued to multiples of the network's 4: (C, X, Y, Z)."""
    shape = tuple(-(-n // DOWNSAMPLING) * DOWNSAMPLING for n in case.record.shape)
    return scale(cut(case.image, (0, 0, 0), shape), plan.channels, np.array(case.record.limits, np.float32))  # type: ignore[arg-type]


def reconstruct(vae: KlVae, image: np.ndarray, plan: Plan, device: str) -> np.ndarray:
    """D(E(image)) of a scaled image (C, X, Y, Z), sides divisible by 4."""
    with precise(plan.precision, device):
        return vae.decode(vae.encode(torch.from_numpy(image)[None].to(device)))[0].float().cpu().numpy()


def quality(vae: KlVae, cases: Sequence[Case], plan: Plan, device: str) -> dict[str, float]:
    """PSNR and SSIM of the reconstructions of whole held-out cases, in the scan's units, mean and worst.

    The peak of PSNR (and SSIM's data range) is the clip window; voxels beyond the window are clipped on both sides.
    """
    psnr, ssim = [], []
    for case in cases:
        image = whole_image(case, plan)
        limits = np.array(case.record.limits, np.float32)
        keep = (slice(None), *(slice(0, n) for n in case.record.shape))
        real = unscale(image, plan.channels, limits)[keep]
        picture = unscale(reconstruct(vae, image, plan, device), plan.channels, limits)[keep]
        width = (limits[:, 1] - limits[:, 0]).reshape(-1, 1, 1, 1)
        psnr.append(-10 * np.log10(max(float(np.mean(((picture - real) / width) ** 2)), 1e-12)))
        window = min(7, min(case.record.shape))
        metric = SSIMMetric(spatial_dims=3, data_range=1.0, win_size=window)
        ssim.append(float(metric(torch.from_numpy(picture / width)[None], torch.from_numpy(real / width)[None]).mean()))
    return {"psnr": float(np.mean(psnr)), "psnr_worst": float(np.min(psnr)), "ssim": float(np.mean(ssim)), "cases": float(len(cases))}


@torch.no_grad()
def measure_latents(vae: KlVae, cases: Sequence[Case], plan: Plan, device: str) -> None:
    """Sets the VAE's mean and std per latent channel from the training cases (at most 64 of them)."""
    vae.mean.zero_(), vae.std.fill_(1.0)
    sums, squares, count = 0.0, 0.0, 0
    for case in list(cases)[:64]:
        with precise(plan.precision, device):
            z = vae.encode(torch.from_numpy(whole_image(case, plan))[None].to(device)).double()
        sums, squares, count = sums + z.sum((0, 2, 3, 4)), squares + z.square().sum((0, 2, 3, 4)), count + z[0, 0].numel()
    mean = sums / count
    vae.mean.copy_(mean), vae.std.copy_((squares / count - mean**2).clamp_min(1e-8).sqrt())


# -- the cache of latents --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Latents:
    """latents: (N, copies, L, x, y, z) float32; packed: the masks on the working grid, bits packed along z."""

    latents: np.ndarray
    packed: np.ndarray

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Latent (L, x, y, z) and mask (X, Y, Z) uint8 of a random copy of a random tumor."""
        number, copy = int(rng.integers(self.latents.shape[0])), int(rng.integers(self.latents.shape[1]))
        return self.latents[number, copy], np.unpackbits(self.packed[number, copy], axis=-1)


class LatentCache:
    """Augmented windows of every candidate, encoded once: latents and packed masks, one file a candidate.

    Copy 0 is the candidate itself, centred; the others are augmented, each from its own seed.
    """

    def __init__(self, folder: Path, candidates: Sequence[Candidate], copies: int, made_from: str) -> None:
        self.folder, self.candidates, self.copies, self.made_from = folder, candidates, copies, made_from

    def build(self, vae: KlVae, plan: Plan, device: str, tick: Callable[[int, str], None]) -> None:
        """Encodes what is not there yet; files of other weights or settings are replaced."""
        manifest = self.folder / "latents.json"
        if not manifest.is_file() or read_plain(manifest, "train the flow again").get("made_from") != self.made_from:
            for old in self.folder.glob("*.npz"):
                old.unlink()
            write_json(manifest, {"made_from": self.made_from})
        for done, candidate in enumerate(self.candidates):
            tick(done, candidate.name)
            path = self.folder / f"{candidate.name}.npz"
            if not path.is_file():
                latents, masks = zip(*(self.encode(vae, plan, device, candidate, copy) for copy in range(self.copies)), strict=True)
                with atomic(path) as temporary:
                    np.savez(temporary, latents=np.stack(latents), masks=np.packbits(np.stack(masks), axis=-1))
        tick(len(self.candidates), "")

    def encode(self, vae: KlVae, plan: Plan, device: str, candidate: Candidate, copy: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self.window(plan, candidate, copy)
        with precise(plan.precision, device):
            latent = vae.encode(torch.from_numpy(image)[None].to(device))[0].float().cpu().numpy()
        return latent, mask

    @staticmethod
    def window(plan: Plan, candidate: Candidate, copy: int) -> tuple[np.ndarray, np.ndarray]:
        """The scaled image (C, ...) and mask (...) of a copy, on the working grid."""
        seed = derive_seed(plan.seed, candidate.name, copy) % 2**32 if copy else None
        return tumor_window(candidate.case, candidate.component, plan.channels, plan.window.shape, seed)

    def load(self) -> Latents:
        """Everything, in memory."""
        parts = [np.load(self.folder / f"{candidate.name}.npz") for candidate in self.candidates]
        return Latents(np.stack([part["latents"] for part in parts]), np.stack([part["masks"] for part in parts]))


def upsample_mask(mask: Tensor) -> Tensor:
    """The unrefined mask on the working grid: trilinear, in [0, 1] (the ablation without VMR); mask in [-1, 1]."""
    return ((F.interpolate(mask, scale_factor=DOWNSAMPLING, mode="trilinear") + 1) / 2).clamp(0, 1)
