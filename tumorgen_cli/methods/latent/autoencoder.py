"""The KL-VAE of the latent methods: settings, objectives, training stage, initial weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from safetensors.torch import load_file
from torch import Tensor, nn

from tumorgen_cli.geometry import Shape, as_triple, cut, draw_window_start
from tumorgen_cli.methods.base import Method
from tumorgen_cli.methods.latent.equivariance import draw_change, unpack_change
from tumorgen_cli.methods.latent.quality import (
    inference_context,
    reconstruction_preview,
    reconstruction_quality,
)
from tumorgen_cli.methods.latent.scans import TrainingScans, statistic_windows, training_scans
from tumorgen_cli.models.efficientnet import Perceptual
from tumorgen_cli.models.vae import Autoencoder, KlVae
from tumorgen_cli.models.vqgan import cut_planes
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.ranges import (
    Batch,
    Decibels,
    Iterations,
    LearningRate,
    Share,
    ShareBelowOne,
    Sides,
    VaeBlocks,
    VaeWidths,
    Weight,
    Width,
)
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, load_case
from tumorgen_cli.preprocessing.intensity import scale
from tumorgen_cli.preprocessing.windows import augment
from tumorgen_cli.system.errors import Fault, PlanError, StateError
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.training.checkpoints import check_initial
from tumorgen_cli.training.stage import Objective, Stage

_SHAPE_STREAM = 9  # stream of random numbers for the patches' shapes, separate from the items' own
_MOST_FAULTS = 12


@dataclass(frozen=True)
class VaeConfig:
    """The KL-VAE and its training.

    Attributes:
        downsampling: voxels per latent cell, along each axis: 2 with two levels, 4 with three.
        widths: channels of the levels, from the image downward.
        res_blocks: residual blocks per level.
        latent_channels: channels of the latents.
        patch: largest patch in voxels.
        batch: patches per step.
        iterations: training steps.
        learning_rate: learning rate after the warm-up.
        kl_weight: weight of the KL term, relative to the L1 term.
        square_weight: weight of the squared error, relative to the L1 term.
        gradient_weight: weight of the gradient difference, relative to the L1 term.
        adversarial_weight: weight of the adversarial term, relative to the L1 term; 0 trains no critic.
        perceptual_weight: weight of the perceptual term, relative to the L1 term; 0 loads no feature network.
        equivariance: share of the steps in which changed latents are decoded (`equivariance.Change`).
        healthy_share: share of the patches that are of scans without labels, if the workspace has any.
        ema: decay of the moving average of the weights.
        least_psnr: below this PSNR in dB on held-out cases, later stages start with a warning.
    """

    downsampling: Literal[2, 4]
    widths: VaeWidths
    res_blocks: VaeBlocks
    latent_channels: Width
    patch: Sides
    batch: Batch
    iterations: Iterations
    learning_rate: LearningRate
    kl_weight: Weight
    square_weight: Weight
    gradient_weight: Weight
    adversarial_weight: Weight
    perceptual_weight: Weight
    equivariance: Share
    healthy_share: Share
    ema: ShareBelowOne
    least_psnr: Decibels

    def __post_init__(self) -> None:
        levels = levels_for(self.downsampling)
        if (len(self.widths), len(self.res_blocks)) != (levels, levels):
            found = f"{len(self.widths)} widths and {len(self.res_blocks)} res_blocks"
            expected = f"{levels} of each for a downsampling of {self.downsampling}"
            remedy = "set methods.tumorgen.vae.downsampling, .widths and .res_blocks together"
            raise PlanError(
                "The levels of the VAE do not fit its downsampling", [Fault("vae", found, expected, remedy)]
            )

    def network(self, channels: int) -> KlVae:
        """The network, for images of `channels` channels."""
        return KlVae(channels, self.widths, self.latent_channels, self.res_blocks)


def levels_for(downsampling: int) -> int:
    """The number of levels of an autoencoder: it halves its grid between them."""
    return 1 + int(math.log2(downsampling))


class VaeObjective(nn.Module):
    """L1 + squared error + gradient difference + KL; an adversarial and a perceptual term where they have a weight.

    In a share of the steps the latents are mirrored, turned and made smaller before they are decoded, and the image is
    changed in the same way.

    Source: MAISI (arXiv 2409.11169) for L1, KL, the adversarial and the perceptual term; EQ-VAE (arXiv 2502.09509) for
        the changed latents.
    Deviation: Squared error and gradient difference are added, and the KL term is a mean over elements, where MAISI has
        a sum over those of a patch. The perceptual term compares a slice along each axis by EfficientNet-Lite0.
    """

    def __init__(self, vae: KlVae, config: VaeConfig, critic: nn.Module | None) -> None:
        super().__init__()
        self.vae, self.config = vae, config
        self._critic = (critic,)  # the tuple keeps the critic out of this module's parameters
        self._perceptual = (Perceptual() if config.perceptual_weight else None,)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and its terms for a batch.

        Args:
            batch: `image` (B, C, X, Y, Z), `noise` (B, L, x, y, z); with `equivariance` `change` (B, 8), see
                `Change.packed`; with a perceptual term `planes` (B, 3), the places of its slices as shares of a side.
        """
        image = batch["image"]
        change = unpack_change(batch["change"]) if "change" in batch else None
        if change is None:
            picture, mean, sigma = self.vae(image, batch["noise"])
        else:
            picture, mean, sigma = self.vae(image, batch["noise"], change.of_latents)
            image = change.of_image(image, self.config.downsampling)
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
        perceptual = self._perceptual[0]
        if perceptual is not None:
            planes = (batch["planes"] * torch.tensor(image.shape[2:], device=image.device)).long()
            pairs = zip(cut_planes(picture, planes), cut_planes(image, planes), strict=True)
            terms["perceptual"] = torch.stack([perceptual(a.flatten(0, 1), b.flatten(0, 1)) for a, b in pairs]).mean()
            loss = loss + c.perceptual_weight * terms["perceptual"]
        critic = self._critic[0]
        if critic is not None:
            for parameter in critic.parameters():
                parameter.requires_grad_(False)
            terms["fool"] = (critic(picture)[-1] - 1).square().mean()
            loss = loss + c.adversarial_weight * terms["fool"]
        return loss, {name: value.detach() for name, value in terms.items()}


