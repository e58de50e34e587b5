"""Planning is arithmetic: the paper's numbers, whole-body CT, and what must hold for any data set."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.data import channels, splits
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import CaseFacts, ChannelFacts, Fingerprint, TumorFacts
from tumorgen_cli.planning.plan import make_plan
from tumorgen_cli.system.devices import DeviceBudget

PERCENTILES = ("0.05", "0.5", "5", "50", "95", "99", "99.5", "99.9", "99.95")


def channel(name="PET", foreground=None, image=None):
    values = dict(zip(PERCENTILES, np.linspace(0, 16, 9).tolist(), strict=True))
    return ChannelFacts(name, {**values, **(foreground or {})}, {**values, **(image or {})})


def tumor(extent, volume=10.0):
    return TumorFacts(Box((0, 0, 0), (2, 2, 2)), volume, tuple(map(float, extent)), (5.0,), (3.0,), (0.5, 0.5, 0.5))


def fingerprint(shape, spacing, extents, cases=40, name="PET"):
    """`cases` equal scans; tumors are shared out in turn."""
    grid = Grid(shape, spacing)
    facts = tuple(CaseFacts(f"c{i:03d}", grid, tuple(tumor(e) for e in extents[i::cases])) for i in range(cases))
    return Fingerprint(
        "Dataset001_Toy", "/data", "hash", ".nii.gz", {"background": 0, "tumor": 1}, "tumor", 1, (channel(name),), facts
    )


def planned(found, budget):
    return make_plan(found, [case.case for case in found.cases], budget, {}, {})


def test_the_papers_lung_crops():
    """200×200×100 is resized to 128×128×64: one factor, 1.5625 (TumorGen, section 3.1)."""
    found = fingerprint((200, 200, 100), (2.04, 2.04, 3.0), [(30, 35, 30)] * 60)
    plan = planned(found, DeviceBudget("cuda", 24.0, 2.0))
    assert plan.window.shape == (128, 128, 64)
    assert plan.window.latent_shape(4) == (32, 32, 16)
    np.testing.assert_allclose(plan.window.spacing_mm, np.array((2.04, 2.04, 3.0)) * 1.5625)
    decision = next(d for d in plan.decisions if d.field == "window.spacing_mm")
    assert decision.inputs["factor"] == pytest.approx(1.5625)
    assert "whole case" in next(d for d in plan.decisions if d.field == "window.shape").rule
    assert plan.precision == "bf16"
    assert plan.tolerance_mm == 3.0


def test_the_main_channel_is_the_one_tumors_stand_out_in():
    """PET behind CT: 3 SUV above their surroundings in scans of 0 to 2, and 20 HU in scans of -1000 to 100."""
    ct, pet = (
        ChannelFacts(name, {}, {"5": low, "95": high})
        for name, low, high in (("CT", -1000.0, 100.0), ("PET", 0.0, 2.0))
    )
    seen = replace(tumor((30, 30, 30)), contrast=(20.0, 3.0))
    faint = replace(seen, contrast=(math.nan, math.nan))  # fills its scan
    assert rules.main_channel((ct, pet), [seen, faint]) == 1
    assert rules.main_channel((pet, ct), [replace(seen, contrast=(-3.0, 20.0))]) == 0
    assert rules.main_channel((pet,), [replace(seen, contrast=(math.nan,))]) == 0


def test_whole_body_ct_gets_a_window_around_the_tumor():
    """A resize of 4.6 would be needed to see the whole scan; 60 mm tumors and 25 mm around them need 112×112×37."""
    found = fingerprint((512, 512, 400), (0.98, 0.98, 3.0), [(60, 60, 60)] * 60, name="CT")
    plan = planned(found, DeviceBudget("cuda", 24.0, 2.0))
    assert plan.window.shape == (112, 112, 48)
    assert plan.window.spacing_mm == (0.98, 0.98, 3.0)
    assert "whole case" not in next(d for d in plan.decisions if d.field == "window.shape").rule


def test_less_memory_is_a_coarser_window():
    found = fingerprint((200, 200, 100), (2.04, 2.04, 3.0), [(30, 35, 30)] * 60)
    windows = [
        planned(found, budget).window
        for budget in (DeviceBudget("cuda", 24.0, 2.0), DeviceBudget("cuda", 12.0, 2.0), DeviceBudget("cpu", 8.0, 0.0))
    ]
    voxels = [math.prod(w.shape) for w in windows]
    assert voxels == sorted(voxels, reverse=True)
    assert voxels[1] <= rules.PAPER_VOXELS / 2
    assert voxels[2] <= rules.CPU_VOXELS
    assert planned(found, DeviceBudget("cpu", 8.0, 0.0)).precision == "fp32"


@pytest.mark.parametrize("seed", range(60))
def test_any_data_set(seed):
    """Sides are multiples of 16, the voxel budget holds, and the largest usual tumor is seen whole."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(40, 500, 3))
    spacing = tuple(float(s) for s in rng.uniform(0.6, 5.0, 3))
    extent = np.array(shape) * spacing
    extents = [tuple(np.minimum(rng.uniform(4, 120, 3), 0.9 * extent)) for _ in range(20)]
    budget = DeviceBudget("cuda" if rng.random() < 0.5 else "cpu", float(rng.uniform(4, 80)), 0.0)
    plan = planned(fingerprint(shape, spacing, extents, cases=20), budget)
    window = plan.window
    assert all(n % 16 == 0 and n >= 32 for n in window.shape)
    assert math.prod(window.shape) <= rules.voxel_budget(budget.device, budget.memory_gib)
    factors = np.array(window.spacing_mm) / spacing
    finer = plan.decisions[[d.field for d in plan.decisions].index("window.spacing_mm")].rule.startswith(
        "the median tumor"
    )
    if not finer:
        assert factors == pytest.approx(np.full(3, factors[0]))
        assert factors[0] >= 1
    usual = np.percentile(extents, 95, axis=0)
    assert (np.array(window.extent_mm) + 0.5 * np.array(window.spacing_mm) >= np.minimum(usual, extent)).all()
    assert 0.05 <= window.alpha <= 0.2


