"""There and back between a host's grid and the working grid: outside the box nothing moves, inside there is no seam."""

import gc
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tumorgen_cli.data import body as data_body
from tumorgen_cli.data.volumes import resample, write_volume
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.methods.base import Synthetic
from tumorgen_cli.planning.plan import ChannelPlan, PastePlan
from tumorgen_cli.synthesis import places
from tumorgen_cli.synthesis import window as window_module
from tumorgen_cli.synthesis.draws import place_masks
from tumorgen_cli.synthesis.paste import fade_mm, feather, paste, tumor_place
from tumorgen_cli.synthesis.scan import Scan, read_scan, remove_tumors_in_box
from tumorgen_cli.synthesis.sources import Source
from tumorgen_cli.synthesis.window import cut_window, lay_window
from tumorgen_cli.system.errors import DataError

BOX = Box((20, 18, 9), (34, 30, 21))


@pytest.fixture
def plan(workspace):
    """32³ windows of 4 mm and a feather of 6 mm."""
    found = workspace.plan()
    window = replace(found.window, spacing_mm=(4.0, 4.0, 4.0), shape=(32, 32, 32))
    return replace(found, window=window, paste=PastePlan(6.0, 3, 0.05, 0.0, 6.0, (0,), "data", "surroundings"))


def make_scan(grid=None, dtype=np.float32, fill=None, channels=1):
    """Anisotropic, turned, with noise; CT-like numbers for whole-number types."""
    if grid is None:
        turned = (0.0, -1.0, 0.0, 0.96, 0.0, -0.28, 0.28, 0.0, 0.96)
        grid = Grid((60, 52, 30), (2.5, 3.0, 5.0), (10.0, -20.0, 30.0), turned)
    if fill is None:
        noise = np.random.default_rng(0).normal(size=(channels, *grid.shape))
        image = (noise * 100 if np.dtype(dtype).kind in "iu" else np.abs(noise) * 3).astype(dtype)
    else:
        image = np.full((channels, *grid.shape), fill, dtype)
    limits = np.array([[0.0, 20.0]] * channels, np.float32)
    files, dtypes, names = (Path("host_0000.nii.gz"),), (image.dtype,) * channels, ("PET",) * channels
    return Scan("host", files, image, dtypes, grid, limits, None, names)


def cut(scan, box, plan, cell=1):
    """The window around a box, and the request."""
    window = lay_window(scan, box, plan, cell)
    return window, cut_window(scan, window, "case")


def paste_window(scan, window, request, synthetic, plan, keeps):
    pasted = paste(scan, window.box, window.grid, request, synthetic, plan.paste.feather_mm, keeps)
    assert pasted.mask.shape == window.box.shape  # a mask of a whole scan would cost more than the painting
    return pasted.image, place_masks(scan.grid, [window.box], [pasted.mask])


def painted(request, value=None, mask=1.0):
    """A synthetic that is `value` everywhere (or the host itself), its mask 1 everywhere in the box."""
    share = np.zeros(request.image.shape[1:], np.float32)
    share[request.box.slices] = mask
    image = request.image.copy() if value is None else np.full_like(request.image, value)
    return Synthetic(image, share)


def test_old_tumors_do_not_set_the_limits(plan, tmp_path):
    """A host has the same limits with and without its tumors, as in training, where tumors are annotated."""
    plan = replace(plan, channels=(ChannelPlan("T1", "own", 0.0, 2.0, 1.0),))
    bare, tumors = make_scan(), np.zeros((60, 52, 30), np.uint8)
    tumors[30:36, 20:26, 10:16] = plan.tumor_label
    write_volume(tmp_path / "l.nii.gz", tumors, bare.grid)
    found = []
    for uptake in (0.0, 50.0):
        write_volume(tmp_path / "h_0000.nii.gz", bare.image[0] + np.float32(uptake) * tumors, bare.grid)
        scan = read_scan("h", (tmp_path / "h_0000.nii.gz",), tmp_path / "l.nii.gz", plan)
        found.append(remove_tumors_in_box(scan, BOX, plan, 0)[0].limits)
        np.testing.assert_array_equal(scan.limits, found[-1])
    np.testing.assert_array_equal(*found)
    assert (
        read_scan("h", (tmp_path / "h_0000.nii.gz",), None, plan).limits[0, 1] > 4 * found[0][0, 1]
    )  # nobody has said that it is one


