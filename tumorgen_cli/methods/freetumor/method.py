"""FreeTumor: a generator shades a given mask into a healthy scan, so that a frozen segmentor finds a tumor there.

Stages: `segmentor` (labeled windows), `gan` (healthy windows of labeled and unlabeled scans, with masks of the prior).
A synthetic tumor that the segmentor does not find again is rejected.
"""

# ruff: noqa: ARG002, ARG003  (the contract gives every method the same arguments; some are not needed here)

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets.patchgan_discriminator import PatchDiscriminator
from torch import Tensor, nn

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.geometry import Shape, as_triple
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.freetumor.config import FreeTumorConfig, plan_freetumor
from tumorgen_cli.methods.freetumor.objectives import (
    ClassifierObjective,
    GeneratorObjective,
    SegmentorObjective,
    proportion,
    segmentation_terms,
)
from tumorgen_cli.methods.freetumor.windows import HealthyWindows, change_weight, segmentor_item
from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.latent.cache import candidate_window, find_candidates, held_out_candidates, held_out_cases
from tumorgen_cli.methods.latent.quality import inference_context, largest_tumor_slice
from tumorgen_cli.methods.mask_prior import load_donors, place_mask
from tumorgen_cli.metrics import overlap
from tumorgen_cli.models.tumor_generator import TumorGenerator
from tumorgen_cli.models.unet import make_unet
from tumorgen_cli.planning.fingerprint import Fingerprint, TumorFacts
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import CaseRecord
from tumorgen_cli.preprocessing.healthy import Scans, open_healthy, unlabeled_records
from tumorgen_cli.preprocessing.intensity import scale, unscale
from tumorgen_cli.preprocessing.windows import cut_tumor_window
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.training.stage import Objective, Stage
from tumorgen_cli.tumors.boxes import box_mask

_OVERLAP = 0.5  # of windows next to each other, of nnU-Net; the public code's is 0.75


