"""What a channel is taken for by its name, and padding."""

import tracemalloc

import numpy as np
import pytest

from tumorgen_cli.data.channels import (
    describe_modality,
    fill_padding,
    fill_paddings,
    has_own_unit,
    is_ct,
    is_pet,
    modality,
)

#: by kind, names of HECKTOR, autoPET, BraTS, MSD, PI-CAI, ISLES and DICOM, and how people vary them
NAMES = {
    "CT": "CT|ct|ct_1|CT1|CTA|HU|CTres|SpectralCT|PE CT|lowDoseCT|CT on PET grid|dual-energy CT|pseudoCT|CT_venous",
    "PET": "PET|PT|pt|SUV|suv_bw|FDG-PET|FDGPET|PET/CT|petCT|PET2|18F-FDG|68Ga-PSMA|F18 PET|[18F]FET|DOTATATE",
    "SPECT": "SPECT|NM|Tc99m SPECT|SPECT-CT",
    "own": "T1|t1ce|t1gd|t1c|t1n|T1w|t2|T2w|t2f|FLAIR|T1-weighted|T2*|postT1|ADC|DWI|HBV|MR|MRI|US|MG|zscore|dce_post1",
    "raw": "noNorm|nonorm|rescale_to_0_1|rgb_to_0_1",
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names.split("|")])
def test_names_of_the_field_are_recognized(kind: str, name: str) -> None:
    found = modality(name)
    assert found.kind == kind
    assert found.word is not None
    assert (is_ct(name), is_pet(name), has_own_unit(name)) == (kind == "CT", kind in ("PET", "SPECT"), kind == "own")


@pytest.mark.parametrize("name", ["spectral", "inspect", "petite", "Suva", "active", "image", "channel0", "", "5"])
def test_parts_of_words_and_unknown_names_are_a_stated_guess(name: str) -> None:
    found = modality(name)
    assert (found.kind, found.word) == ("own", None)
    assert "a guess" in describe_modality(name)


def test_what_a_channel_is_taken_for_is_said() -> None:
    assert describe_modality("SpectralCT") == "SpectralCT (CT, in HU)"
    assert describe_modality("t1gd") == "t1gd (as MR, in each scan's own unit)"


def scan(low: float, high: float, dtype: type = np.float32) -> np.ndarray:
    """A scan (20, 20, 20) of values from `low` to `high`, of which a tenth is exactly `low`."""
    values = np.random.default_rng(0).uniform(low, high, (20, 20, 20))
    values[:2] = low
    return values.astype(dtype)


@pytest.mark.parametrize("padding", [-1201, -2000, -3024, -32768])
def test_nothing_lies_below_air_in_ct(padding: int) -> None:
    clean = scan(-1000, 300, np.int16)
    padded = clean.copy()
    padded[:2] = padding
    padded[10, 10, 10] = -1500  # interpolated
    filled = fill_padding(padded, "CT")
    assert filled.dtype == np.int16
    assert -1000 <= filled[:2].min() == filled[:2].max() <= -990
    assert filled[10, 10, 10] == filled[0, 0, 0]
    np.testing.assert_array_equal(filled[2:10], clean[2:10])
    assert fill_padding(clean, "CT") is clean


@pytest.mark.parametrize(("name", "dtype"), [("CT", np.int16), ("CT", np.float32)])
def test_filling_takes_little_memory(name: str, dtype: type) -> None:
    """A CT scan of 512 x 512 x 400 voxels would need 800 MB more as float64."""
    padded = np.random.default_rng(0).integers(0, 300, (64, 64, 64)).astype(dtype)
    padded[:8] = -3024
    tracemalloc.start()
    filled = fill_padding(padded, name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert filled.dtype == dtype
    np.testing.assert_array_equal(filled[8:], padded[8:])
    assert filled[:8].min() == filled[:8].max() == np.percentile(padded[8:], 0.5, method="nearest")
    assert peak < 2.1 * padded.nbytes  # the mask of the padding, and the scan once more


@pytest.mark.parametrize("name", ["PET", "T1", "noNorm", "something"])
@pytest.mark.parametrize("padding", [-1, -1024, -32768])
def test_a_block_of_a_negative_value_is_padding_where_all_else_is_not_negative(name: str, padding: float) -> None:
    clean = scan(0, 8)
    padded = clean.copy()
    padded[:2] = padding
    padded[2] = padding / 2  # resampling has interpolated
    filled = fill_padding(padded, name)
    assert filled.min() == 0 or 0 <= filled.min() < 0.1
    np.testing.assert_array_equal(filled[3:], clean[3:])


def test_a_dead_voxel_is_padding() -> None:
    clean = scan(-100, 900)
    dead = clean.copy()
    dead[5, 5, 5] = -32768
    filled = fill_padding(dead, "T2")
    assert -100 <= filled[5, 5, 5] < -80
    np.testing.assert_array_equal(filled[:5], clean[:5])


def test_measured_voxels_are_not_padding() -> None:
    rng = np.random.default_rng(1)
    standardized = rng.normal(0, 1, (20, 20, 20))  # z-scores, with a background that is the lowest value
    standardized[:8] = -3.0
    ringing = np.maximum(scan(0, 2000), 0) - 400 * (rng.random((20, 20, 20)) < 0.001)  # of a cubic interpolation
    for array in (scan(0, 5), scan(1, 5), standardized, ringing, np.full((4, 4, 4), -7.0), scan(-1024, 300)):
        assert fill_padding(array, "T1") is array
    air = np.where(rng.random((20, 20, 20)) < 0.5, -1000, 40)  # of a phantom
    assert fill_padding(air, "CT") is air


def test_the_background_of_a_normalized_scan_is_no_padding() -> None:
    """A scan without skull, normalized to mean 0: its background is one negative value, and the brain is above."""
    rng = np.random.default_rng(0)
    scan = np.zeros((20, 20, 20), np.float32)
    scan[5:15, 5:15, 5:15] = rng.uniform(0.3, 1.2, (10, 10, 10))
    scan[5:15, 5:15, 5] = rng.uniform(0.02, 0.1, (10, 10))  # dark fluid
    scan = (scan - scan.mean()) / scan.std()
    assert scan.min() < 0 < np.percentile(scan[scan > scan.min()], 10)
    assert fill_padding(scan, "T1") is scan


def test_channels_are_filled_each_by_its_name() -> None:
    image = np.stack([scan(-3024, 300), scan(0, 5)])
    filled = fill_paddings(image, ("CT", "PET"))
    assert filled[0].min() >= -1200
    np.testing.assert_array_equal(filled[1], image[1])
    assert fill_paddings(image[1:], ("PET",)).base is image