def test_the_window_is_the_plans_and_shows_the_box(plan):
    scan = make_scan()
    window, r = cut(scan, BOX, plan)
    assert r.image.shape == (1, 32, 32, 32)
    assert r.image.dtype == np.float32
    assert not window.padded
    assert (r.case, r.spacing_mm) == ("case", plan.window.spacing_mm)
    np.testing.assert_array_equal(r.limits, scan.limits)
    origin = [
        (np.array(g.direction).reshape(3, 3).T @ np.array(g.origin_mm)) - np.array(g.spacing_mm) / 2
        for g in (scan.grid, window.grid)
    ]
    for axis in range(3):  # the request's box covers the host's, by less than a working voxel to each side
        start = origin[0][axis] + BOX.start[axis] * scan.grid.spacing_mm[axis]
        stop = origin[0][axis] + BOX.stop[axis] * scan.grid.spacing_mm[axis]
        low = origin[1][axis] + r.box.start[axis] * 4.0
        high = origin[1][axis] + r.box.stop[axis] * 4.0
        assert start - 4 < low <= start + 1e-3
        assert stop - 1e-3 <= high < stop + 4
        fade = (
            plan.paste.feather_mm / 2
        )  # on each side between the box and the tumor's place in it, to a voxel of either grid
        apart = np.array((r.place.start[axis] - r.box.start[axis], r.box.stop[axis] - r.place.stop[axis])) * 4.0
        assert (np.abs(apart - fade) <= 4.0 + scan.grid.spacing_mm[axis]).all()
        assert origin[1][axis] >= origin[0][axis] - 1e-3  # inside the scan, where it fits
        assert origin[1][axis] + 128 <= origin[0][axis] + scan.grid.extent_mm[axis] + 1e-3


def test_the_window_is_the_scan_there(plan):
    """An image that is linear in space is the same on both grids."""
    scan = make_scan()
    g = scan.grid

    def ramp(grid):
        index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1) * np.array(grid.spacing_mm)
        return (np.array(grid.origin_mm) + index @ np.array(grid.direction).reshape(3, 3).T) @ np.array(
            (0.02, 0.03, -0.01)
        )

    scan = replace(scan, image=ramp(g)[None].astype(np.float32))
    window, request = cut(scan, BOX, plan)
    middle = (slice(3, -3),) * 3
    np.testing.assert_allclose(request.image[0][middle], ramp(window.grid)[middle], atol=0.02)


def test_only_the_part_around_the_window_is_resampled(plan):
    """And the result is that of the whole scan."""
    scan = make_scan(Grid((120, 110, 60), (2.5, 3.0, 5.0)))
    window, request = cut(scan, BOX, plan)
    box, grid = window_module._box_of_window(scan, window)
    assert np.prod(box.shape) < 0.5 * scan.image[0].size
    assert grid.shape == box.shape
    whole = resample(scan.image[0], scan.grid, window.grid, "cubic")
    np.testing.assert_allclose(request.image[0], whole, atol=2e-3)


def test_a_request_shows_the_region(plan):
    """Where the scan's voxels at the window's voxels are in it; without a region there is none."""
    scan = make_scan()
    region = scan.image[0] > np.median(scan.image[0])
    window = lay_window(scan, BOX, plan)
    found = cut_window(scan, window, None, region).region
    np.testing.assert_array_equal(found, resample(region.astype(np.uint8), scan.grid, window.grid, "nearest") == 1)
    assert found.shape == window.grid.shape
    assert found.dtype == bool
    assert cut_window(scan, window, None).region is None


def test_a_window_at_the_scans_edge_stays_inside(plan):
    window, request = cut(make_scan(), Box((0, 0, 0), (6, 6, 4)), plan)
    assert not window.padded
    assert request.box.start == (0, 0, 0)
    window, request = cut(make_scan(), Box((54, 46, 26), (60, 52, 30)), plan)
    assert request.box.stop == (32, 32, 32)


