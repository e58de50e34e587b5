"""FreeTumor: a generator shades a given mask into a healthy scan until a frozen segmentation network finds a tumor there.

Stages: segmentor (labelled windows), gan (healthy windows of labelled and unlabelled scans, masks from the prior). What the
segmentor does not find again in a synthetic tumor is thrown away.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from monai.networks.nets import PatchDiscriminator
from torch import Tensor, nn

from tumorgen_cli.figures import save_grid_preview
from tumorgen_cli.geometry import Shape, cut, cut_mask, draw_window_start, place_window, tight_box
from tumorgen_cli.methods.base import Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.latent.autoencoder import busiest_slice, load_cases, precise
from tumorgen_cli.methods.latent.cache import find_candidates, held_out_candidates, held_out_cases, tumor_image
from tumorgen_cli.methods.mask_prior import load_donors, place_mask
from tumorgen_cli.metrics import overlap
from tumorgen_cli.models.tumor_generator import TumorGenerator
from tumorgen_cli.models.unet import make_unet
from tumorgen_cli.planning.fingerprint import Fingerprint, TumorFacts
from tumorgen_cli.planning.plan import Decisions, Plan, WindowPlan, validate_sides
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, is_done, load_case
from tumorgen_cli.preprocessing.intensity import scale, unscale
from tumorgen_cli.preprocessing.windows import augment, cut_mix, cut_tumor_window
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import DataError, Fault, StateError, abbreviate_list
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.training.checkpoints import load_weights
from tumorgen_cli.training.stage import Objective, Stage
from tumorgen_cli.tumors.boxes import body_mask, draw_size_mm, place_box
from tumorgen_cli.tumors.masks import MaskConfig, draw_mask, plan_masks
from tumorgen_cli.tumors.removal import remove_tumors


@dataclass(frozen=True)
class SegmentorConfig:
    """The segmentation network S. `tumor_share`: of windows that are cut around a tumor, the others lie anywhere; `mixup`: of windows
    into which a box of another case's is pasted."""

    widths: tuple[int, ...]
    patch: Shape
    batch: int
    iterations: int
    learning_rate: float
    tumor_share: float
    mixup: float
    ema: float


@dataclass(frozen=True)
class GanConfig:
    """The generator G and the classifier trained against it. `mask_channel`: G sees the mask; the blur g in voxels."""

    widths: tuple[int, ...]
    classifier_width: int
    patch: Shape
    batch: int
    iterations: int
    learning_rate: float
    classifier_weight: float
    mask_channel: bool
    blur_taps: int
    blur_sigma: float
    ema: float


@dataclass(frozen=True)
class FilterConfig:
    """A mask passes where S finds the share `threshold` of it; after `tries` masks the draw is an empty one (the harness then draws
    elsewhere, and gives the pair up, with a warning, after the plan's number of draws)."""

    threshold: float
    tries: int


@dataclass(frozen=True)
class FreeTumorConfig:
    """FreeTumor's section of the plan."""

    segmentor: SegmentorConfig
    gan: GanConfig
    mask: MaskConfig
    filter: FilterConfig


