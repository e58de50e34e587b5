"""Encoded training windows: augmented and encoded once, cached, drawn from; and the windows of held-out tumors.

The cache reads preprocessed cases and lies beside the runs that use it. Any autoencoder that encodes windows will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from tumorgen_cli.data.labels import values_of
from tumorgen_cli.geometry import tight_box
from tumorgen_cli.methods.base import Method, chosen_labels
from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.latent.quality import Codec, inference_context
from tumorgen_cli.metrics.traits import describe_traits
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, Component
from tumorgen_cli.preprocessing.intensity import scale, to_comparable_units, unscale
from tumorgen_cli.preprocessing.windows import OWN, cut_tumor_window
from tumorgen_cli.system import console
from tumorgen_cli.system.arrays import prepare_cache, read_arrays, write_arrays
from tumorgen_cli.system.errors import DataError, Fault, say_count
from tumorgen_cli.system.files import derive_seed
from tumorgen_cli.system.json_records import hash_value
from tumorgen_cli.tumors.boxes import latent_box, voxel_box
from tumorgen_cli.tumors.removal import remove_tumors

FORMAT = 4  # version of the cache's files; raise it also when the computation of characters changes


@dataclass(frozen=True)
class Candidate:
    """A tumor component of a case that fits into a window."""

    case: Case
    component: Component

    @property
    def name(self) -> str:
        """The case's name with the component's number."""
        return f"{self.case.record.case}_{self.component.number}"


@dataclass(frozen=True)
class TumorWindow:
    """A training window on the working grid.

    Attributes:
        image: (C, X, Y, Z) in [-1, 1].
        mask: (X, Y, Z) uint8, the tumors to learn.
        others: (X, Y, Z) uint8, tumors that belong to the surroundings.
        context: (C, X, Y, Z) in [-1, 1], the window without the tumors to learn; None if these are left in it.
        sublabels: (L - 1, X, Y, Z) uint8, the masks of the sub-labels of the tumors to learn, but the first's; L is 1
            if the data set's tumor has one label.
    """

    image: np.ndarray
    mask: np.ndarray
    others: np.ndarray
    context: np.ndarray | None
    sublabels: np.ndarray


class _Masked:
    """What has `mask` and `sublabels`, see `TumorWindow`."""

    mask: np.ndarray
    sublabels: np.ndarray

    @property
    def masks(self) -> np.ndarray:
        """The masks (L, X, Y, Z) of the tumors, as `latent.joint` has them."""
        return np.concatenate([self.mask[None], self.sublabels])


@dataclass(frozen=True)
class EncodedWindow(_Masked):
    """A training window after encoding.

    Attributes:
        latent: (L, x, y, z) float32.
        context: (L, x, y, z) float32, the latents that the method may see: of the window without its tumors, or
            `latent` itself.
        mask: (X, Y, Z) uint8 on the working grid, the tumors to learn.
        others: (X, Y, Z) uint8, see `TumorWindow`.
        character: (3 C,) float32, the traits (`metrics.traits.describe_traits`) of the tumors to learn: contrast,
            heterogeneity and core ratio in each channel.
        sublabels: (L - 1, X, Y, Z) uint8, see `TumorWindow`.
    """

    latent: np.ndarray
    context: np.ndarray
    mask: np.ndarray
    others: np.ndarray
    character: np.ndarray
    sublabels: np.ndarray


@dataclass(frozen=True)
class Latents:
    """The encoded windows of all training tumors; see `EncodedWindow`.

    Attributes:
        latents: (N, copies, L, x, y, z) float32.
        contexts: the same of the windows without their tumors; None if these are left in them.
        masks: masks on the working grid, (N, copies, X, Y, Z / 8), bits packed along z.
        others: the same of the tumors that belong to the surroundings.
        characters: (N, copies, 3 C) float32.
        sublabels: masks of the sub-labels, (N, copies, L - 1, X, Y, Z / 8), bits packed along z; None if L is 1.
    """

    latents: np.ndarray
    contexts: np.ndarray | None
    masks: np.ndarray
    others: np.ndarray
    characters: np.ndarray
    sublabels: np.ndarray | None = None

    @property
    def labels(self) -> int:
        """L, the number of the tumor's sub-labels."""
        return 1 if self.sublabels is None else 1 + self.sublabels.shape[2]

    def draw(self, rng: np.random.Generator) -> EncodedWindow:
        """A random copy of a random tumor."""
        return self.window(int(rng.integers(self.latents.shape[0])), int(rng.integers(self.latents.shape[1])))

    def window(self, tumor: int, copy: int) -> EncodedWindow:
        """A copy of a tumor's window."""
        at = tumor, copy
        latent = self.latents[at]
        mask, others = (np.unpackbits(packed[at], axis=-1) for packed in (self.masks, self.others))
        context = latent if self.contexts is None else self.contexts[at]
        sublabels = mask[None][:0] if self.sublabels is None else np.unpackbits(self.sublabels[at], axis=-1)
        return EncodedWindow(latent, context, mask, others, self.characters[at], sublabels)