def test_a_small_host_is_padded_and_told(plan):
    scan = make_scan(Grid((20, 40, 30), (2.5, 4.0, 5.0)))
    box = Box((5, 10, 8), (15, 20, 14))
    window, request = cut(scan, box, plan)
    assert window.padded
    assert request.image.shape == (1, 32, 32, 32)
    assert np.isfinite(request.image).all()
    image, mask = paste_window(scan, window, request, painted(request, 9.0), plan, False)
    assert image.shape == scan.image.shape
    assert mask.any()
    assert not lay_window(make_scan(), BOX, plan).padded


def test_the_window_grows_for_a_large_box(plan):
    scan = make_scan(Grid((100, 100, 60), (2.5, 2.5, 5.0)))
    _, grown = cut(scan, Box((10, 40, 20), (70, 60, 30)), plan)  # 150 mm: 37.5 voxels and 8 of context
    assert grown.image.shape == (1, 48, 32, 32)
    assert grown.box.shape[0] >= 37
    with pytest.raises(DataError, match=r"250×50×50 mm") as error:
        lay_window(scan, Box((0, 40, 20), (100, 60, 30)), plan)
    (fault,) = error.value.faults
    assert fault.expected == "at most 256×256×256 mm"
    assert "window.shape" in fault.remedy


@pytest.mark.parametrize(
    "box", [BOX, Box((0, 0, 0), (14, 12, 8)), Box((46, 40, 22), (60, 52, 30)), Box((3, 7, 9), (22, 20, 17))]
)
def test_a_place_in_whole_cells_is_all_painted(plan, box):
    """It is less than a cell wider on each side, the box as well, and no part of a mask in it is cut off."""
    scan = make_scan()
    (plain, before), (wide, request) = cut(scan, box, plan), cut(scan, box, plan, 4)
    assert plain.box == box
    assert (wide.start, wide.grid) == (plain.start, plain.grid)
    np.testing.assert_array_equal(before.image, request.image)
    edges = np.array([(request.place.start, before.place.start), (before.place.stop, request.place.stop)])
    assert (np.array([request.place.start, request.place.stop]) % 4 == 0).all()
    assert ((np.diff(edges, axis=1) >= 0) & (np.diff(edges, axis=1) < 4)).all()
    assert wide.box.contains(box)
    assert (
        (np.array(wide.box.shape) - box.shape) * scan.grid.spacing_mm < 2 * (16 + np.array(scan.grid.spacing_mm))
    ).all()
    share = np.zeros(request.image.shape[1:], np.float32)
    share[request.place.slices] = 1
    _, mask = paste_window(scan, wide, request, replace(painted(request, 9.0), mask=share), plan, True)
    onto = resample(share, wide.grid, scan.grid, "linear") >= 0.5
    assert not (onto & ~mask).any()


def test_a_place_stays_in_its_box_where_a_window_is_larger_than_the_scan(plan):
    scan, rng = make_scan(Grid((20, 22, 16), (3.0, 4.0, 5.0))), np.random.default_rng(0)
    for _ in range(100):
        start = rng.integers(0, (10, 12, 8))
        box = Box(tuple(start.tolist()), tuple((start + rng.integers(3, 8, 3)).tolist()))
        window = lay_window(scan, box, plan, 4)
        assert window.padded
        assert window.window_box.contains(window.place)
        assert Box((0, 0, 0), scan.grid.shape).contains(window.box)


def test_the_feather_by_hand():
    """Smoothstep of the depth over the width, product of the axes; the scan's own edge has no ramp."""
    grid = Grid((20, 20, 20), (2.0, 1.0, 5.0))
    weight = feather(Box((4, 0, 3), (14, 12, 20)), grid, 3.0)
    u = np.minimum(np.array([1, 3, 5, 7, 9]) / 3, 1)
    ramp = u * u * (3 - 2 * u)
    np.testing.assert_allclose(weight[:, 0, 16], [*ramp, *ramp[::-1]], rtol=1e-5)
    assert (weight[4:6, 0, 2:] == 1).all()  # y starts and z ends at the scan's edge
    v = np.minimum(np.array([5.5, 4.5, 3.5, 2.5, 1.5, 0.5]) / 3, 1)
    np.testing.assert_allclose(weight[5, 6:, 10], v * v * (3 - 2 * v), rtol=1e-5)
    w = 2.5 / 3
    np.testing.assert_allclose(weight[5, 3, 0], w * w * (3 - 2 * w), rtol=1e-5)
    small = feather(Box((4, 4, 4), (8, 8, 8)), grid, 50.0)  # 8 mm along x: a ramp of 2 mm
    np.testing.assert_allclose(small[:, 1, 1], [0.5, 1, 1, 0.5], rtol=1e-5)
    assert weight.min() > 0
    assert (feather(Box((0, 0, 0), (20, 20, 20)), grid, 6.0) == 1).all()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("keeps", [False, True])
