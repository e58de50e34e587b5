"""What a channel measures, by its name; padding of scans; the unit of scans without a common scale, such as MR."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

from tumorgen_cli.geometry import tight_box

Kind = Literal["CT", "PET", "SPECT", "own", "raw"]

SCAN_UNIT_PERCENTILES = (0.1, 99.9)  # the percentiles that are 0 and 1 in the unit of a scan: robust to dead voxels
_AIR_HU = -1000.0
_LEAST_HU = (
    -1200.0
)  # noise in air stays above; scanners and tools write -2000, -3024 or -32768 where they do not measure
_FILL_PERCENTILE = 0.5  # of the measured voxels: padding gets this value, which is air or no uptake
_BLOCK = 0.001  # share of the voxels from which on a constant lowest value is a block, and not single dead voxels
_BLUR_VOXELS = 2  # a tumor, or the soft edge of a painted one, is visible this far beyond its outline

_WORDS: dict[Kind, str] = {
    "CT": "ct hu hounsfield cta ctac cect ncct ldct hdct hrct cbct dect mdct ctres ctv ctp pvct",
    "PET": (
        "pet pt suv suvbw suvlbm suvbsa suvr fdg fdgpet petsuv petct psma fet flt fdopa dopa fapi dotatate dotatoc "
        "dotanoc fmiso"
    ),
    "SPECT": "spect nm spectct mibg mdp",
    "own": (
        "mr mri t1 t2 flair t1w t2w t1wi t2wi t1ce t1gd t1c t1n t1km t1post t1pre t2f t2flair t1flair t2star pd pdw "
        "dwi adc dce dsc swi hbv dti asl tof gre mprage mp2rage vibe haste stir tirm dixon trufi ktrans cest "
        "us ultrasound mg mammography cr dx dr xr xray xa oct zscore"
    ),
    "raw": "nonorm rescale_to_0_1 rescale_0_1 rgb_to_0_1",
}
_KINDS: dict[str, Kind] = {word: kind for kind, words in _WORDS.items() for word in words.split()}
_MEANINGS: dict[Kind, str] = {
    "CT": "CT, in HU",
    "PET": "PET, uptake",
    "SPECT": "SPECT, uptake",
    "own": "as MR, in each scan's own unit",
    "raw": "not normalized, as it is",
}


@dataclass(frozen=True)
class Modality:
    """What a channel is taken for: its kind, and the word of its name that says so (None: no word is known)."""

    kind: Kind
    word: str | None

    def __str__(self) -> str:
        return _MEANINGS[self.kind]


def modality(channel: str) -> Modality:
    """Tell what a channel measures from its name, as nnU-Net does.

    Words of the name are compared with those that data sets of the field and DICOM use; case is ignored. Words end at
    separators and where lower case turns to upper case ("SpectralCT" is a CT). The first known word decides ("PET/CT"
    is PET). A name without a known word is taken for MR: each scan has its own unit.
    """
    for word in _split_words(channel):
        kind = _KINDS.get(word) or _KINDS.get(word.rstrip("0123456789"))
        if kind:
            return Modality(kind, word)
    return Modality("own", None)


def _split_words(name: str) -> list[str]:
    """The words of a name in lower case: the whole name, its parts between separators, and parts in camel case."""
    found = [name.strip().lower()]
    for part in re.split(r"[^A-Za-z0-9]+", name):
        camel = re.findall(r"[A-Z]+\d*(?![a-z])|[A-Z]?[a-z]+\d*|\d+", part)
        found += [part.lower()] + [word.lower() for word in camel if len(camel) > 1]
    return found


def describe_modality(channel: str) -> str:
    """Say what a channel is taken for: "CT (CT, in HU)"; for an unknown name also that it is a guess."""
    found = modality(channel)
    return f"{channel} ({found}{'' if found.word else ': a guess, the name is unknown'})"


def is_pet(channel: str) -> bool:
    """Whether a channel holds tracer uptake (PET or SPECT), by its name."""
    return modality(channel).kind in ("PET", "SPECT")


def is_suv(channel: str) -> bool:
    """Whether a channel's name says that its uptake is in SUV: a word of it begins or ends with `suv`."""
    return any(word.startswith("suv") or word.endswith("suv") for word in _split_words(channel))


