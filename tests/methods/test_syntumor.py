"""SynTumor: its equation, the published counts and sizes, contrasts of the data and of the literature."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import erf
from support.requests import make_request, opened

from tumorgen_cli.geometry import Box
from tumorgen_cli.methods import syntumor
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.planning.fingerprint import ChannelFacts, Fingerprint
from tumorgen_cli.planning.plan import Decisions
from tumorgen_cli.synthesis import pair as pair_module
from tumorgen_cli.synthesis.jobs import PairJob
from tumorgen_cli.synthesis.pair import PairInputs
from tumorgen_cli.synthesis.scan import read_scan
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.system.errors import PlanError


def flat_request(workspace, level=2.0):
    request = make_request(workspace, Box((6, 6, 6), (26, 26, 26)))
    return replace(request, image=np.full((1, 32, 32, 32), level, np.float32))


@pytest.mark.parametrize("form", ["published", "gaussian"])
def test_contrast_is_the_data_sets(workspace, form):
    """In an even host the tumors are brighter by a contrast of the fingerprint's range."""
    method, _ = opened("syntumor", workspace)
    method.config = replace(method.config, form=form)
    (low, high) = method.config.contrast[0]
    ratios = []
    for seed in range(12):
        made = method.synthesize(flat_request(workspace), seed, Sampling())
        (contrast,) = made.drawn["contrast"]
        assert low <= contrast <= high
        core = ndimage.binary_erosion(made.mask > 0.99)
        ratios.append((float(made.image[0][core].mean()) - 2) / contrast)
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    assert 0.5 < min(ratios) < max(ratios) < 1.5


@pytest.mark.parametrize(("source", "expected"), [("literature", -100 * 0.5), ("data", -100 * 0.5 / 0.525)])
def test_the_host_loses_contrast_times_texture_times_the_soft_mask(workspace, monkeypatch, source, expected):
    """A half space with an edge of 2 mm, a texture of one half everywhere, 100 HU darker."""
    method, _ = opened("syntumor", workspace)
    method.config = replace(method.config, contrast_from=source, contrast=((-100.0, -100.0),), edge_mm=(2.0, 2.0))
    request = flat_request(workspace, 60.0)
    mask = np.zeros((32, 32, 32), np.float32)
    mask[16:26, 6:26, 6:26] = 1
    monkeypatch.setattr(syntumor, "place_mask", lambda *rest: (mask, {"size": 0}))
    monkeypatch.setattr(syntumor.texture, "draw_texture", lambda config, shape, *rest: np.full(shape, 0.5))
    made = method.synthesize(request, 0, Sampling())
    depth = (np.arange(12, 20) + 0.5 - 16) * request.spacing_mm[0]
    share = (1 + erf(depth / 2 / np.sqrt(2))) / 2
    found = made.image[0, 12:20, 16, 16] - 60
    assert found[4:] == pytest.approx(expected * share[4:], abs=0.12 * abs(expected))  # voxels are wider than the edge
    assert found[-1] == pytest.approx(expected, rel=0.01)
    region = np.zeros((32, 32, 32), bool)
    region[:18] = True
    cut = method.synthesize(replace(request, region=region), 0, Sampling())
    np.testing.assert_array_equal(cut.image[0][~region], 60)
    np.testing.assert_array_equal(cut.image[0][region], made.image[0][region])


def extents(workspace, sizes, seeds=200):
    method, _ = opened("syntumor", workspace)
    method.config = replace(method.config, sizes=sizes)
    return [method.draw_extents(np.random.default_rng(seed)) for seed in range(seeds)]


@pytest.mark.parametrize(
    ("sizes", "radius", "fewest", "most"),
    [("tiny", 4, 3, 10), ("small", 8, 3, 10), ("medium", 16, 2, 5), ("large", 32, 1, 3)],
)
def test_published_counts_and_sizes_of_a_class(workspace, sizes, radius, fewest, most):
    drawn = extents(workspace, sizes)
    assert {len(each) for each in drawn} == set(range(fewest, most + 1))
    edges = np.concatenate(drawn)
    assert edges.min() == pytest.approx(1.5 * radius, rel=0.02)
    assert edges.max() == pytest.approx(2.5 * radius, rel=0.02)


def test_a_mix_has_all_classes_and_published_draws_each_kind_alike(workspace):
    for each in extents(workspace, "mix", 50):
        radii = np.prod(each, axis=1) ** (1 / 3) / 2
        counts = np.histogram(radii, (2.5, 5.4, 10.8, 21.6, 42))[0]
        assert all(low <= count <= high for count, (low, high) in zip(counts, syntumor.MIX_COUNTS, strict=True))
    largest = [max(np.prod(each, axis=1)) ** (1 / 3) / 2 for each in extents(workspace, "published", 600)]
    shares = np.histogram(largest, (2.5, 5.4, 10.8, 21.6, 42))[0] / 600
    assert shares == pytest.approx([0.2, 0.2, 0.2, 0.4], abs=0.06)  # large and mix have a large one
    assert extents(workspace, "data", 1) == [None]


def test_a_pair_has_the_published_tumors(workspace, phantoms):
    """Their boxes are those of their sizes, and not of the training tumors'."""
    method, _ = opened("syntumor", workspace)
    method.config = replace(method.config, sizes="tiny")
    scan = read_scan("h", (min(phantoms.healthy.iterdir()),), None, method.plan)
    source = Source("h", scan.files)
    inputs = PairInputs(method, workspace.fingerprint().cases, Sampling())
    host = pair_module.open_host(inputs, source, scan, "")
    asked = []
    draw = host.placing.window
    host.placing.window = lambda *rest: (asked.append(rest[5]), draw(*rest))[1]  # the extent
    pair = pair_module.draw_pair(inputs, PairJob(0, source, "h_s0000", 3, 0), host)
    assert 3 <= len(pair.tumors) + len(pair.left_out) <= 10
    assert len(set(asked)) == len(pair.tumors) + len(pair.left_out)
    assert np.max(asked) <= 10
    one = replace(inputs, count=2)
    assert len((found := pair_module.draw_pair(one, PairJob(0, source, "h_s0000", 3, 0), host)).tumors) <= 2
    assert found.tumors[0] == replace(pair.tumors[0], seconds=found.tumors[0].seconds)


def plan_with(name, contrast_from):
    """SynTumor's section for a data set with one channel."""
    facts = ChannelFacts(name, {}, {})
    labels = {"background": 0, "tumor": 1}
    fingerprint = Fingerprint("D", "/d", "h", ".nii.gz", labels, "tumor", 1, (facts,), ())
    d = Decisions({"methods.syntumor.contrast_from": (contrast_from, "--set")}, "methods.syntumor.")
    syntumor.plan_contrast(d, fingerprint)
    return {decision.field: decision.value for decision in d.taken}


def test_literature_values_need_no_tumor_and_are_of_ct_alone():
    assert plan_with("CT", "literature")["methods.syntumor.contrast"] == ((-145.0, -65.0),)
    with pytest.raises(PlanError) as caught:
        plan_with("PET", "literature")
    (fault,) = caught.value.faults
    assert fault.where == "--set methods.syntumor.contrast_from"
    assert "PET" in fault.found
    assert fault.remedy == "--set methods.syntumor.contrast_from=data"


def test_published_sizes_need_the_four_classes(workspace):
    config = opened("syntumor", workspace)[0].config
    mask = replace(config.mask, radii_mm=(4.0, 8.0), deformation=config.mask.deformation[:2])
    assert replace(config, mask=mask).sizes == "data"
    with pytest.raises(PlanError, match="2 radii"):
        replace(config, mask=mask, sizes="published")
