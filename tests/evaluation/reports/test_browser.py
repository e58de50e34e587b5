"""The page in a real browser: offline, by keyboard, narrow and wide, with and without WebGL2; the mask where it is."""

import base64
import gzip
import re

import numpy as np
import pytest
from support.browser import CHROMIUM, NO_GL, SOFTWARE_GL, browser
from support.report_pages import GRID, drawn_tumor, write_page
from support.scores import make_scores

from tumorgen_cli.data.volumes import write_volume
from tumorgen_cli.evaluation.comparison import COLUMNS, Comparison, MethodEntry, Table, Value
from tumorgen_cli.evaluation.reports import comparison as comparison_page
from tumorgen_cli.methods.registry import METHODS

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH")
DICES = [0.5, 0.9, 0.1, 0.7, 0.8]
BY_DICE = ["pair1", "pair4", "pair3", "pair0", "pair2"]
CURRENT = "browser.current()"
VISIBLE = "[...document.querySelectorAll('#pairs .pair')].filter((e) => !e.hidden).map((e) => e.dataset.case)"
STAGE = "document.querySelector('#stage {}')"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The address of a page with five pairs; the first three have crops, the fourth has no host."""
    path = tmp_path_factory.mktemp("browser") / "report.html"
    write_page(path, make_scores(DICES))
    return path


@pytest.fixture(scope="module")
def chromium():
    with browser(*SOFTWARE_GL) as tab:
        yield tab


@pytest.fixture(scope="module")
def opened(chromium, page):
    """The page, opened once for the tests that change nothing in it; they come before those that do."""
    chromium.open(page)
    return chromium


def test_nothing_scrolls_sideways(opened):
    for width in (700, 1000, 1280):
        opened.resize(width)
        assert opened.run("document.documentElement.scrollWidth") == width
        wide = (
            "[...document.querySelectorAll('body *')].filter((e) => e.scrollWidth > e.clientWidth + 1 && "
            "e.clientWidth && getComputedStyle(e).overflowX !== 'visible').map((e) => e.tagName + e.id)"
        )
        assert opened.run(wide) == []


def test_print_shows_all_pairs_without_controls(opened):
    opened.call("Emulation.setEmulatedMedia", media="print")
    try:
        displays = opened.run(
            "['#tools', '#stage', '.file'].map((s) => getComputedStyle(document.querySelector(s)).display)"
        )
        assert displays == ["none"] * 3
        assert opened.run("getComputedStyle(document.querySelector('#pairs .plane:last-child')).display") == "block"
        assert opened.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    finally:
        opened.call("Emulation.setEmulatedMedia", media="")


def contrast(one, other):
    """The contrast of two colors, as WCAG defines it."""

    def luminance(color):
        parts = np.array([int(v) for v in re.findall(r"\d+", color)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return linear @ (0.2126, 0.7152, 0.0722)

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(opened, scheme):
    opened.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    script = (
        "['body', '.soft', '.verdict b', '.big b', 'th', 'a', 'dt'].map((s) => {let e = document.querySelector(s); "
        "const color = getComputedStyle(e).color; let back; do { back = getComputedStyle(e).backgroundColor; "
        "e = e.parentElement } while (e && back === 'rgba(0, 0, 0, 0)'); return [s, color, back]})"
    )
    for name, color, back in opened.run(script):
        assert contrast(color, back) >= 4.5, (name, color, back)
    opened.call("Emulation.setEmulatedMedia", features=[])


@pytest.fixture
def tab(chromium, page):
    """The page, freshly opened; it has no error in the end and never asked for another file."""
    chromium.console.clear()
    chromium.requests.clear()
    chromium.open(page)
    yield chromium
    assert chromium.console == []
    assert {url.split(":")[0] for url in chromium.requests} <= {"file", "data", "blob"}
    assert sum(url.startswith("file:") for url in chromium.requests) == 1


def test_keys_move_and_switch(tab):
    assert tab.run(VISIBLE) == BY_DICE
    assert tab.run(CURRENT) == "pair1"
    tab.press("ArrowRight", "ArrowRight")
    assert tab.run(CURRENT) == "pair3"
    tab.press("ArrowLeft")
    assert tab.run(f"{STAGE.format('.pair')}.dataset.case") == "pair4"
    tab.press("ArrowLeft", "ArrowLeft", "ArrowLeft")
    assert tab.run(CURRENT) == "pair1"  # the first stays
    for key, before, mask in (("b", "visible", "none"), ("a", "hidden", "none"), ("m", "hidden", "inline")):
        tab.press(key)
        assert tab.run(f"getComputedStyle({STAGE.format('image.before')}).visibility") == before
        assert tab.run(f"getComputedStyle({STAGE.format('path.mask')}).display") == mask
    tab.run("document.querySelector('#pairs .pair[data-case=pair2]').focus()")
    tab.press("Enter")
    assert tab.run(CURRENT) == "pair2"
    tab.run("document.querySelector('[name=size]').focus()")
    tab.press("b")  # keys of a form's fields are theirs
    assert tab.run("document.getElementById('pairs').dataset.show") == "mask"


def test_a_host_that_is_not_known_is_said_to_be(tab):
    tab.run("browser.select(document.querySelector('#pairs .pair[data-case=pair3]'))")
    said = f"getComputedStyle({STAGE.format('.unknown')}).display"
    assert tab.run(said) == "none"
    tab.press("b")
    assert tab.run(said) == "block"


def test_filters_and_order(tab):
    def choose(name, value):
        tab.run(
            f"(() => {{ const e = document.querySelector('[name={name}]'); e.value = '{value}'; "
            "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
        )

    choose("low", 0.6)
    assert tab.run(VISIBLE) == ["pair1", "pair4", "pair3"]
    assert tab.run("document.getElementById('count').textContent") == "3 of 5 shown"
    choose("high", 0.85)
    assert tab.run(VISIBLE) == ["pair4", "pair3"]
    assert tab.run(CURRENT) == "pair4"  # the one that was shown is gone
    choose("low", 0)
    choose("high", 1)
    choose("order", "case")
    assert tab.run(VISIBLE) == sorted(BY_DICE)
    choose("kind", "3d")
    assert tab.run(VISIBLE) == ["pair0", "pair1", "pair2"]
    choose("kind", "")
    choose("size", "large")
    sizes = tab.run(
        "[...document.querySelectorAll('#pairs .pair')].filter((e) => !e.hidden).map((e) => e.dataset.size)"
    )
    assert set(sizes) <= {"large"}


def picture(tab):
    """What the canvas of the viewer shows, as an array (rows, columns, 3)."""
    script = (
        "(() => {const nv = viewer.state.niivue; nv.setCrosshairWidth(0); nv.drawScene(); const gl = nv.gl; "
        "const {width, height} = gl.canvas; const a = new Uint8Array(width * height * 4); "
        "gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, a); let s = ''; "
        "for (let i = 0; i < a.length; i += 4) s += String.fromCharCode(a[i], a[i+1], a[i+2]); "
        "return [width, height, btoa(s)];})()"
    )
    width, height, content = tab.run(script)
    return np.frombuffer(base64.b64decode(content), np.uint8).reshape(height, width, 3)[::-1].astype(int)


def mm_of(voxel):
    """Where a voxel lies, in the coordinates of NIfTI."""
    lps = np.array(GRID.origin_mm) + np.reshape(GRID.direction, (3, 3)) @ (np.array(GRID.spacing_mm) * voxel)
    return lps * (-1, -1, 1)


def test_the_viewer_shows_the_mask_where_it_is(tab):
    """In the axial plane the red pixels fill the place of the mask; before painting nothing bright is there."""
    lowest, highest = (find(np.argwhere(drawn_tumor(1)[1]), axis=0) for find in (np.min, np.max))
    tab.resize(700)
    tab.run("document.getElementById('layout').value = 0")  # axial
    tab.press("v")
    tab.wait("viewer.state.niivue && viewer.state.niivue.volumes.length === 2")
    middle = mm_of((lowest + highest) / 2)
    crosshair = tab.run("[...viewer.state.niivue.frac2mm(viewer.state.niivue.scene.crosshairPos)].slice(0, 3)")
    assert crosshair == pytest.approx(middle, abs=max(GRID.spacing_mm))
    corners = []
    for corner in (lowest - 0.5, highest + 0.5):
        x, y, _ = mm_of(corner)
        corners.append(
            tab.run(f"viewer.state.niivue.frac2canvasPos(viewer.state.niivue.mm2frac([{x}, {y}, {middle[2]}]))")
        )
    (left, right), (top, bottom) = np.sort(np.array(corners), axis=0).T
    voxel = (right - left) / (highest - lowest + 1)[0]
    shown = picture(tab)
    red = (shown[..., 0] - shown[..., 1] > 60) & (shown[..., 0] - shown[..., 2] > 60)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert [columns[0], columns[-1], rows[0], rows[-1]] == pytest.approx([left, right, top, bottom], abs=voxel)
    tab.press("a")
    tab.wait("viewer.state.niivue.volumes.length === 1")
    inside = np.s_[round(top + voxel) : round(bottom - voxel), round(left + voxel) : round(right - voxel)]
    assert picture(tab)[inside].min() > 200  # 6 of the 7 that are white
    tab.press("b")
    before = tab.wait("viewer.state.niivue.volumes[0] === viewer.state.before && 1")
    assert before
    assert picture(tab)[inside].max() < 70  # 1.5 at most
    tab.press("Escape")
    assert tab.run("document.getElementById('viewer').hidden")


def test_a_pair_without_a_crop_says_how_to_open_it(tab):
    tab.run("browser.select(document.querySelector('#pairs .pair[data-case=pair4]'))")
    tab.press("v")
    assert "Open written volumes" in tab.wait("document.getElementById('status').textContent")


def test_written_volumes_open(tab, tmp_path):
    """An image and its label of a pair, as nnU-Net names them; of the labels only those of tumors are shown."""
    scan = np.random.default_rng(0).normal(size=GRID.shape).astype(np.float32)
    labels = np.zeros(GRID.shape, np.uint8)
    labels[20:24, 10:15, 7:9], labels[25, 10:15, 7], labels[:5] = 1, 3, 2
    image, label = tmp_path / "a_0000.nii.gz", tmp_path / "a.nii.gz"
    write_volume(image, scan, GRID)
    write_volume(label, labels, GRID)
    tab.run("document.getElementById('layout').value = 0")
    tab.choose_files("#volumes", [label, image])
    tab.wait("viewer.state.niivue && viewer.state.niivue.volumes.length === 2")
    assert tab.run("viewer.state.niivue.volumes[0].dims.slice(1)") == list(GRID.shape)
    assert tab.run("viewer.state.mask.img.reduce((a, b) => a + b, 0)") == (labels % 2).sum()
    assert tab.run("document.getElementById('viewed').textContent") == "a_0000.nii.gz"
    broken = tmp_path / "b_0000.nii.gz"
    broken.write_bytes(gzip.compress(b"no image"))
    tab.choose_files("#volumes", [broken])
    assert "cannot be shown" in tab.wait("document.getElementById('status').textContent")
    tab.console.clear()


def test_without_webgl_the_page_says_so_and_keeps_the_pictures(page):
    with browser(*NO_GL) as tab:
        tab.open(page)
        assert "no WebGL2" in tab.run("document.getElementById('status').textContent")
        assert tab.run("getComputedStyle(document.querySelector('[data-key=v]')).display") == "none"
        tab.press("ArrowRight")
        assert tab.run(CURRENT) == "pair4"
        assert tab.run("document.querySelectorAll('#stage svg').length") == 3
        tab.press("v")
        assert tab.run("document.getElementById('viewer').hidden")
        assert tab.console == []


def test_a_comparison_of_nine_methods_is_as_narrow_as_the_page(chromium, tmp_path):
    values = {column.key: Value(0.1234, 0.1, 0.2, note="of only 3 against 5 slices") for column in COLUMNS}
    entries = tuple(MethodEntry(method, "", "", values) for method in METHODS)
    table = Table("healthy_scans", 10, 10, values, entries, {"dice": "tumorgen"})
    comparison = Comparison("nine", "Dataset001", "p", 0, "the plan", "PET", "", "lite0", False, 5.0, {}, (table,))
    comparison_page.write_page(tmp_path / "comparison.html", comparison, {}, {})
    chromium.console.clear()
    chromium.open(tmp_path / "comparison.html", 700)
    for width in (700, 1280):
        chromium.resize(width)
        assert chromium.run("document.documentElement.scrollWidth") == width
    assert "clearly best in 1 of" in chromium.run("document.getElementById('verdict').textContent")
    assert chromium.run("document.querySelectorAll('.best').length") == 1
    assert chromium.console == []
