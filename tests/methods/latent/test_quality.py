"""Quality of reconstructions in closed form; whole images."""

from dataclasses import replace

import numpy as np
import pytest

from tumorgen_cli.methods.latent import quality
from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.preprocessing.intensity import unscale


class Shift:
    """A codec whose pictures are off by a constant in the scaled range."""

    downsampling = 4

    def __init__(self, by):
        self.by = by

    def encode(self, image):
        return image

    def decode(self, latent):
        return latent + self.by


def test_quality_in_closed_form(trained):
    plan = trained.plan()
    plan = replace(plan, channels=tuple(replace(c, power=1.0) for c in plan.channels))
    cases = load_cases(trained, trained.splits().test)
    perfect = quality.reconstruction_quality(Shift(0.0), cases, plan, "cpu")
    assert perfect["psnr"] == pytest.approx(120)
    assert perfect["ssim"] == pytest.approx(1, abs=1e-4)
    assert perfect["cases"] == len(cases)
    assert perfect["tumor_shift"] == pytest.approx(0, abs=1e-6)
    off = quality.reconstruction_quality(
        Shift(0.02), cases, plan, "cpu"
    )  # a hundredth of the clip window, where nothing is clipped
    assert off["psnr"] == pytest.approx(40, abs=0.3)
    assert off["psnr_worst"] <= off["psnr"]
    assert off["tumor_shift"] == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize("downsampling", [2, 4])
def test_whole_images_have_sides_of_whole_cells(trained, downsampling):
    plan = trained.plan()
    case = load_cases(trained, trained.splits().test)[0]
    image = quality.whole_image(case, plan, downsampling)
    assert all(
        n % downsampling == 0 and 0 <= n - m < downsampling
        for n, m in zip(image.shape[1:], case.record.shape, strict=True)
    )
    keep = tuple(slice(0, n) for n in case.record.shape)
    back = unscale(image, plan.channels, np.array(case.record.limits))[(slice(None), *keep)]
    np.testing.assert_allclose(back, np.clip(case.image, *case.record.limits[0]), atol=1e-3)