@dataclass(frozen=True)
class HeldOut(_Masked):
    """A held-out tumor's window.

    Attributes:
        name: name of the candidate.
        image: (1, C, X, Y, Z) in [-1, 1].
        latent: (1, L, x, y, z).
        context: (1, L, x, y, z), see `EncodedWindow`.
        mask: (X, Y, Z) uint8, the tumors of the window that are to be drawn anew.
        character: (3 C,), see `EncodedWindow`.
        sublabels: (L - 1, X, Y, Z) uint8, see `TumorWindow`.
    """

    name: str
    image: Tensor
    latent: Tensor
    context: Tensor
    mask: np.ndarray
    character: np.ndarray
    sublabels: np.ndarray


class LatentCache:
    """Augmented windows of every candidate, encoded once; one file per candidate.

    Copy 0 is the candidate itself, centered. The other copies are augmented, each with its own seed.
    """

    def __init__(
        self,
        folder: Path,
        candidates: Sequence[Candidate],
        copies: int,
        made_from: str,
        cell: int | None = None,
        masked: bool = False,
    ) -> None:
        self.folder, self.candidates, self.copies, self.made_from = folder, candidates, copies, made_from
        self.cell, self.masked = cell, masked  # what the context is, see `candidate_window`

    def build(self, encoder: Codec, plan: Plan, device: str, tick: Callable[[int, str], None]) -> Latents:
        """Load all windows; those that are missing or damaged, or of other weights or settings, are encoded."""
        prepare_cache(self.folder, self.made_from)
        parts = []
        for done, candidate in enumerate(self.candidates):
            tick(done, candidate.name)
            path = self.folder / f"{candidate.name}.npz"
            part = read_arrays(path)
            if part is None:
                windows = [self.encode(encoder, plan, device, candidate, copy) for copy in range(self.copies)]
                part = {
                    "latents": np.stack([window.latent for window in windows]),
                    "masks": np.packbits(np.stack([window.mask for window in windows]), axis=-1),
                    "others": np.packbits(np.stack([window.others for window in windows]), axis=-1),
                    "characters": np.stack([window.character for window in windows]),
                }
                if self.cell or self.masked:
                    part["contexts"] = np.stack([window.context for window in windows])
                if len(windows[0].sublabels):
                    part["sublabels"] = np.packbits(np.stack([window.sublabels for window in windows]), axis=-1)
                write_arrays(path, part)
            parts.append(part)
        tick(len(self.candidates), "")

        def stacked(name: str) -> np.ndarray:
            return np.stack([part[name] for part in parts])

        contexts = stacked("contexts") if self.cell or self.masked else None
        sublabels = stacked("sublabels") if "sublabels" in parts[0] else None
        masks, others = stacked("masks"), stacked("others")
        return Latents(stacked("latents"), contexts, masks, others, stacked("characters"), sublabels)

    def encode(self, encoder: Codec, plan: Plan, device: str, candidate: Candidate, copy: int) -> EncodedWindow:
        """Encode one copy of a candidate's window."""
        window = candidate_window(plan, candidate, copy, self.cell, self.masked)
        pictures = [window.image] if window.context is None else [window.image, window.context]
        with inference_context(plan.precision, device):  # one by one: a batch needs twice the memory
            encoded = [encoder.encode(torch.from_numpy(p)[None].to(device))[0].float().cpu().numpy() for p in pictures]
        return EncodedWindow(
            encoded[0],
            encoded[-1],
            window.mask,
            window.others,
            describe_character(plan, candidate, window.image, window.mask),
            window.sublabels,
        )


