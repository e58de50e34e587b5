"""Write phantoms: an nnU-Net data set of cases with tumors, hosts without, and masks of where these have room."""

from __future__ import annotations

from pathlib import Path

from tumorgen_cli.data import volumes
from tumorgen_cli.data.phantom.options import Modality
from tumorgen_cli.data.phantom.scan import Phantom, Phantoms
from tumorgen_cli.system import json_records
from tumorgen_cli.system.console import Ticker

DATASET = "Dataset999_PhantomPET"
DATASETS: dict[Modality, str] = {"pet": DATASET, "ct": "Dataset998_PhantomCT"}
_WORDS: dict[Modality, tuple[str, str, str]] = {
    "pet": ("PET", "tumor", "computed FDG-PET phantoms (SUV)"),
    "ct": ("CT", "nodule", "computed chest CT phantoms (HU)"),
}


def write_phantoms(
    folder: Path,
    cases: int = 20,
    healthy: int = 4,
    seed: int = 0,
    small: bool = False,
    ticker: Ticker | None = None,
    modality: Modality = "pet",
    crop_mm: float | None = None,
) -> Phantoms:
    """Write scans with tumors as a data set, and scans of other patients without. A seed gives the same files again.

    Args:
        folder: Where the folders of `Phantoms` are written; phantoms of an earlier call there are replaced.
        cases: How many scans with tumors.
        healthy: How many scans without.
        seed: The seed of all draws.
        small: Small scans, for tests; PET only.
        ticker: Told how many scans are written.
        modality: FDG-PET of the trunk with tumors, or chest CT with nodules.
        crop_mm: Edge of cubes that lie at random around a tumor or, in scans without, around a place for one; None for
            whole scans.
    """
    places = Phantoms(folder / DATASETS[modality], folder / "healthy", folder / "regions")
    hosts = [path for place in (places.healthy, places.regions) for path in place.glob("Healthy_*.nii.gz")]
    for old in (*places.dataset.glob("*Tr/Phantom_*.nii.gz"), *hosts):
        old.unlink()  # an earlier run may have written more cases
    for index in range(cases):
        phantom = _draw(modality, seed, index, small, True, crop_mm)
        volumes.write_volume(
            places.dataset / "imagesTr" / f"Phantom_{index:03d}_0000.nii.gz", phantom.image, phantom.grid
        )
        volumes.write_volume(places.dataset / "labelsTr" / f"Phantom_{index:03d}.nii.gz", phantom.mask, phantom.grid)
        if ticker is not None:
            ticker(index + 1)
    for index in range(healthy):
        phantom = _draw(modality, seed, index, small, False, crop_mm)
        volumes.write_volume(places.healthy / f"Healthy_{index:03d}_0000.nii.gz", phantom.image, phantom.grid)
        volumes.write_volume(places.regions / f"Healthy_{index:03d}.nii.gz", phantom.region, phantom.grid)
        if ticker is not None:
            ticker(cases + index + 1)
    channel, tumor, words = _WORDS[modality]
    description = {
        "channel_names": {"0": channel},
        "labels": {"background": 0, tumor: 1},
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "name": places.dataset.name.split("_", 1)[1],
        "description": f"{words}, seed {seed}; no patient data",
    }
    json_records.write_json(places.dataset / "dataset.json", description)
    return places


def _draw(modality: Modality, seed: int, index: int, small: bool, tumors: bool, crop_mm: float | None) -> Phantom:
    """Draw one scan; the module that draws it is imported only here."""
    if modality == "ct":
        from tumorgen_cli.data.phantom import ct

        return ct.draw_phantom(seed, index, tumors=tumors, crop_mm=crop_mm)
    from tumorgen_cli.data.phantom import pet

    return pet.draw_phantom(seed, index, small=small, tumors=tumors, crop_mm=crop_mm)