def is_ct(channel: str) -> bool:
    """Whether a channel holds Hounsfield units (CT), by its name."""
    return modality(channel).kind == "CT"


def has_own_unit(channel: str) -> bool:
    """Whether the intensities of a channel cannot be compared between scans, as in MR, by its name."""
    return modality(channel).kind == "own"


def fill_padding(array: np.ndarray, channel: str) -> np.ndarray:
    """Replace voxels that were not measured by what lies around a patient: air, no uptake, background.

    In CT these are all voxels below -1200 HU. In other channels they are a block of one negative whole number where
    nearly all else is not negative, and voxels that are very far below all else.

    Args:
        array: One channel of a whole scan, (X, Y, Z).
        channel: The name of the channel.

    Returns:
        The channel in its data type; `array` itself if it has no padding.
    """
    limit = _LEAST_HU if is_ct(channel) else _padding_limit(array)
    outside = array < limit
    if not outside.any() or outside.all():
        return array
    value = np.percentile(array[~outside], _FILL_PERCENTILE, method="nearest", overwrite_input=True)
    filled = array.copy()  # `np.where` would make a float64 array of the whole scan
    filled[outside] = max(value, _AIR_HU) if is_ct(channel) else value
    return filled


def fill_paddings(image: np.ndarray, channels: Sequence[str]) -> np.ndarray:
    """Fill the padding of every channel of a scan (C, X, Y, Z); `image` itself if there is none."""
    arrays = list(image)
    filled = list(map(fill_padding, arrays, channels))
    return image if all(new is old for new, old in zip(filled, arrays, strict=True)) else np.stack(filled)


def _padding_limit(array: np.ndarray) -> float:
    """The intensity below which voxels are padding, for channels other than CT; -inf if there is none."""
    lowest = float(array.min())
    if lowest >= 0:
        return -np.inf
    constant = array == lowest
    if constant.all():
        return -np.inf
    low, high = (float(v) for v in np.percentile(array[~constant], (10, 99.5), overwrite_input=True))
    gap, block = low - lowest, constant.mean() >= _BLOCK
    # padding is written as a whole number; the constant background of a normalized scan is not one, and is no padding
    if (block and low >= 0 and lowest.is_integer()) or gap > 3 * (high - low):
        return min(low - gap / 4, 0.0)  # resampling has left values between padding and measured voxels
    return -np.inf


def scan_unit(channel: np.ndarray, tumors: np.ndarray | None) -> tuple[float, float]:
    """Measure the intensities that are 0 and 1 in a scan's own unit: its 0.1st and its 99.9th percentile.

    Tumors and their blur are left out, because a measured or painted tumor must not change the unit in which it is
    measured. A tumor may therefore be brighter than 1. If no other voxel is left, tumors are included.

    Args:
        channel: One channel of the scan, (X, Y, Z), without padding (see `fill_padding`).
        tumors: The annotated tumors, (X, Y, Z) bool; None if none are known.

    Returns:
        The intensities that are 0 and 1 in the scan's unit.
    """
    whole = None if tumors is None else tight_box(tumors)
    if tumors is not None and whole is not None:
        region = whole.grown(_BLUR_VOXELS, tumors.shape).slices
        rest = np.ones(channel.shape, bool)
        rest[region] = ndimage.maximum_filter(tumors[region].view(np.uint8), 2 * _BLUR_VOXELS + 1, mode="constant") == 0
        channel = channel[rest] if rest.any() else channel
    low, high = np.percentile(channel, SCAN_UNIT_PERCENTILES)
    return float(low), float(high)