def describe_character(plan: Plan, candidate: Candidate, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The character (3 C,) of the tumors of a mask in a scaled window (C, X, Y, Z)."""
    limits = np.array(candidate.case.record.limits, np.float32)
    intensities, zero = to_comparable_units(unscale(image, plan.channels, limits), plan.channels, limits)
    return describe_traits(intensities, mask, plan.window.spacing_mm, zero)


def find_candidates(cases: Sequence[Case]) -> list[Candidate]:
    """Every tumor component of the cases that fits into the window.

    Raises:
        DataError: There is none.
    """
    found = [Candidate(case, component) for case in cases for component in case.record.components if component.fits]
    if not found:
        remedy = "plan with a larger window (--memory, or --set window.shape=[...]) or check the labels"
        fault = Fault("the cases", "no tumor that fits the window", "one tumor or more", remedy)
        raise DataError("Nothing to learn from", [fault])
    return found


def candidate_window(
    plan: Plan, candidate: Candidate, copy: int, cell: int | None = None, masked: bool = False
) -> TumorWindow:
    """A copy of a candidate's window. Copy 0 is centered and not augmented.

    Args:
        plan: The plan.
        candidate: The tumor.
        copy: Number of the copy.
        cell: None: all tumors of the window are to be learned, and nothing is removed. Otherwise the side of a latent
            cell in voxels: what lies in the tight box of the candidate, in whole cells, is to be learned, and is
            removed from the context. Other tumors stay there, as neighbors.
        masked: Without `cell`: the context is the image with the tumors' voxels set to 0, the clip window's middle.
    """
    seed = derive_seed(plan.seed, candidate.name, copy) % 2**32 if copy else None
    case = candidate.case
    image, tumors, values = cut_tumor_window(case, candidate.component, plan.channels, plan.window.shape, seed)
    if cell is None:
        context, mask = image * (tumors == 0) if masked else None, (tumors > 0).astype(np.uint8)
        return TumorWindow(image, mask, np.zeros_like(tumors), context, _sublabel_masks(plan, mask, values))
    tight = tight_box(tumors == OWN)
    assert tight is not None  # every copy shows its tumor
    box = voxel_box(latent_box(tight, cell), cell)
    mask = np.zeros_like(tumors)
    mask[box.slices] = tumors[box.slices] > 0
    limits = np.array(case.record.limits, np.float32)
    without, _ = remove_tumors(
        unscale(image, plan.channels, limits),
        tumors,
        box,
        plan.window.spacing_mm,
        plan.paste,
        derive_seed(plan.seed, candidate.name, copy, "removal"),
    )
    others = ((tumors > 0) & (mask == 0)).astype(np.uint8)
    context = scale(without, plan.channels, limits)
    return TumorWindow(image, mask, others, context, _sublabel_masks(plan, mask, values))


def _sublabel_masks(plan: Plan, mask: np.ndarray, values: np.ndarray | None) -> np.ndarray:
    """The masks (L - 1, X, Y, Z) of all sub-labels but the first, of the tumors of a mask (X, Y, Z)."""
    if values is None:
        return mask[None][:0]
    return np.stack([mask * (values == value) for value in values_of(plan.tumor_label)[1:]])


def training_latents(
    method: Method, encoder: Codec, encoder_hash: str, copies: int, removed: bool = False, masked: bool = False
) -> Latents:
    """The encoded training tumors of a method.

    The cache lies in the method's folder `latents`; missing parts of it are built. With several processes the first one
    builds it, and the others wait.

    Args:
        method: The method, for its plan, workspace and device.
        encoder: The trained autoencoder.
        encoder_hash: Hash of its weights.
        copies: Windows per tumor.
        removed: Whether tumors are removed from the context, see `candidate_window`.
        masked: Whether the context is the masked image, see `candidate_window`.
    """
    plan, device = method.plan, method.device
    names = method.workspace.splits().train
    cases = load_cases(method.workspace, names)
    too_large = [c for case in cases for c in case.record.components if not c.fits]
    if too_large:
        console.warn(f"left out of the training: {say_count(len(too_large), 'tumor')} larger than the window")
    candidates = find_candidates(cases)
    made_from = hash_value(
        [
            FORMAT,
            encoder_hash,
            plan.fingerprint_hash,
            plan.precision,
            plan.window,
            plan.channels,
            plan.seed,
            copies,
            names,
            plan.paste if removed else None,
            *(["masked"] if masked else []),
            *chosen_labels(plan),
        ]
    )
    cell = method.cell if removed else None
    cache = LatentCache(method.folder("latents"), candidates, copies, made_from, cell, masked)
    processes = PartialState(cpu=device == "cpu")
    with (
        processes.main_process_first(),
        console.progress("encoding tumors", len(candidates), quiet=not processes.is_main_process) as tick,
    ):
        return cache.build(encoder, plan, device, tick)


def held_out_cases(workspace: Workspace) -> list[Case]:
    """The held-out cases; if none is held out, the training cases."""
    splits = workspace.splits()
    return load_cases(workspace, splits.test or splits.train)


def held_out_candidates(cases: Sequence[Case], most: int) -> list[Candidate]:
    """The first `most` tumors of the cases that fit into a window; the list may be empty."""
    return [Candidate(case, c) for case in cases for c in case.record.components if c.fits][:most]


def held_out_windows(
    method: Method,
    encoder: Codec,
    most: int,
    removed: bool = False,
    cases: Sequence[Case] | None = None,
    masked: bool = False,
) -> list[HeldOut]:
    """The windows of the first `most` held-out tumors, or of those of `cases`, encoded.

    `removed`, `masked`: see `training_latents`.
    """
    plan, found = method.plan, []
    for candidate in held_out_candidates(held_out_cases(method.workspace) if cases is None else cases, most):
        window = candidate_window(plan, candidate, 0, method.cell if removed else None, masked)
        pictures = [
            torch.from_numpy(p)[None].to(method.device) for p in (window.image, window.context) if p is not None
        ]
        with inference_context(plan.precision, method.device):
            latents = [encoder.encode(picture) for picture in pictures]
        character = describe_character(plan, candidate, window.image, window.mask)
        of_window = window.mask, character, window.sublabels
        found.append(HeldOut(candidate.name, pictures[0], latents[0], latents[-1], *of_window))
    return found