class FreeTumor(Method):
    """See the module."""

    name = "freetumor"
    stages = ("segmentor", "gan")
    formats: ClassVar[Mapping[str, int]] = {"gan": 2}
    keeps_background: ClassVar[bool] = True
    SOURCE = (
        "Wu et al., FreeTumor: Advance Tumor Segmentation via Large-Scale Tumor Synthesis, 2024; eqs. 1-5, mix-up after eq. 7. Deviations: S is "
        "nnU-Net's U-Net, not SwinUNETR; S enters the loss as a probability; masks have soft edges; places are drawn in the body, not in an organ's "
        "mask; the classifier judges patches and counts those that hold a tumor; AdamW with this project's moments and schedule instead of Adam; "
        "a mask that fails the filter is drawn anew some times, then elsewhere, and a host in which none passes is an error; mix-up is off, for the "
        "paper has it in the training "
        "that follows; labelled cases serve as healthy scans once their tumors are taken away. "
        "G sees the image alone, as eq. 1 says, unless `gan.mask_channel`."
    )

    def __init__(self, plan: Plan, workspace: Workspace, device: str = "cpu") -> None:
        super().__init__(plan, workspace, device)
        self.config = plan.section(self.name, FreeTumorConfig)
        self.donors: list[np.ndarray] = []

    # -- planning ----------------------------------------------------------------------------------------------
    @classmethod
    def plan_section(cls, d: Decisions, fingerprint: Fingerprint, window: WindowPlan, budget: DeviceBudget) -> None:
        large = budget.large
        free = "the paper gives none; not swept"
        side = 96 if large else 48
        patch = tuple(min(n, side) for n in window.shape)
        widths = (32, 64, 128, 256, 320) if large else (16, 32, 64, 128)
        s = d.within("segmentor")
        s.take("widths", widths, "nnU-Net's from 16 GiB up; fewer on a CPU", memory_gib=budget.memory_gib)
        asked = s.take("patch", patch, "the paper's 96 voxels from 16 GiB up, 48 on a CPU", window=window.shape)
        validate_sides(asked, "methods.freetumor.segmentor.patch")
        s.take("batch", 2, "nnU-Net's")
        s.take("iterations", 20000 if large else 2500, "about 20 minutes on one CPU core; more is not measured")
        s.take("learning_rate", 5e-4 if large else 1e-3, free)
        s.take("tumor_share", 2 / 3, "two thirds around a tumor, one third anywhere: it must know healthy tissue too")
        s.take("mixup", 0.0, "the paper mixes up when it trains on synthetic tumors, not here; a share of the windows")
        s.take("ema", 0.998, free)
        g = d.within("gan")
        g.take(
            "widths",
            (64, 128, 256, 512) if large else (16, 32, 64, 128),
            "the paper's code: 64 to 512; a quarter on a CPU",
        )
        g.take("classifier_width", 32 if large else 16, free)
        patch = tuple(min(n, 96) for n in window.shape)
        asked = g.take("patch", patch, "the paper's 96 voxels: whole tumors, as in synthesis", window=window.shape)
        validate_sides(asked, "methods.freetumor.gan.patch")
        g.take("batch", 4 if large else 1, "the paper's 4 from 16 GiB up")
        g.take("iterations", 20000 if large else 1500, "about 20 minutes on one CPU core; more is not measured")
        g.take("learning_rate", 1e-4 if large else 5e-4, "the paper's 1e-4; more where steps are few")
        g.take("classifier_weight", 0.1, "the paper's λ_cls")
        g.take("mask_channel", False, "eq. 1: G(x); true: G sees the mask too")
        g.take("blur_taps", 7, "the paper's code")
        g.take("blur_sigma", 1.0, "the paper's code")
        g.take("ema", 0.995, free)
        plan_masks(d, "ellipsoid")
        f = d.within("filter")
        f.take("threshold", 0.7, "the paper's T")
        f.take("tries", 5, "masks drawn before a draw counts as empty, and another place is tried; the paper draws one")

    # -- networks ----------------------------------------------------------------------------------------------
    @cached_property
    def segmentor(self) -> nn.Module:
        return make_unet(len(self.plan.channels), 1, self.config.segmentor.widths)

    @cached_property
    def generator(self) -> TumorGenerator:
        c = self.config.gan
        return TumorGenerator(len(self.plan.channels), c.widths, c.blur_taps, c.blur_sigma, c.mask_channel)

    def probability(self, image: np.ndarray) -> np.ndarray:
        """S of an image (C, X, Y, Z) in [-1, 1]: (X, Y, Z) in [0, 1]."""
        with precise(self.plan.precision, self.device):
            return (
                torch.sigmoid(self.segmentor(torch.from_numpy(image)[None].to(self.device)).float())[0, 0].cpu().numpy()
            )

    def paint(self, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Eq. 1 for an image (C, X, Y, Z) in [-1, 1] and a soft mask (X, Y, Z); in [-1, 1] again."""
        unit, share = (
            torch.from_numpy(a)[None].to(self.device) for a in ((image + 1) / 2, mask[None].astype(np.float32))
        )
        with precise(self.plan.precision, self.device):
            change = (self.generator(unit, share) - unit)[0].float().cpu().numpy()
        return image + 2 * change  # where nothing changes, the very same numbers

    # -- training ----------------------------------------------------------------------------------------------
    def inputs_hash(self, name: str) -> str:
        """As for every method; the generator also depends on the masks and on the unlabelled scans."""
        own = super().inputs_hash(name)
        if name == "segmentor":
            return own
        heal = (self.plan.paste.heal_mm, self.plan.paste.seen_in)
        return hash_value(
            [own, self.config.mask, heal, [(c.record.case, c.record.inputs_hash) for c in self._unlabelled()]]
        )

    def stage(self, name: str, iterations: int | None = None, initial: Path | None = None) -> Stage:
        torch.manual_seed(derive_seed(self.plan.seed, self.name, name))  # the networks' first weights
        return self._segmentor_stage(iterations) if name == "segmentor" else self._gan_stage(iterations)

    def _segmentor_stage(self, iterations: int | None) -> Stage:
        c = self.config.segmentor
        cases = load_cases(self.workspace, self.workspace.splits().train)
        item = segmentor_item(cases, self.plan, c, derive_seed(self.plan.seed, "segmentor"))
        objective = Objective("segmentor", SegmentorObjective(self.segmentor.to(self.device)), c.learning_rate)
        return Stage(
            "segmentor",
            "segmentor",
            {"segmentor": self.segmentor},
            (objective,),
            item,
            iterations or c.iterations,
            c.batch,
            c.ema,
            self.inputs_hash("segmentor"),
            self._segmentor_preview,
            self._segmentor_quality,
        )

    def _gan_stage(self, iterations: int | None) -> Stage:
        c, plan = self.config.gan, self.plan
        cases = load_cases(self.workspace, self.workspace.splits().train)
        load_weights({"segmentor": self.segmentor}, self.folder("segmentor"))
        self.segmentor.to(self.device).eval().requires_grad_(False)
        self.donors, _ = load_donors(self.config.mask, self.workspace)
        unlabelled = self._unlabelled()
        self._check(unlabelled)
        healthy = HealthyWindows([*cases, *unlabelled], plan, self.config, self._tumors(), self.donors)
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
            chosen = real[rng.integers(len(real))]
            # like the healthy windows not resampled: the classifier would tell what is real by its being smoother
            tumor, body = cut_tumor_window(
                chosen.case, chosen.component, plan.channels, c.patch, int(rng.integers(2**32)), spatial=False
            )
            return {"image": image, "mask": mask[None], "tumor": tumor, "body": body[None].astype(np.float32)}

        paint = GeneratorObjective(self.generator.to(self.device), self.segmentor, classifier, c.classifier_weight)
        objectives = (
            Objective("generator", paint, c.learning_rate),
            Objective("classifier", ClassifierObjective(classifier.to(self.device), paint), c.learning_rate),
        )
        return Stage(
            "gan",
            "generator",
            {"generator": self.generator},
            objectives,
            item,
            iterations or c.iterations,
            c.batch,
            c.ema,
            self.inputs_hash("gan"),
            self._gan_preview,
            self._gan_quality,
        )

    def _unlabelled(self) -> list[Case]:
        """The tumor-free scans of the workspace, by name."""
        return [load_case(path.parent) for path in sorted(self.workspace.unlabelled.glob("*/case.json"))]

    def _check(self, unlabelled: Sequence[Case]) -> None:
        """Sees that the tumor-free scans are preprocessed by this plan.

        Raises:
            StateError: some were made by another.
        """
        names = [case.record.case for case in unlabelled]
        stale = [name for name in names if not is_done(self.plan, name, self.workspace.unlabelled / name)]
        if stale:
            found = f"{len(stale)} scans made by another plan ({abbreviate_list(stale)})"
            remedy = "run `tumorgen preprocess --healthy DIR` again, or delete the folder to do without"
            raise StateError(
                "Unlabelled scans are stale",
                [Fault(str(self.workspace.unlabelled), found, "the present plan's", remedy)],
            )

    def _tumors(self) -> tuple[TumorFacts, ...]:
        return self.workspace.fingerprint().of(self.workspace.splits().train).tumors

    # -- what the runs show ------------------------------------------------------------------------------------
    def _held_out_tumors(self, most: int) -> list[tuple[str, np.ndarray, np.ndarray]]:
        found = held_out_candidates(held_out_cases(self.workspace), most)
        return [(candidate.name, *tumor_image(self.plan, candidate, 0)) for candidate in found]

    def _held_out_places(self, most: int) -> list[tuple[np.ndarray, np.ndarray, str]]:
        cases = held_out_cases(self.workspace)
        self.donors, _ = load_donors(self.config.mask, self.workspace)
        windows = HealthyWindows(cases, self.plan, self.config, self._tumors(), self.donors)
        return [
            windows.draw(np.random.default_rng([self.plan.seed, 7, number]), number % len(cases))
            for number in range(most)
        ]

    def _segmentor_quality(self) -> dict[str, float]:
        """Dice of S on held-out tumor windows: for the record, nothing is chosen by it."""
        scores = [overlap.dice(self.probability(image) >= 0.5, mask) for _, image, mask in self._held_out_tumors(64)]
        return (
            {"dice": float(np.mean(scores)), "dice_worst": float(np.min(scores)), "windows": float(len(scores))}
            if scores
            else {}
        )

    def _gan_quality(self) -> dict[str, float]:
        """P on masks in healthy places of held-out cases: its mean, and the share that passes the filter; how many unlabelled scans it had."""
        places = self._held_out_places(16)
        before = [proportion(self.probability(image), mask) for image, mask, _ in places]
        found = np.array([proportion(self.probability(self.paint(image, mask)), mask) for image, mask, _ in places])
        passed = (found >= self.config.filter.threshold).mean()
        proportions = {
            "proportion": float(found.mean()),
            "passed": float(passed),
            "proportion_before": float(np.mean(before)),
        }
        return {**proportions, "unlabelled_scans": float(len(self._unlabelled()))}

    def _segmentor_preview(self, path: Path) -> None:
        """Held-out tumors: the scan, the true mask, S."""
        windows, main = self._held_out_tumors(4), self.plan.main_channel
        rows = []
        for _, image, mask in windows:
            axial = busiest_slice(mask)
            rows.append([a[:, :, axial] for a in (image[main], mask * 2.0 - 1, self.probability(image) * 2 - 1)])
        save_grid_preview(path, rows, [name for name, _, _ in windows], ["scan", "mask", "segmentor"], -1, 1)

    def _gan_preview(self, path: Path) -> None:
        """Healthy places of held-out cases: the window, a mask of the prior, the synthetic tumor, the difference, what S finds."""
        windows, main = self._held_out_places(5), self.plan.main_channel
        rows = []
        for image, mask, _ in windows:
            painted, axial = self.paint(image, mask), busiest_slice(mask >= 0.5)
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
        hashes = {"segmentor": load_weights({"segmentor": self.segmentor}, self.folder("segmentor"))}
        hashes["gan"] = load_weights({"generator": self.generator}, self.folder("gan"))
        for model in (self.segmentor, self.generator):
            model.to(self.device).eval().requires_grad_(False)
        self.donors, masks = load_donors(self.config.mask, self.workspace)
        return hashes | masks

    def synthesize(self, request: Request, seed: int, sampling: Sampling) -> Synthetic:
        """Draws masks in the box until the segmentor finds one again; a window in which it finds none comes back as it is, with no mask."""
        c, plan = self.config, self.plan
        scaled = scale(request.image, plan.channels, request.limits)
        before = unscale(scaled, plan.channels, request.limits)
        image = request.image.astype(np.float32, copy=True)
        found: list[float] = []
        for attempt in range(c.filter.tries):
            rng = np.random.default_rng([seed, attempt])
            mask, drawn = place_mask(c.mask, plan, request, rng, self.donors)
            painted = self.paint(scaled, mask)
            found.append(round(proportion(self.probability(painted), mask), 4))
            if (
                found[-1] >= c.filter.threshold
            ):  # what is painted is a change: intensities beyond the clip window keep their excess
                change = (unscale(painted, plan.channels, request.limits) - before) * (mask > 0)
                return Synthetic(image + change, mask, {**drawn, "found": found[-1], "tries": attempt + 1})
        return Synthetic(image, np.zeros(image.shape[1:], np.float32), {"found": max(found), "tries": c.filter.tries})


class SegmentorObjective(nn.Module):
    """Cross entropy + (1 - Dice); batch: image (B, C, ...) in [-1, 1], mask (B, 1, ...) in {0, 1}."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        mask = batch["mask"]
        logits = self.segmentor(batch["image"]).float()
        share = torch.sigmoid(logits)
        entropy = F.binary_cross_entropy_with_logits(logits, mask)
        overlap = (2 * (share * mask).sum() + 1) / (
            share.sum() + mask.sum() + 1
        )  # of the batch: windows without a tumor have no Dice
        return entropy + 1 - overlap, {"entropy": entropy.detach(), "overlap": overlap.detach()}


class GeneratorObjective(nn.Module):
    """Eq. 3: L_seg + λ L_cls; batch: image (B, C, ...) in [-1, 1], mask (B, 1, ...) in [0, 1]. Only the generator is trained."""

    def __init__(self, generator: TumorGenerator, segmentor: nn.Module, classifier: nn.Module, weight: float) -> None:
        super().__init__()
        self.generator, self.weight = generator, weight
        self._judges = (segmentor, classifier)  # a tuple keeps them out of this module's parameters

    def paint(self, batch: Mapping[str, Tensor]) -> Tensor:
        """x^ in [-1, 1]."""
        return 2 * self.generator((batch["image"] + 1) / 2, batch["mask"]) - 1

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        segmentor, classifier = self._judges
        classifier.requires_grad_(False)
        picture, mask = self.paint(batch), batch["mask"]
        missed = 1 - torch.sigmoid(segmentor(picture).float())
        lost = (missed * mask).sum() / mask.sum()  # eq. 2
        fool = classification_loss(classifier(picture)[-1].float(), mask, 1.0)
        return lost + self.weight * fool, {"lost": lost.detach(), "fool": fool.detach()}


class ClassifierObjective(nn.Module):
    """Real tumors (tumor, body) against synthetic ones (image, mask) of the batch, by cross entropy."""

    def __init__(self, classifier: nn.Module, generator: GeneratorObjective) -> None:
        super().__init__()
        self.classifier = classifier
        self._generator = (generator,)

    def forward(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.classifier.requires_grad_(True)
        with torch.no_grad():
            picture = self._generator[0].paint(batch)
        real = classification_loss(self.classifier(batch["tumor"])[-1].float(), batch["body"], 1.0)
        fake = classification_loss(self.classifier(picture)[-1].float(), batch["mask"], 0.0)
        return (real + fake) / 2, {}


def classification_loss(logits: Tensor, mask: Tensor, truth: float) -> Tensor:
    """Cross entropy of patch logits (B, 1, x, y, z) against `truth`, over the patches that hold some of the mask (B, 1, X, Y, Z)."""
    held = (F.adaptive_max_pool3d(mask, logits.shape[2:]) >= 0.5).float()
    each = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, truth), reduction="none")
    return (each * held).sum() / held.sum().clamp_min(1)