class CriticObjective(nn.Module):
    """Least-squares loss of the critic on real patches and on reconstructions.

    Source: LSGAN (Mao et al. 2017), with labels 1 and 0.
    """

    def __init__(self, critic: nn.Module, vae: KlVae) -> None:
        super().__init__()
        self.critic = critic
        self._vae = (vae,)  # the tuple keeps the VAE out of this module's parameters

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss for the batch of `VaeObjective`."""
        for parameter in self.critic.parameters():
            parameter.requires_grad_(True)
        with torch.no_grad():
            picture = self._vae[0](batch["image"], batch["noise"])[0]
        real = (self.critic(batch["image"])[-1] - 1).square().mean()
        fake = self.critic(picture)[-1].square().mean()
        return (real + fake) / 2, {}


def gradient_difference(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute difference of the finite differences of images (B, C, X, Y, Z) along the axes; keeps edges sharp.

    Source: The gradient difference loss of Mathieu et al. 2016, with exponent 1.
    Deviation: Signed differences are compared, not their absolute values; the mean is taken instead of the sum.
    """
    return torch.stack([(a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (2, 3, 4)]).mean()


def make_critic(channels: int) -> nn.Module:
    """A patch discriminator for images of `channels` channels, with MAISI's 3 layers of 32 channels at the first."""
    return PatchDiscriminator(
        spatial_dims=3, num_layers_d=3, channels=32, in_channels=channels, out_channels=1, norm="INSTANCE"
    )


def load_cases(workspace: Workspace, names: Sequence[str]) -> list[Case]:
    """The preprocessed cases of these names.

    Raises:
        StateError: One is not preprocessed.
    """
    return [load_case(workspace.cases / name) for name in names]


def patch_shape(largest: Shape, seed: int, step: int) -> Shape:
    """The shape of the patches of a step.

    Each side is a multiple of 16 between 32 voxels (or the largest side, where that is smaller) and the largest side.
    The group norms see the whole patch: an autoencoder trained with one size only shifts intensities at all other
    sizes.
    """
    most = np.array(largest) // rules.SIDE_MULTIPLE
    least = np.minimum(rules.SMALLEST_SIDE // rules.SIDE_MULTIPLE, most)
    drawn = np.random.default_rng([seed, _SHAPE_STREAM, step]).integers(least, most + 1)
    return as_triple(int(rules.SIDE_MULTIPLE * n) for n in drawn)


def draw_patch(scans: TrainingScans, plan: Plan, shape: Shape, rng: np.random.Generator) -> np.ndarray:
    """A random patch (C, *shape) in [-1, 1], mirrored, with changed brightness.

    If the drawn scan has tumors, two thirds of its patches lie around one of them; all others lie anywhere.
    """
    case = scans.draw(rng)
    start = draw_window_start(case.record.shape, shape, rng)
    if case.record.components and rng.random() < 2 / 3:
        component = case.record.components[int(rng.integers(len(case.record.components)))]
        start = as_triple(
            int(np.clip(round(c - p * rng.uniform(0.2, 0.8)), min(0, n - p), max(0, n - p)))
            for c, p, n in zip(component.box.center, shape, case.record.shape, strict=True)
        )
    limits = np.array(case.record.limits, np.float32)
    image = scale(cut(case.image, start, shape), plan.channels, limits)
    return augment(image, np.ones(shape, np.float32), rng, spatial=False)[0]


def vae_item(scans: TrainingScans, plan: Plan, config: VaeConfig, seed: int) -> Callable[[int], dict[str, Any]]:
    """A function that returns the training item of a number: a patch, noise for its latents, and what terms need."""

    def item(number: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, number])
        shape = patch_shape(config.patch, seed, number // config.batch)
        latent = (config.latent_channels, *(n // config.downsampling for n in shape))
        drawn = {"image": draw_patch(scans, plan, shape, rng), "noise": rng.standard_normal(latent, np.float32)}
        if config.equivariance:
            step, spacing = number // config.batch, plan.window.spacing_mm
            drawn["change"] = draw_change(config.equivariance, spacing, latent[1:], seed, step)
        if config.perceptual_weight:
            drawn["planes"] = rng.random(3, np.float32)
        return drawn

    return item


def vae_stage(
    method: Method, vae: KlVae, config: VaeConfig, iterations: int | None = None, initial: Path | None = None
) -> Stage:
    """The training stage of a KL-VAE on the training cases and scans without labels; previews show held-out cases.

    Args:
        method: The method whose stage `vae` it is.
        vae: The network.
        config: Its settings.
        iterations: Number of steps; None for the plan's.
        initial: A checkpoint to start from (`load_initial`).
    """
    plan, device, splits = method.plan, method.device, method.workspace.splits()
    train, test = load_cases(method.workspace, splits.train), load_cases(method.workspace, splits.test)
    scans = training_scans(method, "vae", train)
    if initial is not None:
        load_initial(vae, initial)
    vae.to(device)
    critic = make_critic(len(plan.channels)) if config.adversarial_weight else None
    objectives = [Objective("vae", VaeObjective(vae, config, critic), config.learning_rate)]
    if critic is not None:
        objectives.append(Objective("critic", CriticObjective(critic, vae), config.learning_rate))

    def finish() -> dict[str, float]:
        measure_latent_statistics(vae, statistic_windows(method, scans), plan, device)
        return reconstruction_quality(vae, test, plan, device) if test else {}

    return Stage(
        name="vae",
        title="KL-VAE",
        models={"vae": vae},
        objectives=tuple(objectives),
        item=vae_item(scans, plan, config, derive_seed(plan.seed, "vae")),
        iterations=iterations or config.iterations,
        batch=config.batch,
        ema=config.ema,
        inputs_hash=method.inputs_hash("vae"),
        preview=reconstruction_preview(vae, (test or train)[:4], plan, device),
        finish=finish,
    )


@torch.no_grad()
def measure_latent_statistics(codec: Autoencoder, windows: Iterable[np.ndarray], plan: Plan, device: str) -> None:
    """Set an autoencoder's mean and std per latent channel from the latents of windows (C, X, Y, Z) in [-1, 1]."""
    codec.mean.zero_()
    codec.std.fill_(1.0)
    sums = torch.zeros(len(codec.mean), dtype=torch.float64, device=codec.mean.device)
    squares, count = torch.zeros_like(sums), 0
    for window in windows:
        with inference_context(plan.precision, device):
            z = codec.encode(torch.from_numpy(window)[None].to(device)).double()
        sums, squares = sums + z.sum((0, 2, 3, 4)), squares + z.square().sum((0, 2, 3, 4))
        count += z[0, 0].numel()
    mean = sums / count
    codec.mean.copy_(mean)
    codec.std.copy_((squares / count - mean**2).clamp_min(1e-8).sqrt())


def load_initial(vae: KlVae, path: Path) -> None:
    """Load a VAE's first weights from a MAISI checkpoint (keys of `AutoencoderKlMaisi`) or from a VAE of this project.

    Args:
        vae: The network.
        path: A safetensors file, or a torch file of tensors by name; a nested `state_dict`, `autoencoder_state_dict` or
            `model` is found.

    Raises:
        StateError: The file is not readable or damaged, or keys or shapes do not fit; at most 12 of them are listed.
    """
    check_initial(path)
    state = _read_tensors(path)
    for name in ("state_dict", "autoencoder_state_dict", "model"):
        if isinstance(state.get(name), dict):
            state = state[name]
    state = {key.removeprefix("module.").removeprefix("vae.net."): value for key, value in state.items()}
    own = vae.net.state_dict()
    remedy = (
        "plan with the checkpoint's levels (for MAISI's, --set methods.tumorgen.vae.downsampling=4 "
        "--set methods.tumorgen.vae.widths=[64,128,256] --set methods.tumorgen.vae.res_blocks=[2,2,2])"
    )
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
        raise StateError(f"The checkpoint does not fit the plan ({len(faults)} tensors)", faults[:_MOST_FAULTS])
    vae.net.load_state_dict({key: state[key] for key in own})


def _read_tensors(path: Path) -> dict[str, Any]:
    """The dictionary in a safetensors or torch file; pickled code is not run.

    Raises:
        StateError: The file is not readable, or does not hold tensors by name.
    """
    found = ""
    state: Any = None
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001  (torch and safetensors raise many kinds for a file of another kind)
        found = f"{type(error).__name__}: {str(error)[:120]}"
    if not found and not isinstance(state, dict):
        found = f"a {type(state).__name__}, not tensors by name"
    if found:
        remedy = "save the weights alone (safetensors.torch.save_file(model.state_dict(), FILE))"
        fault = Fault(str(path), found, "safetensors, or tensors saved by torch", remedy)
        raise StateError("The checkpoint cannot be read", [fault])
    return dict(state)