@pytest.mark.parametrize("seed", range(20))
def test_the_factor_is_the_least_that_fits(seed):
    rng = np.random.default_rng(seed)
    window = tuple(float(v) for v in rng.uniform(60, 600, 3))
    spacing = tuple(float(v) for v in rng.uniform(0.7, 4, 3))
    budget = int(rng.integers(40_000, 1_100_000))
    factor = rules.resize_factor(window, spacing, budget)

    def voxels(f):
        return math.prod(rules.window_shape(window, tuple(s * f for s in spacing)))

    assert voxels(factor) <= budget
    # a tenth of a side is the slack of "sides end at multiples of 16" (the half voxel that does not count)
    assert factor == 1.0 or voxels(max(1.0, factor * 0.9)) > budget


def test_window_shape():
    assert rules.window_shape((160.0, 160.4, 161.0), (2.0, 1.0, 1.0)) == (80, 160, 176)
    assert rules.window_shape((10.0, 32.0, 33.0), (1.0, 1.0, 1.0)) == (32, 32, 48)


def test_voxel_budget():
    assert rules.voxel_budget("cuda", 24) == 128 * 128 * 64 == rules.voxel_budget("cuda", 139)
    assert rules.voxel_budget("cuda", 12) == 128 * 128 * 32
    assert rules.voxel_budget("cpu", 64) == 2**18
    assert rules.voxel_budget("cpu", 4) == 2**17


def test_alpha_leaves_room():
    assert rules.box_alpha((100.0, 100.0, 100.0), (20.0, 20.0, 20.0)) == 0.2
    assert rules.box_alpha((100.0, 100.0, 100.0), (20.0, 80.0, 20.0)) == 0.05
    assert rules.box_alpha((100.0, 100.0, 100.0), (20.0, 50.0, 20.0)) == 0.125


def test_scaling_by_name():
    pet = rules.channel_scaling(channel("FDG-PET", foreground={"99.95": 30.0}, image={"99.9": 40.0}))
    assert (pet.scheme, pet.low, pet.high, pet.power) == ("dataset", 0.0, 40.0, 0.5)
    below = rules.channel_scaling(channel("SUV", image={"0.5": -0.5}))
    assert below.low == -0.5
    ct = rules.channel_scaling(channel("CT", foreground={"0.5": -60.0, "99.5": 240.0}, image={"5": -1000.0}))
    assert (ct.scheme, ct.low, ct.high, ct.power) == ("dataset", -1000.0, 240.0, 1.0)
    mr = rules.channel_scaling(channel("T1"))
    assert (mr.scheme, mr.low, mr.high) == (
        "own",
        0.0,
        channel().foreground["99.5"],
    )  # bright tumors are inside the window
    dark = rules.channel_scaling(channel("T1", foreground={"99.5": 0.7}))
    assert (dark.low, dark.high) == (0.0, 1.0)
    raw = rules.channel_scaling(channel("noNorm", foreground={"0.05": -3.0}, image={"99.95": 19.0}))
    assert (raw.scheme, raw.low, raw.high, raw.power) == ("dataset", -3, 19, 1.0)