def proportion(found: np.ndarray, mask: np.ndarray) -> float:
    """P (eq. 4) of soft masks (X, Y, Z), of which a voxel is inside from a half on; 0 for an empty mask."""
    share = overlap.proportion(mask >= 0.5, found >= 0.5)
    return 0.0 if math.isnan(share) else share


def segmentor_item(
    cases: Sequence[Case], plan: Plan, config: SegmentorConfig, seed: int
) -> Callable[[int], dict[str, Any]]:
    """Items of the segmentor's training: augmented windows, most around a tumor, with every tumor voxel in them marked."""
    candidates = find_candidates(cases)

    def window(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if rng.random() < config.tumor_share:
            chosen = candidates[rng.integers(len(candidates))]
            case, start = chosen.case, place_window(chosen.component.box, chosen.case.record.shape, config.patch, rng)
        else:
            case = cases[rng.integers(len(cases))]
            start = draw_window_start(case.record.shape, config.patch, rng)
        image = scale(cut(case.image, start, config.patch), plan.channels, np.array(case.record.limits, np.float32))
        tissue = 1 + (cut_mask(case.tumors, start, config.patch) > 0).astype(
            np.float32
        )  # 2 for tumor: `augment` must not lose an empty mask
        image, tissue = augment(image, tissue, rng)
        return image, (tissue > 1.5).astype(np.float32)

    def item(number: int) -> dict[str, Any]:
        rng = np.random.default_rng([seed, number])
        image, mask = window(rng)
        if rng.random() < config.mixup:
            image, mask = cut_mix(image, mask, *window(rng), rng)
        return {"image": image, "mask": mask[None]}

    return item


class HealthyWindows:
    """Windows of healthy scans, and of the labelled cases without their tumors, with a mask of the prior."""

    def __init__(
        self,
        cases: Sequence[Case],
        plan: Plan,
        config: FreeTumorConfig,
        tumors: Sequence[TumorFacts],
        donors: Sequence[np.ndarray],
    ) -> None:
        self.cases, self.plan, self.config, self.tumors, self.donors = cases, plan, config, tumors, donors
        self.healthy = lru_cache(maxsize=64)(self._healthy)

    def _healthy(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Case `number` without its tumors, (C, X, Y, Z), and its body, (X, Y, Z), where a mask's centre may lie."""
        case, paste, spacing = self.cases[number], self.plan.paste, self.plan.window.spacing_mm
        image, tumors = np.asarray(case.image, np.float32), np.asarray(case.tumors) > 0
        tight = tight_box(tumors)
        if tight is not None:
            image, _ = remove_tumors(image, tumors, tight, spacing, paste, number)
        return image, body_mask(image[0])

    def draw(self, rng: np.random.Generator, number: int | None = None) -> tuple[np.ndarray, np.ndarray, str]:
        """Image (C, *patch) in [-1, 1], mask (*patch) in [0, 1] and name of case `number`, or of any, augmented, where it is None.

        Raises:
            DataError: the case has no place for a box.
        """
        window, patch = self.plan.window, self.config.gan.patch
        chosen = int(rng.integers(len(self.cases))) if number is None else number
        record, (picture, body) = self.cases[chosen].record, self.healthy(chosen)
        size_mm, _ = draw_size_mm(self.tumors, window.alpha, window.extent_mm, rng)
        size = tuple(
            max(1, min(round(e / s), n - 2, m))
            for e, s, n, m in zip(size_mm, window.spacing_mm, patch, record.shape, strict=True)
        )
        box = place_box(size, body, rng)  # type: ignore[arg-type]
        if box is None:
            raise DataError(
                "No place for a tumor",
                [Fault(record.case, "no body", "a scan with a body", "take the scan out of the data set")],
            )
        start = place_window(box, record.shape, patch, rng)
        mask = np.zeros(patch, np.float32)
        inner = box.shifted(tuple(-a for a in start))  # type: ignore[arg-type]
        mask[inner.slices], _ = draw_mask(self.config.mask, self.plan, box.shape, window.spacing_mm, rng, self.donors)
        image = scale(cut(picture, start, patch), self.plan.channels, np.array(record.limits, np.float32))
        return *(augment(image, mask, rng, spatial=False) if number is None else (image, mask)), record.case
