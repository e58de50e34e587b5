"""TumorGen's synthesis: draws latents and mask in a box, decodes them, corrects tumors that miss their character."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from tumorgen_cli.geometry import Box, as_triple
from tumorgen_cli.methods.base import Request, Sampling, Synthetic
from tumorgen_cli.methods.latent.canvas import (
    Canvas,
    closeness,
    noise_like_host,
    open_canvas,
    put_back,
    roughen_mask,
    smooth_host,
)
from tumorgen_cli.methods.latent.joint import upsample_mask, without_tumor
from tumorgen_cli.methods.latent.quality import inference_context
from tumorgen_cli.methods.tumorgen.condition import Condition
from tumorgen_cli.methods.tumorgen.config import TumorGenConfig, box_alpha
from tumorgen_cli.metrics.traits import FIELDS, describe_traits
from tumorgen_cli.models import rectified_flow
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.preprocessing.intensity import scale, to_comparable_units, unscale

_CLOSE_ENOUGH = 0.3  # a character with this error needs no correction; its spread over the training tumors is 1
_LARGEST_INPUT = 4.0  # bounds the field's character input; training tumors reach 2 or 3


@dataclass(frozen=True)
class Networks:
    """TumorGen's trained networks."""

    vae: KlVae
    net: FlowUNet
    condition: Condition
    refiner: MaskRefiner


@dataclass(frozen=True)
class FlowSettings:
    """Settings of one draw of the flow: the seed of its noise, the number of steps, the solver."""

    seed: int
    steps: int
    solver: rectified_flow.Solver