class FreeTumor(Method):
    """FreeTumor behind the contract; see the module and `SOURCE`."""

    name = "freetumor"
    section = FreeTumorConfig
    stages = ("segmentor", "gan")
    format_versions: ClassVar[Mapping[str, int]] = {"gan": 3}
    keeps_background = True
    tested_loss = (
        "the segmentor's loss in the tumor's window; the generator saw tumors only through a classifier, which is not "
        "in the model"
    )
    SOURCE = (
        "Wu et al., FreeTumor: Advance Tumor Segmentation via Large-Scale Tumor Synthesis, 2024; eqs. 1-5 and 8, "
        "mix-up after eq. 7, and its public code, which multiplies SynTumor's texture in, blurs the difference and "
        "the mask's edge, and stays inside an organ (`gan.form` published; equation: eq. 1). Deviations: S is nnU- "
        "Net's U-Net, not SwinUNETR, and enters the loss as a probability. Masks have soft edges. In training, "
        "places are drawn in the body, not in an organ's mask, and in use in the region if one is given; G has one "
        "output for all organs. Eq. 8's weights are chances with which masks pass (`filter.rule` adaptive). The "
        "classifier judges patches, and only patches with tumor count. AdamW with this project's moments and "
        "schedule replaces Adam. After a mask has failed the filter, a few more are drawn, then another place is "
        "tried; a host in which none passes is an error. Mix-up is off: the paper uses it in the later training on "
        "synthetic tumors. Labeled cases serve as healthy scans after their tumors are removed. G sees only the "
        "image, as in eq. 1, unless `gan.mask_channel` is on."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, FreeTumorConfig)
        self.donors: list[np.ndarray] = []

    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        """Take every field of `FreeTumorConfig` into `d`."""
        plan_freetumor(d, window, budget)

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def segmentor(self) -> nn.Module:
        """The segmentation network S."""
        return make_unet(len(self.plan.channels), 1, self.config.segmentor.widths)

    @cached_property
    def generator(self) -> TumorGenerator:
        """The generator G with its blur."""
        c = self.config.gan
        return TumorGenerator(len(self.plan.channels), c.widths, c.blur_taps, c.blur_sigma, c.mask_channel, c.form)

    def probability(self, image: np.ndarray) -> np.ndarray:
        """The tumor probability (X, Y, Z) that S gives an image (C, X, Y, Z) in [-1, 1]."""
        return np.asarray(torch.sigmoid(self._logits(image))[0, 0].cpu().numpy())

    def _logits(self, image: np.ndarray) -> Tensor:
        """The logits (1, 1, X, Y, Z) of S for an image (C, X, Y, Z) in [-1, 1], on the device."""
        with inference_context(self.plan.precision, self.device):
            inputs = torch.from_numpy(image)[None].to(self.device)
            return in_windows(self.segmentor, inputs, self.config.segmentor.patch).float()

    def paint(self, image: np.ndarray, mask: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Paint a tumor into an image (C, X, Y, Z) in [-1, 1]; the result is in [-1, 1].

        Where nothing changes, the numbers stay exactly the same.

        Args:
            image: The image.
            mask: The soft mask (X, Y, Z).
            weight: How much of the change is painted (X, Y, Z), of `change_weight`.
        """
        unit, share, much = (
            torch.from_numpy(a.astype(np.float32))[None].to(self.device)
            for a in ((image + 1) / 2, mask[None], weight[None])
        )
        generator = self.generator
        with inference_context(self.plan.precision, self.device):
            difference = in_windows(generator.difference, generator.inputs(unit, share), self.config.gan.patch)
            change = (generator.shade(unit, difference, much) - unit)[0].float().cpu().numpy()
        return np.asarray(image + 2 * change)

    # -- training ----------------------------------------------------------------------------------------------
    def inputs_hash(self, name: str) -> str:
        """As for every method; the generator also depends on masks and tumor removal."""
        own = super().inputs_hash(name)
        if name == "segmentor":
            return own
        removal = (self.plan.paste.heal_mm, self.plan.paste.seen_in)
        return hash_value([own, self.config.mask, removal])

    def healthy_records(self, name: str) -> tuple[CaseRecord, ...]:
        """The generator learns from all scans without labels: it draws from them and from the cases alike."""
        return unlabeled_records(self.workspace) if name == "gan" else ()

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        """The training stage `name`."""
        torch.manual_seed(derive_seed(self.plan.seed, self.name, name))  # determines the networks' first weights
        return self._segmentor_stage(iterations) if name == "segmentor" else self._gan_stage(iterations)

    def _segmentor_stage(self, iterations: int | None) -> Stage:
        c = self.config.segmentor
        cases = load_cases(self.workspace, self.workspace.splits().train)
        item = segmentor_item(cases, self.plan, c, derive_seed(self.plan.seed, "segmentor"))
        objective = Objective("segmentor", SegmentorObjective(self.segmentor.to(self.device)), c.learning_rate)
        return Stage(
            name="segmentor",
            title="segmentor",
            models={"segmentor": self.segmentor},
            objectives=(objective,),
            item=item,
            iterations=iterations or c.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("segmentor"),
            preview=self._segmentor_preview,
            finish=self._segmentor_quality,
        )

    def _gan_stage(self, iterations: int | None) -> Stage:
        c, plan = self.config.gan, self.plan
        cases = load_cases(self.workspace, self.workspace.splits().train)
        self.load_frozen({"segmentor": self.segmentor}, "segmentor")
        self.donors, _ = load_donors(self.config.mask, self.workspace)
        unlabeled = open_healthy(self.workspace, plan).folders
        scans = Scans([*(self.workspace.cases / case.record.case for case in cases), *unlabeled])
        healthy = HealthyWindows(scans, plan, self.config, self._tumors(), self.donors)
        real, seed = find_candidates(cases), derive_seed(plan.seed, "gan")
        classifier = PatchDiscriminator(
            spatial_dims=3,
            num_layers_d=3,
            channels=c.classifier_width,
            in_channels=len(plan.channels),
            out_channels=1,
            norm="INSTANCE",
        )

        def item(number: int) -> dict[str, Any]:
            rng = np.random.default_rng([seed, number])
            image, mask, _ = healthy.draw(rng)
            weight = change_weight(mask, c, plan.window.spacing_mm, rng)
            chosen = real[int(rng.integers(len(real)))]
            # not resampled, like the healthy windows: the classifier would recognize real windows by their smoothness
            tumor, body, _ = cut_tumor_window(
                chosen.case, chosen.component, plan.channels, c.patch, int(rng.integers(2**32)), spatial=False
            )
            real_mask = (body[None] > 0).astype(np.float32)
            return {"image": image, "mask": mask[None], "weight": weight[None], "tumor": tumor, "body": real_mask}

        weights = (c.segmentor_weight, c.classifier_weight)
        paint = GeneratorObjective(self.generator.to(self.device), self.segmentor, classifier, weights)
        objectives = [Objective("generator", paint, c.learning_rate)]
        if c.classifier_weight:  # otherwise nothing would use what the classifier learns
            judged = ClassifierObjective(classifier.to(self.device), paint)
            objectives.append(Objective("classifier", judged, c.learning_rate))
        return Stage(
            name="gan",
            title="generator",
            models={"generator": self.generator},
            objectives=tuple(objectives),
            item=item,
            iterations=iterations or c.iterations,
            batch=c.batch,
            ema=c.ema,
            inputs_hash=self.inputs_hash("gan"),
            preview=self._gan_preview,
            finish=self._gan_quality,
        )

    def _tumors(self) -> tuple[TumorFacts, ...]:
        """Facts of the training tumors."""
        return self.workspace.fingerprint().of(self.workspace.splits().train).tumors

    # -- previews and quality ----------------------------------------------------------------------------------
    def tumor_losses(self, case: str) -> tuple[float, ...]:
        """The segmentor's training loss on the window of each tumor of a case."""
        cases, losses = load_cases(self.workspace, [case]), []
        for candidate in held_out_candidates(cases, len(cases[0].record.components)):
            window = candidate_window(self.plan, candidate, 0)
            mask = torch.from_numpy(window.mask.astype(np.float32))[None, None].to(self.device)
            entropy, dice = segmentation_terms(self._logits(window.image), mask)
            losses.append(float(entropy + 1 - dice))
        return tuple(losses)

    def _held_out_tumors(self, most: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
        """Name, scaled window (C, X, Y, Z) and mask (X, Y, Z) of held-out tumors."""
        found = held_out_candidates(held_out_cases(self.workspace), most)
        windows = [(candidate.name, candidate_window(self.plan, candidate, 0)) for candidate in found]
        return [(name, window.image, window.mask) for name, window in windows]

    def _held_out_places(self, most: int) -> list[tuple[np.ndarray, np.ndarray, str]]:
        """Scaled window (C, X, Y, Z), drawn mask (X, Y, Z) and case of healthy places in held-out cases."""
        cases = held_out_cases(self.workspace)
        self.donors, _ = load_donors(self.config.mask, self.workspace)
        windows = HealthyWindows(cases, self.plan, self.config, self._tumors(), self.donors)
        return [
            windows.draw(np.random.default_rng([self.plan.seed, 7, number]), number % len(cases))
            for number in range(most)
        ]

    def _segmentor_quality(self) -> dict[str, float]:
        """Dice of S on held-out tumor windows, for the record; no decision uses it."""
        scores = [overlap.dice(self.probability(image) >= 0.5, mask) for _, image, mask in self._held_out_tumors(64)]
        if not scores:
            return {}
        return {"dice": float(np.mean(scores)), "dice_worst": float(np.min(scores)), "windows": float(len(scores))}

    def _gan_quality(self) -> dict[str, float]:
        """P of masks in healthy places of held-out cases, before and after painting, and the share that passes."""
        places = self._held_out_places(16)
        before = [proportion(self.probability(image), mask) for image, mask, _ in places]
        found = np.array([proportion(self.probability(self._shaded(image, mask)), mask) for image, mask, _ in places])
        passed = found if self.config.filter.rule == "adaptive" else found >= self.config.filter.threshold
        return {
            "proportion": float(found.mean()),
            "passed": float(passed.mean()),
            "proportion_before": float(np.mean(before)),
            "unlabeled_scans": float(len(self.healthy_records("gan"))),
        }

    def _shaded(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A window (C, X, Y, Z) in [-1, 1] that is painted with a fixed draw of the change's weight."""
        rng = np.random.default_rng([self.plan.seed, 8])
        return self.paint(image, mask, change_weight(mask, self.config.gan, self.plan.window.spacing_mm, rng))

    def _segmentor_preview(self, path: Path) -> None:
        """Held-out tumors: the scan, the true mask, S."""
        windows, main = self._held_out_tumors(4), self.plan.main_channel
        rows = []
        for _, image, mask in windows:
            axial = largest_tumor_slice(mask)
            rows.append([a[:, :, axial] for a in (image[main], mask * 2.0 - 1, self.probability(image) * 2 - 1)])
        save_grid_preview(path, rows, [name for name, _, _ in windows], ["scan", "mask", "segmentor"], -1, 1)

    def _gan_preview(self, path: Path) -> None:
        """Healthy places of held-out cases: the window, a drawn mask, the painted tumor, the difference, S."""
        windows, main = self._held_out_places(5), self.plan.main_channel
        rows = []
        for image, mask, _ in windows:
            painted, axial = self._shaded(image, mask), largest_tumor_slice(mask >= 0.5)
            shown = (
                image[main],
                mask * 2 - 1,
                painted[main],
                (painted - image)[main],
                self.probability(painted) * 2 - 1,
            )
            rows.append([a[:, :, axial] for a in shown])
        names = ["healthy", "mask", "painted", "difference", "segmentor"]
        save_grid_preview(path, rows, [name for _, _, name in windows], names, -1, 1)

    # -- synthesis ---------------------------------------------------------------------------------------------
    def load(self) -> dict[str, str]:
        """Load the segmentor, the generator and, if the prior uses them, the training masks."""
        hashes = {
            "segmentor": self.load_frozen({"segmentor": self.segmentor}, "segmentor"),
            "gan": self.load_frozen({"generator": self.generator}, "gan"),
        }
        self.donors, masks = load_donors(self.config.mask, self.workspace)
        return hashes | masks

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draw and paint masks until one passes the filter; if none does, return the window unchanged, without a mask.

        Source: the filter of FreeTumor, eqs. 5 and 8.
        """
        c, plan = self.config, self.plan
        scaled = scale(request.image, plan.channels, request.limits)
        before = unscale(scaled, plan.channels, request.limits)
        image = request.image.astype(np.float32, copy=True)
        found: list[float] = []
        for attempt in range(c.filter.tries):
            rng = np.random.default_rng([seed, attempt])
            mask, drawn = place_mask(c.mask, plan, request, rng, self.donors)
            weight = change_weight(mask, c.gan, request.spacing_mm, rng, request.region)
            weight = weight * box_mask(request.box, as_triple(weight.shape))
            painted = self.paint(scaled, mask, weight)
            found.append(round(proportion(self.probability(painted), mask), 4))
            least = c.filter.threshold if c.filter.rule == "threshold" else rng.random()
            if found[-1] >= least:
                # the change is added, so that intensities beyond the clip window keep their excess
                change = (unscale(painted, plan.channels, request.limits) - before) * (weight > 0)
                return Synthetic(image + change, mask, {**drawn, "found": found[-1], "tries": attempt + 1})
        return Synthetic(image, np.zeros(image.shape[1:], np.float32), {"found": max(found), "tries": c.filter.tries})


def in_windows(network: Callable[[Tensor], Tensor], inputs: Tensor, patch: Shape) -> Tensor:
    """Apply a network to inputs (B, C, X, Y, Z), in overlapping windows of `patch` voxels where they are larger.

    Instance norms depend on the size of what a network sees: it is used on windows of the size that it was trained on.
    """
    if all(n <= m for n, m in zip(inputs.shape[2:], patch, strict=True)):
        return network(inputs)
    found = sliding_window_inference(inputs, patch, 1, network, overlap=_OVERLAP, mode="gaussian")
    assert isinstance(found, Tensor)  # networks with one output have one
    return found