def test_no_step_at_the_seam(plan, dtype, keeps):
    """A host of 100 and a synthetic of 500: no neighbors differ by more than smoothstep's steepest slope allows."""
    grid = Grid((60, 60, 60), (2.0, 2.0, 2.0))
    scan = replace(make_scan(grid, dtype, fill=100), limits=np.array([[0.0, 1000.0]], np.float32))
    box = Box((15, 16, 17), (40, 41, 42))
    window, request = cut(scan, box, plan)
    image, _ = paste_window(scan, window, request, painted(request, 500.0), plan, keeps)
    steepest = 1.5 * 2.0 / plan.paste.feather_mm * 400
    for axis in range(3):
        assert np.abs(np.diff(image[0].astype(np.float64), axis=axis)).max() <= steepest + 1
    assert image[0].max() == 500
    assert image[0].min() == 100
    assert (
        np.abs(image[0, 14:16, 28, 28].astype(float) - 100).max() <= 400 * (1 / 6) ** 2 * (3 - 2 / 6) + 1
    )  # the seam itself


def test_a_tumors_place_is_where_the_picture_is_mostly_synthetic():
    grid = Grid((40, 40, 40), (2.0, 2.0, 2.0))
    box = Box((10, 10, 0), (30, 30, 20))
    place = tumor_place(box, grid, 8.0)
    assert place == Box((12, 12, 0), (28, 28, 18))  # half of 8 mm; the scan's own edge does not fade
    assert tumor_place(Box((5, 5, 5), (6, 7, 8)), grid, 8.0) == Box(
        (5, 5, 5), (6, 7, 8)
    )  # nothing is too small for a tumor
    fine = Grid((200, 200, 200), (0.5, 0.5, 0.5))
    for wanted in (10.0, 15.0, 24.0, 60.0):  # a box that is so much longer has a place of the length that was wanted
        voxels = round((wanted + fade_mm(wanted, 8.0)) / 0.5)
        found = tumor_place(Box((20, 20, 20), (20 + voxels,) * 3), fine, 8.0)
        assert found.shape[0] * 0.5 == pytest.approx(wanted, abs=1.0)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize(
    "box", [BOX, Box((0, 0, 0), (14, 12, 8)), Box((46, 40, 22), (60, 52, 30))], ids=["middle", "corner", "far corner"]
)
def test_outside_the_box_the_scan_is_the_scan(plan, dtype, keeps, box):
    scan = make_scan(dtype=dtype, channels=2)
    plan = replace(plan, channels=plan.channels * 2)
    before = scan.image.copy()
    window, request = cut(scan, box, plan)
    noise = np.random.default_rng(1).normal(5, 50, request.image.shape).astype(np.float32)
    image, mask = paste_window(scan, window, request, replace(painted(request), image=noise), plan, keeps)
    outside = np.ones(scan.grid.shape, bool)
    outside[box.slices] = False
    np.testing.assert_array_equal(image[:, outside], before[:, outside])
    np.testing.assert_array_equal(scan.image, before)
    assert image.dtype == dtype
    assert not np.array_equal(image[:, ~outside], before[:, ~outside])
    assert mask.dtype == bool
    assert mask.any()
    assert not mask[outside].any()