class TumorSampler:
    """Draws tumors with the trained networks.

    A character here is the vector (3 C,) of a tumor's traits in its own units; a *character input* is what the field
    gets for it, in standard scores.
    """

    def __init__(self, config: TumorGenConfig, plan: Plan, device: str, networks: Networks) -> None:
        self.config, self.plan, self.device, self.networks = config, plan, device, networks

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draw a tumor for a request.

        While the tumor misses its character and corrections are left, it is drawn again from the same noise, with a
        character input that is changed by what was missing. The draw that is closest to the character is returned.
        """
        c = self.config.sampling
        canvas = open_canvas(self.networks.vae, request, self.plan, c.halo, self.device)
        solver = cast("rectified_flow.Solver", sampling.solver or c.solver)  # the command line checks the name
        settings = FlowSettings(seed, sampling.steps or c.steps, solver)
        character = self.draw_character(canvas.latent_box, seed, sampling.kind)
        smooth = smooth_host(canvas, self.networks.vae.decode, self.plan, self.device) if c.texture else None
        character_input = self.first_input(character)
        closest, draws = self.paint(canvas, smooth, character_input, settings), 1
        missing = self.missing_character(character, closest, request)
        error = _largest_error(missing)
        while missing is not None and character_input is not None and error > _CLOSE_ENOUGH and draws <= c.corrections:
            character_input = np.clip(character_input + c.gain * missing, -_LARGEST_INPUT, _LARGEST_INPUT)
            painted, draws = self.paint(canvas, smooth, character_input, settings), draws + 1
            missing = self.missing_character(character, painted, request)
            if _largest_error(missing) < error:
                closest, error = painted, _largest_error(missing)
        off = {"off": round(error, 4)} if math.isfinite(error) else {}
        record = {"steps": settings.steps, "solver": settings.solver, "draws": draws, **off}
        return replace(closest, drawn={**record, **self._character_record(character)})

    def draw_character(self, box: Box, seed: int, kind: str | None = None) -> np.ndarray | None:
        """A random character (3 C,) for a box of latent cells; None if the field gets none."""
        cell = self.config.vae.downsampling * np.array(self.plan.window.spacing_mm)
        reach = np.maximum(box_alpha(self.config, self.plan.window) * np.array(self.plan.window.extent_mm), cell)
        rng = np.random.default_rng([seed, 2])
        return self.networks.condition.draw(
            as_triple(box.shape * cell), as_triple(reach), rng, kind, self.plan.main_channel
        )

    def first_input(self, character: np.ndarray | None) -> np.ndarray | None:
        """The character input (3 C,) of the first draw for a character (3 C,)."""
        if character is None:
            return None
        emphasized = self.config.sampling.emphasis * self.networks.condition.standardize(character)
        return np.clip(emphasized, -_LARGEST_INPUT, _LARGEST_INPUT)

    def sample(self, latent: Tensor, box: Tensor, character_input: np.ndarray | None, settings: FlowSettings) -> Tensor:
        """Draw the joint variable x̂_1 inside the box; outside are the scan's own latents and no tumor.

        Args:
            latent: (1, L, x, y, z) of the scan.
            box: (1, 1, x, y, z), 1 inside.
            character_input: (3 C,); None if the field gets none.
            settings: Seed, steps and solver.

        Returns:
            (1, L + 1, x, y, z), the mask last, in the flow's range.
        """
        rng = np.random.default_rng(settings.seed)
        noise = rng.standard_normal((1, latent.shape[1] + 1, *latent.shape[2:]), np.float32)
        values = None if character_input is None else torch.from_numpy(character_input)[None].to(self.device)
        condition = self.networks.condition(latent, box, values)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            return cast("Tensor", self.networks.net(torch.cat([x, condition], 1), t)).float()

        with inference_context(self.plan.precision, self.device):
            start = torch.from_numpy(noise).to(self.device)
            drawn = rectified_flow.sample(velocity, start, settings.steps, settings.solver)
        return box * drawn + (1 - box) * without_tumor(latent)

    def decode(self, joint: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The scaled image (C, X, Y, Z) and the mask (X, Y, Z) in [0, 1] of a joint variable (1, L + 1, x, y, z)."""
        latent, mask = joint[:, :-1], joint[:, -1:]
        with inference_context(self.plan.precision, self.device):
            image, features = self.networks.vae.decode_with_features(latent)
            if self.config.refiner.enabled:
                refined = torch.sigmoid(self.networks.refiner(mask.clamp(-1, 1), features))
            else:
                refined = upsample_mask(mask, self.config.vae.downsampling)
        return image[0].float().cpu().numpy(), refined[0, 0].float().cpu().numpy()

    def paint(
        self, canvas: Canvas, smooth: np.ndarray | None, character_input: np.ndarray | None, settings: FlowSettings
    ) -> Synthetic:
        """One draw: sample, decode the box with its halo, refine the mask, add noise, keep the host far from the tumor.

        Args:
            canvas: The encoded window.
            smooth: The `smooth_host`; None for no noise.
            character_input: (3 C,); None if the field gets none.
            settings: Seed, steps and solver.
        """
        c, request, seed = self.config.sampling, canvas.request, settings.seed
        joint = self.sample(canvas.latent, canvas.box, character_input, settings)
        picture, refined = self.decode(joint[canvas.cells])
        if c.roughness and self.config.refiner.enabled:  # a coarse mask is not a probability
            refined = roughen_mask(canvas, refined, c.roughness, c.roughness_mm, seed)
        image, mask = put_back(canvas, picture, refined, self.plan)
        noise = np.zeros_like(image)
        if smooth is not None:
            noisy = picture + noise_like_host(canvas, picture, smooth, seed)
            noise = put_back(canvas, noisy, refined, self.plan)[0] - image
        if not c.keep_mm:
            return Synthetic(image + noise, mask)
        share = closeness(mask, request.spacing_mm, c.keep_mm)
        # variances add: with this factor the host's remaining noise and the new noise are together as strong as either
        noise_factor = np.sqrt(share * (2 - share))
        blended = request.image + share * (image - request.image) + noise_factor * noise
        return Synthetic(blended, mask, kept=1 - share)

    def missing_character(
        self, character: np.ndarray | None, painted: Synthetic, request: Request
    ) -> np.ndarray | None:
        """Wanted minus painted character (3 C,) in standard scores; 0 where the wanted one is NaN.

        None if there is no wanted character or no tumor that is large enough.
        """
        inside = painted.mask >= 0.5
        volume_ml = float(inside.sum()) * math.prod(request.spacing_mm) / 1000
        if character is None or not volume_ml or volume_ml < self.plan.paste.smallest_ml:
            return None
        channels, limits = self.plan.channels, request.limits
        clipped = unscale(scale(painted.image, channels, limits), channels, limits)  # as with the training tumors
        intensities, zero = to_comparable_units(clipped, channels, limits)
        standardize = self.networks.condition.standardize
        found = standardize(describe_traits(intensities, inside, request.spacing_mm, zero))
        return np.where(np.isfinite(character), standardize(character) - found, np.float32(0))

    def _character_record(self, character: np.ndarray | None) -> dict[str, Any]:
        """A character for the provenance record, by channel and trait; None for NaN."""
        if character is None:
            return {}
        rows = zip(self.plan.channels, character.reshape(-1, len(FIELDS)).tolist(), strict=True)
        return {
            "character": {
                channel.name: {f: round(v, 4) if math.isfinite(v) else None for f, v in zip(FIELDS, row, strict=True)}
                for channel, row in rows
            }
        }


def _largest_error(missing: np.ndarray | None) -> float:
    """The largest absolute error of a character's traits; infinite if it is not known."""
    return math.inf if missing is None else float(np.abs(missing).max())