def test_a_tumor_does_not_change_the_unit_it_is_measured_in():
    """However bright, large and blurred it is."""
    scan = np.random.default_rng(0).normal(300, 20, (40, 40, 40)).astype(np.float32)
    bare, tumors = channels.scan_unit(scan, None), np.zeros(scan.shape, bool)
    tumors[10:20, 12:20, 14:20] = True  # 0.75 % of the scan
    for brightness in (450, 1500):
        bright = scan + (brightness - 300) * ndimage.gaussian_filter(tumors.astype(np.float32), 0.7)
        assert channels.scan_unit(bright, tumors) == pytest.approx(bare, rel=0.05)  # the lowest voxel may lie in it
        assert channels.scan_unit(bright, None)[1] > 1.2 * bare[1]
    assert channels.scan_unit(scan, tumors & False) == bare
    assert channels.scan_unit(scan, np.ones(scan.shape, bool)) == bare  # nothing is left


def test_units_by_name():
    own = [
        name
        for name in ("CT", "ct_1", "PET", "FDG", "noNorm", "rgb_to_0_1", "T1", "FLAIR", "")
        if channels.has_own_unit(name)
    ]
    assert own == ["T1", "FLAIR", ""]


def test_splits():
    train, test = splits.split_cases([f"c{i}" for i in (3, 1, 0, 2, 4, 9, 7, 6, 8, 5)])
    assert test == ("c4", "c9")
    assert train == ("c0", "c1", "c2", "c3", "c5", "c6", "c7", "c8")
    assert splits.split_cases(["b", "a"]) == (("a",), ("b",))
    assert splits.split_cases(["a"]) == (("a",), ())


def test_smallest_volume():
    assert rules.smallest_volume_ml([tumor((9, 9, 9), v) for v in (4.0, 1.5, 30.0)]) == 0.75


def test_small_tumors_ask_for_a_finer_grid():
    assert rules.spacing_for_small_tumors((24.0, 30.0, 40.0), (4.0, 4.0, 5.0)) is None
    assert rules.spacing_for_small_tumors((20.0, 30.0, 40.0), (4.0, 4.0, 5.0)) == (2.5, 3.75, 5.0)


def test_small_tumors_get_a_finer_grid_where_the_budget_allows_it():
    """A whole-body set with tumors of 2 cm on 4 mm voxels: two latent cells a tumor, less context, or a warning."""
    found = fingerprint((168, 168, 250), (4.07, 4.07, 3.0), [(20, 20, 20)] * 20)
    window = planned(found, DeviceBudget("cpu", 8.0, 0.0)).window
    assert all(20 / (4 * s) >= 1.5 for s in window.spacing_mm)
    assert all(e >= 20 + 2 * 25 - 0.5 * s for e, s in zip(window.extent_mm, window.spacing_mm, strict=True))
    assert math.prod(window.shape) <= rules.CPU_VOXELS
    mixed = [(20, 20, 20)] * 18 + [(400, 400, 400)] * 2
    assert (
        rules.small_tumor_grid((20, 20, 20), (400, 400, 400), (600, 600, 600), (700, 700, 700), (4.0, 4.0, 4.0), 2**18)
        is None
    )
    assert (
        planned(
            fingerprint((168, 168, 250), (4.07, 4.07, 3.0), mixed), DeviceBudget("cpu", 8.0, 0.0)
        ).window.spacing_mm[0]
        > 4.07
    )


def test_an_autoencoders_patches_hold_no_more_than_the_papers_window():
    shapes = [(32, 32, 32), (64, 64, 64), (96, 96, 96), (128, 128, 64), (256, 128, 128)]
    assert [rules.patches_per_step(shape) for shape in shapes] == [4, 4, 1, 1, 1]