def test_whole_numbers_are_rounded_and_kept_in_range(plan):
    scan = replace(make_scan(dtype=np.int16, fill=10), limits=np.array([[-1e6, 1e6]], np.float32))
    window, request = cut(scan, BOX, plan)
    middle = tuple((a + b) // 2 for a, b in zip(BOX.start, BOX.stop, strict=True))
    for value, expected in ((20.6, 21), (-20.6, -21), (1e6, 32767), (-1e6, -32768)):
        image, _ = paste_window(scan, window, request, painted(request, value), plan, False)
        assert image[(0, *middle)] == expected


@pytest.mark.parametrize("keeps", [False, True])
def test_nothing_comes_below_the_clip_window_but_where_the_host_is(plan, keeps):
    """Noise and interpolation end below 0 otherwise, where no PET does."""
    scan = make_scan()
    window, request = cut(scan, BOX, plan)
    noise = np.random.default_rng(1).normal(0, 5, request.image.shape).astype(np.float32)
    made = replace(painted(request), image=noise)
    assert paste_window(scan, window, request, made, plan, keeps)[0].min() == 0
    deep = replace(scan, image=scan.image - 5)
    after = paste_window(deep, *cut(deep, BOX, plan), made, plan, keeps)[0]
    assert (after >= np.minimum(deep.image, 0)).all()
    assert after[(0, *BOX.slices)].min() < -1


def test_an_unchanged_window_changes_little_or_nothing(plan):
    """A method that keeps the background puts back the very same scan: no detail is lost to the working grid."""
    scan = make_scan()
    window, request = cut(scan, BOX, plan)
    image, _ = paste_window(scan, window, request, painted(request), plan, True)
    np.testing.assert_allclose(image, scan.image, atol=1e-6)
    redrawn, _ = paste_window(scan, window, request, painted(request), plan, False)
    assert np.abs(redrawn - scan.image).max() > 0.1  # which is what the other way cannot do


def test_the_host_shows_where_it_is_kept_and_nowhere_else(plan):
    """Near a newly painted tumor no detail of the host is left; where the host is kept, all of it is."""
    scan = make_scan()
    window, request = cut(scan, BOX, plan)
    share = np.zeros(request.image.shape[1:], np.float32)
    share[share.shape[0] // 2 :] = 1
    image, _ = paste_window(scan, window, request, replace(painted(request), kept=share), plan, True)
    whole, none = (paste_window(scan, window, request, painted(request), plan, keeps)[0] for keeps in (True, False))
    third = (BOX.stop[0] - BOX.start[0]) // 3
    first, last = slice(BOX.start[0], BOX.start[0] + third), slice(BOX.stop[0] - third, BOX.stop[0])
    np.testing.assert_allclose(image[:, last], whole[:, last], atol=1e-6)
    np.testing.assert_allclose(image[:, first], none[:, first], atol=1e-6)
    assert np.abs(none[:, first] - whole[:, first]).max() > 0.1


def test_masks_lie_where_the_picture_is_mostly_synthetic(plan):
    scan = make_scan()
    window, request = cut(scan, BOX, plan)
    _, mask = paste_window(scan, window, request, painted(request, 9.0), plan, False)
    weight = feather(BOX, scan.grid, plan.paste.feather_mm)
    assert (weight[mask[BOX.slices]] >= 0.5).all()
    assert mask[BOX.slices][weight > 0.99].all()
    _, none = paste_window(scan, window, request, painted(request, 9.0, mask=0.3), plan, False)
    assert not none.any()


def test_a_mask_comes_back_where_it_was(plan):
    """A ball on the working grid keeps its place and its volume in mm."""
    scan = make_scan()
    box = Box((14, 12, 5), (46, 40, 25))
    window, request = cut(scan, box, plan)
    center = np.array(request.box.center)
    index = np.stack(np.meshgrid(*map(np.arange, (32, 32, 32)), indexing="ij"), -1) + 0.5
    ball = np.clip(5.5 - np.linalg.norm(index - center, axis=-1), 0, 1).astype(np.float32)  # radius 5 voxels of 4 mm
    _, mask = paste_window(scan, window, request, replace(painted(request, 9.0), mask=ball), plan, False)
    assert mask.sum() * scan.grid.voxel_ml == pytest.approx(4 / 3 * np.pi * 2.0**3, rel=0.08)

    def place(grid, at):
        return np.array(grid.origin_mm) + np.array(grid.direction).reshape(3, 3) @ (np.array(at) * grid.spacing_mm)

    np.testing.assert_allclose(place(scan.grid, np.argwhere(mask).mean(0)), place(window.grid, center - 0.5), atol=1.0)


def test_reading_a_host(plan, tmp_path, grid):
    array = np.random.default_rng(0).normal(5, 1, grid.shape).astype(np.float32)
    write_volume(tmp_path / "h_0000.nii.gz", array, grid)
    write_volume(tmp_path / "l.nii.gz", (array > 6).astype(np.uint8), grid)
    scan = read_scan("h", (tmp_path / "h_0000.nii.gz",), tmp_path / "l.nii.gz", plan)
    np.testing.assert_array_equal(scan.image[0], array)
    np.testing.assert_array_equal(scan.labels, array > 6)
    np.testing.assert_allclose(scan.limits, [(c.low, c.high) for c in plan.channels], rtol=1e-6)

    write_volume(tmp_path / "l.nii.gz", (array > 6).astype(np.uint8), Grid(grid.shape, grid.spacing_mm))
    with pytest.raises(DataError, match=r"l\.nii\.gz"):
        read_scan("h", (tmp_path / "h_0000.nii.gz",), tmp_path / "l.nii.gz", plan)
    for bad in (
        np.full(grid.shape, 3.0, np.float32),
        np.where(array > 6, np.nan, array),
        np.where(array > 6, np.inf, array),
    ):
        write_volume(tmp_path / "h_0000.nii.gz", bad.astype(np.float32), grid)
        with pytest.raises(DataError, match=r"h_0000\.nii\.gz"):
            read_scan("h", (tmp_path / "h_0000.nii.gz",), None, plan)


def test_regions(plan, monkeypatch):
    scan = make_scan()
    roi = np.zeros(scan.grid.shape, bool)
    roi[10:20, 10:20, 10:20] = True
    for voxels, stride in ((4_000_000, 1), (12_000, 2)):
        monkeypatch.setattr(data_body, "_VOXELS", voxels)
        placing = places.Placing(scan, Source("h", ()), plan, (), None, roi)
        assert placing.stride == stride
        np.testing.assert_array_equal(placing.allowed, roi[::stride, ::stride, ::stride])


@pytest.mark.slow
def test_a_whole_body_scan_stays_within_8_gib(plan):
    """512×512×400 int16: cut, paint, paste; resident memory is watched throughout."""

    def resident_gib():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**30

    image = np.zeros((1, 512, 512, 400), np.int16)
    image[0, 150:350, 180:330, 50:350] = 60
    scan = replace(
        make_scan(Grid((2, 2, 2), (1.0, 1.0, 1.0))), image=image, grid=Grid((512, 512, 400), (0.98, 0.98, 2.0))
    )
    box = Box((220, 230, 180), (290, 290, 220))
    gc.collect()
    before, peak, done = resident_gib(), [0.0], threading.Event()

    def watch():
        while not done.wait(0.005):
            peak[0] = max(peak[0], resident_gib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        assert places.Placing(scan, Source("h", ()), plan, (), None).body.any()
        window, request = cut(scan, box, plan)
        painted_image, mask = paste_window(scan, window, request, painted(request, 200.0), plan, True)
    finally:
        done.set()
        watcher.join()
    assert mask.any()
    assert painted_image.dtype == np.int16
    assert 0 < peak[0] - before < 8


def test_every_channel_keeps_its_own_type(plan, tmp_path):
    """CT in whole numbers first, PET behind it: no SUV is rounded, and no HU gets a fraction."""
    grid = Grid((40, 40, 30), (3.0, 3.0, 3.0))
    rng = np.random.default_rng(0)
    ct, pet = (
        (100 * rng.normal(size=grid.shape)).astype(np.int16),
        np.abs(rng.normal(size=grid.shape)).astype(np.float32),
    )
    files = tuple(tmp_path / f"host_{i:04d}.nii.gz" for i in range(2))
    for path, array in zip(files, (ct, pet), strict=True):
        write_volume(path, array, grid)
    plan = replace(plan, channels=plan.channels * 2)
    scan = read_scan("host", files, None, plan)
    assert scan.dtypes == (np.int16, np.float32)
    np.testing.assert_array_equal(scan.image[0], ct)
    np.testing.assert_array_equal(scan.image[1], pet)
    box = Box((8, 8, 8), (28, 28, 24))
    window, request = cut(scan, box, plan)
    image, _ = paste_window(scan, window, request, painted(request, 7.3), plan, False)
    assert np.array_equal(image[0], np.rint(image[0]))
    assert image[1][box.slices].max() == pytest.approx(7.3)
