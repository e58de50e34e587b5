"""Encoded training windows: augmented once, cached, drawn from; the windows of held-out tumors that previews show.

Reads preprocessed cases; the cache lies beside the runs that use it. Any autoencoder that encodes windows will do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from tumorgen_cli.methods.latent.autoencoder import Codec, load_cases, precise
from tumorgen_cli.metrics.traits import describe_character
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import Case, Component
from tumorgen_cli.preprocessing.intensity import to_comparable_units, unscale
from tumorgen_cli.preprocessing.windows import cut_tumor_window
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.system.files import atomic, derive_seed
from tumorgen_cli.system.json_records import hash_value, read_plain, write_json

FORMAT = 3  # of the cache's files; raise it when `_character` changes, too


@dataclass(frozen=True)
class Candidate:
    """A tumor component of a case that a window can hold."""

    case: Case
    component: Component

    @property
    def name(self) -> str:
        return f"{self.case.record.case}_{self.component.number}"


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


@dataclass(frozen=True)
class Drawn:
    """A copy of a window: latent (L, x, y, z), mask (X, Y, Z) uint8, character (3 C,) of all tumor in it (`character.describe_character`)."""

    latent: np.ndarray
    mask: np.ndarray
    character: np.ndarray


@dataclass(frozen=True)
class Latents:
    """latents: (N, copies, L, x, y, z) float32; packed: the masks on the working grid, bits packed along z; characters: (N, copies, 3 C)."""

    latents: np.ndarray
    packed: np.ndarray
    characters: np.ndarray

    def draw(self, rng: np.random.Generator) -> Drawn:
        """A random copy of a random tumor."""
        at = int(rng.integers(self.latents.shape[0])), int(rng.integers(self.latents.shape[1]))
        return Drawn(self.latents[at], np.unpackbits(self.packed[at], axis=-1), self.characters[at])


class LatentCache:
    """Augmented windows of every candidate, encoded once: latents and packed masks, one file a candidate.

    Copy 0 is the candidate itself, centred; the others are augmented, each from its own seed.
    """

    def __init__(self, folder: Path, candidates: Sequence[Candidate], copies: int, made_from: str) -> None:
        self.folder, self.candidates, self.copies, self.made_from = folder, candidates, copies, made_from

    def build(self, encoder: Codec, plan: Plan, device: str, tick: Callable[[int, str], None]) -> None:
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
                made = [self.encode(encoder, plan, device, candidate, copy) for copy in range(self.copies)]
                with atomic(path) as temporary:
                    np.savez(
                        temporary,
                        latents=np.stack([d.latent for d in made]),
                        masks=np.packbits(np.stack([d.mask for d in made]), axis=-1),
                        characters=np.stack([d.character for d in made]),
                    )
        tick(len(self.candidates), "")

    def encode(self, encoder: Codec, plan: Plan, device: str, candidate: Candidate, copy: int) -> Drawn:
        image, mask = tumor_image(plan, candidate, copy)
        with precise(plan.precision, device):
            latent = encoder.encode(torch.from_numpy(image)[None].to(device))[0].float().cpu().numpy()
        return Drawn(latent, mask, _character(plan, candidate, image, mask))

    def load(self) -> Latents:
        """Everything, in memory."""
        parts = [np.load(self.folder / f"{candidate.name}.npz") for candidate in self.candidates]
        return Latents(*(np.stack([part[name] for part in parts]) for name in ("latents", "masks", "characters")))


def _character(plan: Plan, candidate: Candidate, image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    limits = np.array(candidate.case.record.limits, np.float32)
    seen, zero = to_comparable_units(unscale(image, plan.channels, limits), plan.channels, limits)
    return describe_character(seen, mask, plan.window.spacing_mm, zero)


def tumor_image(plan: Plan, candidate: Candidate, copy: int) -> tuple[np.ndarray, np.ndarray]:
    """The scaled window (C, X, Y, Z) and mask (X, Y, Z) of a copy: 0 is centred and untouched, the others are augmented."""
    seed = derive_seed(plan.seed, candidate.name, copy) % 2**32 if copy else None
    return cut_tumor_window(candidate.case, candidate.component, plan.channels, plan.window.shape, seed)


def training_latents(
    encoder: Codec, encoder_hash: str, plan: Plan, workspace: Workspace, folder: Path, copies: int, device: str
) -> Latents:
    """The encoded training tumors; the cache in `folder` is built as far as it is not."""
    names = workspace.splits().train
    cases = load_cases(workspace, names)
    left_out = [c for case in cases for c in case.record.components if not c.fits]
    if left_out:
        console.warn(f"{len(left_out)} tumors are larger than the window and are not learnt from")
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
        ]
    )
    cache = LatentCache(folder, candidates, copies, made_from)
    processes = PartialState(cpu=device == "cpu")
    with (
        processes.main_process_first(),
        console.progress("encoding tumors", len(candidates), quiet=not processes.is_main_process) as tick,
    ):
        cache.build(encoder, plan, device, tick)
    return cache.load()


def held_out_cases(workspace: Workspace) -> list[Case]:
    """The held-out cases; the training cases, where none is held out."""
    splits = workspace.splits()
    return load_cases(workspace, splits.test or splits.train)


def held_out_candidates(cases: Sequence[Case], most: int) -> list[Candidate]:
    """The first tumors of the cases that a window can hold; there may be none."""
    return [Candidate(case, c) for case in cases for c in case.record.components if c.fits][:most]


@dataclass(frozen=True)
class HeldOut:
    """A held-out tumor's window: image (1, C, X, Y, Z) in [-1, 1], its latent, mask (X, Y, Z), character (3 C,)."""

    name: str
    image: Tensor
    latent: Tensor
    mask: np.ndarray
    character: np.ndarray


def held_out_windows(encoder: Codec, plan: Plan, workspace: Workspace, device: str, most: int) -> list[HeldOut]:
    """The first held-out tumors, encoded."""
    found = []
    for candidate in held_out_candidates(held_out_cases(workspace), most):
        image, mask = tumor_image(plan, candidate, 0)
        picture = torch.from_numpy(image)[None].to(device)
        with precise(plan.precision, device):
            found.append(
                HeldOut(
                    candidate.name, picture, encoder.encode(picture), mask, _character(plan, candidate, image, mask)
                )
            )
    return found
