"""Planning is arithmetic: the paper's numbers, whole-body CT, and what must hold for any data set."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from tumorgen_cli.data import channels, splits
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.methods.tumorgen.method import TumorGen
from tumorgen_cli.planning import rules
from tumorgen_cli.planning.fingerprint import CaseFacts, ChannelFacts, Fingerprint, TumorFacts
from tumorgen_cli.planning.plan import make_plan
from tumorgen_cli.planning.presets import read_overrides
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


def planned(found, budget, overrides=None):
    return make_plan(found, [case.case for case in found.cases], budget, {}, overrides)


def cell_width(found, budget):
    """Voxels per latent cell in the plan of tumorgen."""
    sections = {"tumorgen": TumorGen.plan_section}
    plan = make_plan(found, [case.case for case in found.cases], budget, sections)
    return plan.methods["tumorgen"]["vae"]["downsampling"]


def test_the_papers_lung_crops():
    """200×200×100 is resized to 128×128×64: one factor, 1.5625 (TumorGen, section 3.1)."""
    found = fingerprint((200, 200, 100), (2.04, 2.04, 3.0), [(30, 35, 30)] * 60)
    plan = planned(found, DeviceBudget("cuda", 24.0, 2.0), read_overrides("autopet-lung", []))
    assert plan.window.shape == (128, 128, 64)
    assert plan.window.latent_shape(4) == (32, 32, 16)
    np.testing.assert_allclose(plan.window.extent_mm, np.array((200, 200, 100)) * (2.04, 2.04, 3.0))
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


def test_large_tumors_get_cells_of_four_voxels():
    """60 mm are 5 cells of 12 mm. The window shows at least 76×76×108 mm, and 123×123×156 mm where they fit."""
    found = fingerprint((512, 512, 400), (0.98, 0.98, 3.0), [(60, 60, 60)] * 60, name="CT")
    cpu, cuda = DeviceBudget("cpu", 8.0, 0.0), DeviceBudget("cuda", 24.0, 2.0)
    assert (cell_width(found, cpu), cell_width(found, cuda)) == (4, 4)
    assert planned(found, cuda).window.shape == (128, 128, 64)
    assert planned(found, cuda).window.spacing_mm == (0.98, 0.98, 3.0)
    least = planned(found, cpu).window
    assert least.spacing_mm[2] == 3.0  # only the shorter edges are made longer
    assert all(e >= m for e, m in zip(least.extent_mm, (76, 76, 108), strict=True))


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
    """Sides are multiples of 16, both budgets hold, no voxel is finer than a scan's, the usual tumor is seen whole."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(40, 500, 3))
    spacing = tuple(float(s) for s in rng.uniform(0.6, 5.0, 3))
    extent = np.array(shape) * spacing
    extents = [tuple(np.minimum(rng.uniform(4, 120, 3), 0.9 * extent)) for _ in range(20)]
    budget = DeviceBudget("cuda" if rng.random() < 0.5 else "cpu", float(rng.uniform(4, 80)), 0.0)
    found = fingerprint(shape, spacing, extents, cases=20)
    window, cell = planned(found, budget).window, cell_width(found, budget)
    assert all(n % 16 == 0 and n >= 32 for n in window.shape)
    assert math.prod(window.shape) <= rules.voxel_budget(budget.device, budget.memory_gib)
    assert math.prod(window.latent_shape(cell)) <= rules.cell_budget(budget.device)
    coarser = np.array(window.spacing_mm) > spacing
    assert np.array_equal(np.array(window.spacing_mm)[~coarser], np.array(spacing)[~coarser])
    assert len({window.spacing_mm[axis] for axis in np.flatnonzero(coarser)}) <= 1  # all short edges get one length
    usual = np.percentile(extents, 95, axis=0)
    needed = np.minimum(usual + 4 * cell * np.array(window.spacing_mm), extent)
    assert (np.array(window.extent_mm) + 0.51 * np.array(window.spacing_mm) >= needed).all()
    assert 0.05 <= window.alpha <= 0.2


def sizes_and_cases(seed):
    rng = np.random.default_rng(seed)
    large = np.sort(rng.uniform(4, 200, (3, 3)), axis=0)
    sizes = rules.TumorSizes(*(tuple(map(float, each)) for each in large))
    voxel, case = rng.uniform(0.5, 5, 3), rng.uniform(60, 600, 3)
    return sizes, rules.CaseSizes(*(tuple(map(float, each)) for each in (voxel, case, 1.2 * case)))


@pytest.mark.parametrize("seed", range(40))
def test_the_spacing_is_the_finest_at_which_the_window_fits(seed):
    sizes, cases = sizes_and_cases(seed)
    grid = rules.choose_grid(sizes, cases, 2**18, 2**12)
    budget = min(2**18, 2**12 * grid.downsampling**3)

    def voxels(edge):
        spacing = tuple(max(s, edge) for s in cases.voxel)
        ends = zip(sizes.large, spacing, cases.largest, strict=True)
        return math.prod(rules.window_shape(tuple(min(e + 4 * grid.downsampling * s, m) for e, s, m in ends), spacing))

    edge = max((s for s, v in zip(grid.spacing, cases.voxel, strict=True) if s > v), default=0.0)
    assert voxels(edge) <= budget
    assert not edge or voxels(edge / 1.0101) > budget
    again = rules.vae_downsampling(sizes, grid.spacing, rules.window_shape(grid.window, grid.spacing), 2**12)
    assert again == grid.downsampling


def test_narrow_tumors_get_cells_of_two_voxels_within_the_budget_of_a_cpu():
    """Nodules of 5 to 27 mm at 1 mm, lesions of 3 to 27 mm, and sarcomas at 5 mm, which stay as they are."""
    cpu, cuda = DeviceBudget("cpu", 8.0, 0.0), DeviceBudget("cuda", 24.0, 2.0)

    def of(*percentiles):
        return [(e,) * 3 for e in np.interp(np.linspace(0, 100, 41), (0, 5, 50, 95, 100), percentiles)]

    nodules = fingerprint((64, 64, 51), (1.0, 1.0, 1.25), of(5, 5.5, 11, 22, 27))
    lesions = fingerprint((128, 160, 121), (1.0, 1.0, 1.0), of(3, 3.5, 8, 24, 27))
    for found, median in ((nodules, 4.3), (lesions, 3.6)):
        for budget in (cpu, cuda):
            window = planned(found, budget).window
            assert cell_width(found, budget) == 2
            assert min(np.array(rules.tumor_sizes(found.tumors).median) / 2 / window.spacing_mm) >= median
    assert planned(nodules, cpu).window.spacing_mm == planned(nodules, cuda).window.spacing_mm == (1.0, 1.0, 1.25)
    ends = zip(of(30, 31, 82, 143, 145), of(29, 30, 78, 128, 197), of(48, 49, 114, 237, 268), strict=True)
    sarcomas = fingerprint((46, 46, 114), (5.47, 5.47, 3.27), [(x[0], y[0], z[0]) for x, y, z in ends])
    assert planned(sarcomas, cpu).window.spacing_mm == (5.47, 5.47, 3.27)
    assert (cell_width(sarcomas, cpu), cell_width(sarcomas, cuda)) == (4, 2)  # 2 would make voxels twice as coarse


def test_a_given_downsampling_decides_the_window():
    """With 4, 2 cells around a nodule are 16 mm more; with 2 they are 8."""
    nodules = fingerprint((64, 64, 51), (1.0, 1.0, 1.25), [(20, 20, 20)] * 40)
    windows = [
        planned(
            nodules, DeviceBudget("cuda", 24.0, 2.0), {"methods.tumorgen.vae.downsampling": (value, "--set")}
        ).window
        for value in (2, 4)
    ]
    assert [window.spacing_mm for window in windows] == [(1.0, 1.0, 1.25)] * 2
    assert [window.shape for window in windows] == [(48, 48, 32), (64, 64, 48)]


def test_surroundings_are_as_large_as_the_tumor_where_they_fit():
    sizes = rules.TumorSizes((40.0,) * 3, (60.0,) * 3, (90.0,) * 3)
    cases = rules.CaseSizes((1.0,) * 3, (300.0,) * 3, (400.0,) * 3)
    assert rules.choose_grid(sizes, cases, 10**7, 10**6).window == (180.0,) * 3  # 45 mm on each side
    assert rules.choose_grid(sizes, replace(cases, median=(150.0,) * 3), 10**7, 10**6).window == (150.0,) * 3
    assert rules.choose_grid(sizes, cases, 112**3, 10**6).window == (pytest.approx(112.0, abs=3),) * 3
    assert rules.choose_grid(sizes, replace(cases, median=(70.0,) * 3), 10**7, 10**6).window == (106.0,) * 3  # 2 cells


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
    assert rules.smallest_volume_ml([tumor((0.4, 0.4, 0.4), 8 * 0.2**3 / 1000)]) == 3.2e-5  # never 0


@pytest.mark.parametrize(
    ("contrasts", "least"),
    [
        ([4.0] * 5, 2.0),
        ([-4.0] * 5, -2.0),
        (range(1, 22), 1.0),
        (range(-21, 0), -1.0),
        ([-3, 1, 2, 5], 0),
        ([0, 0], 0),
        ([4, np.nan], 2),
        ([np.nan], 0),
    ],
)
def test_least_change_is_half_of_what_faint_tumors_stand_out_by(contrasts, least):
    assert rules.least_change(contrasts) == least


def test_an_autoencoder_sees_patches_of_several_sizes():
    assert rules.largest_patch((32, 48, 96)) == (48, 48, 96)


def test_an_autoencoders_patches_hold_no_more_than_the_papers_window():
    shapes = [(32, 32, 32), (64, 64, 64), (96, 96, 96), (128, 128, 64), (256, 128, 128)]
    assert [rules.patches_per_step(shape) for shape in shapes] == [4, 4, 1, 1, 1]
