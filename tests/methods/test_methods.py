"""The contract, over every method; and of TumorGen, every switch of the paper's Table 2."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage
from support.requests import make_request, opened
from support.workspaces import plan_toy, sampling_with

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.geometry import Box, Grid, tight_box
from tumorgen_cli.methods.base import INITIAL, Method, Request, Sampling, Synthetic
from tumorgen_cli.methods.difftumor import nearest_mask
from tumorgen_cli.methods.latent import autoencoder
from tumorgen_cli.methods.latent.autoencoder import upsample_mask
from tumorgen_cli.methods.latent.canvas import open_canvas
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.methods.tumorgen import method as method_module
from tumorgen_cli.methods.tumorgen.method import TumorGen
from tumorgen_cli.metrics.traits import describe_traits
from tumorgen_cli.pipeline import preprocess, train
from tumorgen_cli.pipeline.status import status
from tumorgen_cli.pipeline.train import train_stage, train_stages
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.preprocessing.intensity import channel_units, scale
from tumorgen_cli.synthesis.window import lay_window
from tumorgen_cli.system.errors import DataError, PlanError, StateError
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.training import loop
from tumorgen_cli.training.checkpoints import load_weights


@pytest.fixture(scope="module", params=METHODS)
def method(request, trained):
    return opened(request.param, trained)[0]


OTHER_BOXES = [
    Box((0, 0, 0), (10, 12, 8)),  # in a corner
    Box((20, 19, 22), (32, 32, 32)),
    Box((15, 15, 15), (17, 17, 17)),  # smaller than any tumor
    Box((10, 15, 10), (11, 16, 22)),  # a voxel thin
    Box((2, 2, 2), (30, 30, 30)),  # nearly the window
]


def same(a, b):
    return np.array_equal(a.image, b.image) and np.array_equal(a.mask, b.mask)


def check(request, made, limits):
    """Shapes, types, ranges, that nothing outside the box is touched, and that the tumor lies in its place."""
    outside = np.ones(request.image.shape[1:], bool)
    outside[request.box.slices] = False
    assert made.image.shape == request.image.shape
    assert made.mask.shape == request.image.shape[1:]
    assert made.image.dtype == np.float32
    assert made.mask.dtype.kind == "f"
    assert np.isfinite(made.image).all()
    np.testing.assert_array_equal(made.image[:, outside], request.image[:, outside])
    assert made.mask.min() >= 0
    assert made.mask.max() <= 1
    outside[request.box.slices] = True
    outside[request.place.slices] = False
    assert not made.mask[outside].any()
    low, high = limits[0]
    assert made.image.min() >= min(low, request.image.min()) - high  # the scan's own units: neither [-1, 1] nor percent
    assert made.image.max() <= 3 * high
    json.dumps(dict(made.drawn))


def test_names():
    for name in METHODS:
        found = find_method(name)
        assert issubclass(found, Method)
        assert found.name == name
        assert len(found.SOURCE) > 40
    with pytest.raises(PlanError, match="did you mean copypaste"):
        find_method("copypast")


def test_the_request_is_not_changed_and_the_answer_is_valid(method, trained):
    request = make_request(trained)
    before = request.image.copy()
    made = method.synthesize(request, 1, Sampling())
    np.testing.assert_array_equal(request.image, before)
    assert not np.shares_memory(made.image, request.image)
    check(request, made, request.limits)
    draws = (
        method.synthesize(request, seed, Sampling()) for seed in range(1, 9)
    )  # an empty one of barely trained networks changes nothing
    assert any(not np.array_equal(each.image, request.image) for each in draws)


@pytest.mark.parametrize("box", OTHER_BOXES, ids=str)
def test_any_box(method, trained, box):
    request = make_request(trained, box)
    check(request, method.synthesize(request, 2, Sampling(steps=1)), request.limits)


def test_a_window_that_has_grown(method, trained):
    request = make_request(trained, Box((3, 5, 5), (44, 28, 28)), (48, 32, 32), (-4, 2, 1))
    check(request, method.synthesize(request, 3, Sampling(steps=1)), request.limits)


def test_same_seed_same_bits(method, trained):
    request = make_request(trained)
    first = method.synthesize(request, 11, Sampling())
    method.synthesize(request, 12, Sampling())
    torch.rand(3), np.random.random(3)  # nobody else's draws matter
    assert same(first, method.synthesize(request, 11, Sampling()))
    assert not same(first, method.synthesize(request, 12, Sampling()))


def test_a_new_instance_after_load_gives_the_same(method, trained):
    request = make_request(trained)
    again, hashes = opened(method.name, trained)
    assert same(method.synthesize(request, 5, Sampling()), again.synthesize(request, 5, Sampling()))
    assert hashes == opened(method.name, trained)[1]


def test_methods_ask_for_what_they_need(trained, tmp_path):
    """Without trained stages or cases `load` says what to do, and never goes on."""
    bare = Workspace(tmp_path)
    for path in (trained.plan_file, trained.fingerprint_file, trained.splits_file):
        shutil.copy(path, tmp_path)
    with pytest.raises(StateError, match="tumorgen train vae"):
        opened("tumorgen", bare)
    with pytest.raises(StateError, match="tumorgen preprocess"):
        opened("copypaste", bare)


def test_a_pasted_tumor_is_a_real_one(trained):
    """The mask has a training tumor's shape (mirrored at most); it is never the redrawn case's own."""
    method, _ = opened("copypaste", trained)
    shapes = {}
    for case, component in method.donors:
        body = np.asarray(case.tumors[component.box.slices] == component.number)
        shapes.setdefault(case.record.case, set()).update(
            np.flip(body, [a for a in range(3) if flips >> a & 1]).tobytes() for flips in range(8)
        )
    whole = make_request(trained, Box((4, 4, 4), (28, 28, 28)))
    donors = set()
    for seed in range(12):
        made = method.synthesize(whole, seed, Sampling())
        donors.add(made.drawn["donor"])
        assert set(np.unique(made.mask)) == {0, 1}
        assert (made.mask[tight_box(made.mask > 0).slices] > 0).tobytes() in shapes[made.drawn["donor"]]
    assert len(donors) > 1
    own = next(iter(donors))
    redraw = replace(whole, case=own)
    assert all(method.synthesize(redraw, seed, Sampling()).drawn["donor"] != own for seed in range(12))


@pytest.mark.parametrize("body", ["thin", "solid"])
def test_a_tumor_larger_than_its_place_is_shrunk_and_never_lost(workspace, body):
    """Even to one voxel, wherever it lies in its scan, and where it is two thin shells with nothing between."""
    method, rng = opened("copypaste", workspace)[0], np.random.default_rng(0)
    for shape in ((1, 6, 6), (6, 1, 4), (1, 1, 1), (5, 4, 3)):
        for _ in range(20):
            size, start = rng.integers(6, 20, 3), rng.integers(0, 12, 3)
            mask = np.zeros(start + size + rng.integers(0, 12, 3), bool)
            mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
            if body == "thin":
                mask[start[0] + 1 : start[0] + size[0] - 1] = False
            request = make_request(workspace, Box((9, 9, 9), tuple(9 + n for n in shape)))
            image, share, others = method._fit(
                np.where(mask, 5.0, 1.0)[None], mask, mask, replace(request, place=request.box)
            )
            assert image.shape[1:] == share.shape == others.shape
            assert all(n <= m for n, m in zip(tight_box(share).shape, shape, strict=True))
            assert image[0, share].mean() > 1.02  # it is where the tumor's picture is
            if body == "solid":
                assert tight_box(share).shape == shape
                np.testing.assert_array_equal(share, others)


def test_a_tumor_is_not_its_own_donor(workspace):
    method, _ = opened("copypaste", workspace)
    case = method.donors[0][0].record.case
    method.donors = [donor for donor in method.donors if donor[0].record.case == case]
    with pytest.raises(DataError, match="no other training case with a tumor"):
        method.synthesize(make_request(workspace, case=case), 0, Sampling())


def test_syntumors_contrast_is_the_data_sets(trained):
    """In an even host the tumor is brighter by a contrast of the fingerprint's range."""
    method, _ = opened("syntumor", trained)
    (low, high) = method.config.contrast[0]
    flat = np.full((1, 32, 32, 32), 2.0, np.float32)
    for seed in range(6):
        request = replace(make_request(trained, Box((6, 6, 6), (26, 26, 26))), image=flat)
        made = method.synthesize(request, seed, Sampling())
        (contrast,) = made.drawn["contrast"]
        assert low <= contrast <= high
        core = made.mask > 0.99
        assert float(made.image[0][core].mean()) - 2 == pytest.approx(contrast, rel=0.35)


@pytest.fixture(scope="module")
def units_of_their_own(workspace, tmp_path_factory):
    """As `workspace`, with a second channel, MR: the first one's picture, in which every case has a unit of its own."""
    folder = tmp_path_factory.mktemp("units")
    data = folder / "Dataset998_Two"
    shutil.copytree(workspace.plan().dataset_path, data)
    about = json.loads((data / "dataset.json").read_text())
    write_json(data / "dataset.json", {**about, "channel_names": {"0": "PET", "1": "MR"}})
    for number, path in enumerate(sorted((data / "imagesTr").iterdir())):
        image, grid = read_volume(path)
        write_volume(path.with_name(path.name.replace("_0000", "_0001")), (image + 7) * np.float32(10.0**number), grid)
    found = Workspace(folder / "work")
    plan_toy(found, str(data))
    preprocess.preprocess_dataset(found, workers=0)
    return found


@pytest.mark.parametrize("name", ["copypaste", "syntumor"])
def test_a_tumor_comes_in_the_units_of_its_host(units_of_their_own, workspace, name):
    """Of two channels that show the same, one in units of each scan's own, the same is painted; in CT and PET nothing is different."""
    method, plain = opened(name, units_of_their_own)[0], opened(name, workspace)[0]
    request = make_request(units_of_their_own, Box((4, 4, 4), (28, 28, 28)))
    only = replace(request, image=request.image[:1], limits=request.limits[:1])
    for seed in range(4):
        made, alone = method.synthesize(request, seed, Sampling()), plain.synthesize(only, seed, Sampling())
        np.testing.assert_array_equal(made.image[0], alone.image[0])
        assert made.drawn.get("donor") == alone.drawn.get("donor")
        change = (made.image - request.image)[:, made.mask > 0.5].mean(axis=1) / channel_units(
            method.plan.channels, request.limits
        )[:, 1]
        assert 0.05 < change[1] < 3, change  # whatever the donor's unit


PREVIEWS = [
    ("tumorgen", "_preview"),
    ("blended", "_preview"),
    ("difftumor", "_preview"),
    ("freetumor", "_segmentor_preview"),
    ("freetumor", "_gan_preview"),
    ("tumorgen", "vae"),
]


@pytest.mark.parametrize(("name", "preview"), PREVIEWS)
def test_previews_show_the_main_channel(units_of_their_own, monkeypatch, tmp_path, name, preview):
    shown = []
    for main in (0, 1):
        plan = replace(units_of_their_own.plan(), main_channel=main)
        method = find_method(name)(plan, units_of_their_own)
        torch.manual_seed(0)
        if name == "tumorgen":
            method.condition.learn(np.random.default_rng(0).random((5, 6), np.float32), np.full((5, 3), 30.0))
        draw = getattr(method, preview)
        if preview == "vae":
            cases = [load_case(units_of_their_own.cases / case) for case in units_of_their_own.splits().test]
            draw = autoencoder.reconstruction_preview(method.vae, cases, plan, "cpu")
        for module in (sys.modules[type(method).__module__], autoencoder):
            monkeypatch.setattr(
                module, "save_grid_preview", lambda path, rows, names, columns, low, high: shown.append((rows, columns))
            )
        with torch.no_grad():
            if name == "freetumor":
                for weight in method.generator.parameters():
                    weight += 0.1  # untrained it changes nothing
            draw(tmp_path / "preview.png")
    (first, columns), (second, _) = shown
    for before, after in zip(first, second, strict=True):
        for title, a, b in zip(columns, before, after, strict=True):
            assert np.array_equal(a, b) == ("mask" in title or title == "segmentor"), title


def test_a_kind_is_one_of_the_main_channel(units_of_their_own):
    """Told by what is drawn for --kind: of tumors that are ever brighter in one channel and ever fainter in the other."""
    known = np.random.default_rng(0).random((5, 6), np.float32)
    known[:, 0], known[:, 3] = np.arange(1, 6), np.arange(5, 0, -1)
    for main, (brightest, faintest) in enumerate(((5, 1), (1, 5))):
        method = TumorGen(replace(units_of_their_own.plan(), main_channel=main), units_of_their_own)
        method.condition.learn(known, np.full((5, 3), 30.0))
        drawn = [method._character(Box((2, 2, 2), (4, 4, 4)), seed, "low-contrast")[0] for seed in range(20)]
        assert set(drawn) == {faintest}
        assert brightest in [method._character(Box((2, 2, 2), (4, 4, 4)), seed)[0] for seed in range(40)]


@pytest.fixture(scope="module")
def bright(tmp_path_factory):
    """Even bodies of 1 in air as MR of any gain, with tumors of 2 % of the scan that are 1.5, 2, ... times as bright."""
    folder = tmp_path_factory.mktemp("bright")
    data, grid = folder / "Dataset997_Bright", Grid((32, 32, 32), (4.0, 4.0, 4.0))
    places = np.indices(grid.shape) - 15.5
    body, tumor = np.abs(places).max(0) < 13, np.square(places).sum(0) < 5.4**2
    for number in range(6):
        image = 10.0**number * (body + tumor * (0.5 + 0.5 * number))
        write_volume(data / "imagesTr" / f"c{number}_0000.nii.gz", image.astype(np.float32), grid)
        write_volume(data / "labelsTr" / f"c{number}.nii.gz", tumor.astype(np.uint8), grid)
    about = {
        "channel_names": {"0": "T1"},
        "labels": {"background": 0, "tumor": 1},
        "numTraining": 6,
        "file_ending": ".nii.gz",
    }
    write_json(data / "dataset.json", about)
    found = Workspace(folder / "work")
    plan_toy(found, str(data))
    preprocess.preprocess_dataset(found, workers=0)
    return found


def test_bright_tumors_are_measured_in_units_of_what_lies_around_them(bright):
    """They neither set the unit nor saturate."""
    plan = bright.plan()
    (channel,) = plan.channels
    assert (channel.scheme, channel.low, channel.high) == (
        "own",
        0,
        pytest.approx(4, rel=0.01),
    )  # the brightest tumor, of a held-out case or not
    for number, facts in enumerate(bright.fingerprint().cases):
        assert facts.tumors[0].mean[0] == pytest.approx(1.5 + 0.5 * number, rel=0.01)
        case = load_case(bright.cases / facts.case)
        np.testing.assert_allclose(channel_units(plan.channels, case.record.limits), [[0, 10.0**number]], rtol=0.01, atol=1e-6)
        seen = scale(np.asarray(case.image), plan.channels, np.array(case.record.limits))
        assert seen[0, 16, 16, 16] == pytest.approx(-0.25 + 0.25 * number, abs=0.02)
    assert np.allclose(
        plan.methods["syntumor"]["contrast"], np.percentile([0.5, 1, 1.5, 2, 3], (10, 90)), rtol=0.05
    )  # the fifth case is held out


@pytest.mark.parametrize("name", ["copypaste", "syntumor"])
def test_a_contrast_is_painted_as_it_was_measured(bright, name):
    method, _ = opened(name, bright)
    host = np.full((1, 32, 32, 32), 70.0, np.float32)
    limits = np.array([[0.0, 70 * method.plan.channels[0].high]], np.float32)
    request = Request(
        host, Box((4, 4, 4), (28, 28, 28)), Box((6, 6, 6), (26, 26, 26)), limits, method.plan.window.spacing_mm
    )
    for seed in range(4):
        made = method.synthesize(request, seed, Sampling())
        found = (made.image[0] - 70)[ndimage.binary_erosion(made.mask > 0.9, iterations=2)].mean() / 70
        asked = made.drawn["contrast"][0] / 70 if name == "syntumor" else 0.5 + 0.5 * int(made.drawn["donor"][1:])
        assert 0.5 <= asked <= 3
        assert found == pytest.approx(asked, rel=0.3 if name == "syntumor" else 0.05)


def columns(workspace, stage):
    with (workspace.run("tumorgen", stage) / "log.csv").open() as stream:
        return set(next(csv.reader(stream)))


@pytest.fixture
def replanned(trained, tmp_path, monkeypatch):
    """(settings) -> a copy of the trained workspace, planned anew with other settings; its VAE is kept."""
    monkeypatch.setattr(TumorGen, "_preview", lambda self, path: None)  # seen in `trained` already

    def make(*settings):
        found = Workspace(tmp_path / "work")
        shutil.copytree(trained.root, found.root)
        plan_toy(found, trained.plan().dataset_path, *settings)
        assert found.plan().hash != trained.plan().hash
        return found

    return make


ABLATIONS = [
    ["flow.bapmg=false"],
    ["flow.coarse_weight=0"],
    ["flow.fine_weight=0"],
    ["refiner.enabled=false"],
    ["refiner.joint=true"],
    ["refiner.guided=false"],
    ["flow.character=false"],
    ["flow.box_channel=true", "flow.time_schedule=logit-normal", "sampling.solver=heun"],
]


@pytest.mark.parametrize("changes", ABLATIONS, ids=lambda c: c[0])
def test_every_switch_trains_and_synthesizes(replanned, trained, changes):
    workspace = replanned(*(f"methods.tumorgen.{change}" for change in changes))
    (method, plan) = (find_method("tumorgen")(workspace.plan(), workspace), workspace.plan())
    assert method.trained("vae")
    folder = workspace.run("tumorgen", "refiner")
    shutil.rmtree(folder)
    if not any(c.startswith("refiner") for c in changes) or "refiner.joint=true" in changes:
        assert not method.trained("flow")
        with pytest.raises(StateError, match="--restart"):
            train_stage(workspace, "tumorgen", "flow", 2, "cpu")
        train_stage(workspace, "tumorgen", "flow", 2, "cpu", restart=True)
    train_stages(workspace, "tumorgen", "all", 2, "cpu")
    assert all(method.trained(stage) for stage in method.stages)

    separate = method.config.refiner.enabled and not method.config.refiner.joint
    assert (folder / "run.json").is_file() == separate
    terms = columns(workspace, "flow")
    assert ("coarse" in terms) == bool(method.config.flow.coarse_weight)
    assert ("fine" in terms) == bool(method.config.flow.fine_weight)
    assert ("rec" in terms) == method.config.refiner.joint
    loaded, hashes = opened("tumorgen", workspace)
    assert set(hashes) == {"vae", "flow", *(["refiner"] if separate else [])}
    request = make_request(workspace)
    made = loaded.synthesize(request, 1, Sampling())
    check(request, made, request.limits)
    items = [loaded.stage("flow").item(i) for i in range(6)]
    tight = [tight_box(i["mask"][0]).shape == tight_box(i["box"][0]).shape for i in items]
    assert all(tight) if not method.config.flow.bapmg else not all(tight)
    assert plan.hash == workspace.plan().hash


def test_a_change_of_what_is_encoded_makes_flow_and_refiner_stale(trained, monkeypatch):
    """What a character is, is no number of the plan; the VAE is told none."""
    method = TumorGen(trained.plan(), trained)
    assert all(method.trained(stage) for stage in method.stages)
    monkeypatch.setattr(method_module, "FORMAT", "another")
    assert [method.trained(stage) for stage in method.stages] == [True, False, False]


def test_the_default_logs_every_term(trained):
    assert {"flow", "rfm", "coarse", "fine"} <= columns(trained, "flow")
    assert {"vae", "l1", "square", "gradient", "kl"} <= columns(trained, "vae")
    assert {"psnr", "ssim"} <= set(json.loads((trained.run("tumorgen", "vae") / "run.json").read_text())["numbers"])
    for stage in ("vae", "flow", "refiner"):
        assert list((trained.run("tumorgen", stage) / "previews").glob("step_*.png"))


def test_no_refiner_is_trained_that_is_switched_off(replanned):
    workspace = replanned("methods.tumorgen.refiner.enabled=false")
    shutil.rmtree(workspace.run("tumorgen", "refiner"))
    for restart in (False, True):
        assert train_stage(workspace, "tumorgen", "refiner", 2, "cpu", restart) is None
    assert not workspace.run("tumorgen", "refiner").exists()

    method, _ = opened("tumorgen", workspace)  # and the mask is the coarse one, upsampled
    joint = torch.randn(1, 5, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(method._decode(joint)[1], upsample_mask(joint[:, -1:])[0, 0].numpy())


def test_an_upsampled_mask():
    mask = torch.full((1, 1, 4, 4, 4), -1.0)
    mask[:, :, 2:] = 1
    found = upsample_mask(mask)[0, 0]
    assert found.shape == (16, 16, 16)
    torch.testing.assert_close(found[:, 5, 5], torch.tensor([0.0] * 6 + [0.125, 0.375, 0.625, 0.875] + [1.0] * 6))
    assert (upsample_mask(mask * 9) <= 1).all()


def test_an_item_is_a_function_of_its_number(trained):
    for stage in ("vae", "flow", "refiner"):
        first, second = (find_method("tumorgen")(trained.plan(), trained).stage(stage) for _ in range(2))
        second.item(2)
        for key, value in first.item(5).items():
            np.testing.assert_array_equal(value, second.item(5)[key])
        assert any(not np.array_equal(value, first.item(6)[key]) for key, value in first.item(5).items())


def test_the_flow_sees_nothing_of_the_box(trained):
    """z^m = (1 - B) z1: what lies in the box cannot change the draw; what lies outside does."""
    method, _ = opened("tumorgen", trained)
    latent = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    box = torch.zeros(1, 1, 8, 8, 8)
    box[..., 2:6, 3:6, 2:5] = 1
    hidden = latent + box * 9
    outside = latent.clone()
    outside[..., 7, 7, 7] += 9

    def sample(z):
        return method._sample(
            z, box, method._first_told(method._character(Box((2, 3, 2), (6, 6, 5)), 4)), 4, 2, "euler"
        )

    drawn = sample(latent)
    assert torch.equal(drawn, sample(hidden))
    assert not torch.equal(drawn * box, sample(outside) * box)
    torch.testing.assert_close(drawn[:, :4] * (1 - box), latent * (1 - box))
    assert ((drawn[:, 4:] * (1 - box)) == -(1 - box)).all()  # no tumor outside


def test_steps_and_solver_are_the_plans_or_the_callers(trained):
    method = sampling_with(trained, corrections=0)
    request, calls = make_request(trained), []
    hook = method.net.register_forward_hook(lambda *_: calls.append(1))
    for sampling, expected in ((Sampling(), 2), (Sampling(steps=3), 3), (Sampling(steps=3, solver="heun"), 5)):
        calls.clear()
        method.synthesize(request, 0, sampling)
        assert len(calls) == expected
    hook.remove()


def test_noise_stays_as_strong_where_picture_and_host_meet(trained, monkeypatch):
    """Half of the host's noise and half of ours would be quieter than either."""
    method = sampling_with(trained, keep_mm=20.0, roughness=0.0)
    request = make_request(trained, Box((2, 2, 2), (30, 30, 30)))
    high = float(request.limits[0, 1])
    flat = np.full_like(request.image, 0.3 * high)
    noise = 0.02 * high * np.random.default_rng(0).standard_normal(flat.shape).astype(np.float32)
    canvas = open_canvas(method.vae, replace(request, image=flat + noise), method.plan, 100, "cpu")
    smooth, ball = scale(flat, method.plan.channels, request.limits), np.zeros(flat.shape[1:], np.float32)
    ball[14:18, 14:18, 14:18] = 1
    monkeypatch.setattr(method, "_sample", lambda *arguments: torch.zeros(1, 5, 8, 8, 8))
    monkeypatch.setattr(method, "_decode", lambda joint: (smooth.copy(), ball))
    made = method._paint(canvas, smooth, None, 0, 1, "euler")
    between = (made.kept > 0.3) & (made.kept < 0.7)
    assert made.image[0][between].std() == pytest.approx(0.02 * high, rel=0.1)
    assert made.image[0][made.kept == 0].std() == pytest.approx(0.02 * high, rel=0.25)


def test_the_larger_its_halo_the_nearer_a_box_is_to_the_whole_windows_decode(trained):
    method, _ = opened("tumorgen", trained)
    box = Box((12, 12, 12), (20, 20, 20))
    errors = []
    for halo in (1, 2, 8):
        canvas = open_canvas(method.vae, make_request(trained, box), trained.plan(), halo, "cpu")
        with torch.no_grad():
            whole, part = (method.vae.decode(latent)[0] for latent in (canvas.latent, canvas.latent[canvas.cells]))
        errors.append(float((part[(0, *canvas.local(box).slices)] - whole[(0, *box.slices)]).abs().mean()))
    assert errors[0] > errors[1] > errors[2] == 0


@pytest.mark.parametrize("name", ["tumorgen", "blended"])
def test_the_cells_that_are_drawn_are_the_place(trained, name):
    """So that no mask is cut off in the middle of one."""
    plan, (method, _) = trained.plan(), opened(name, trained)
    window = lay_window(
        SimpleNamespace(name="x", grid=Grid((60, 60, 60), (3.0, 4.0, 5.0))),
        Box((20, 22, 25), (31, 33, 34)),
        plan,
        method.cell,
    )
    request = replace(make_request(trained, window.window_box, window.grid.shape), place=window.place)
    drawn = open_canvas(method.vae, request, plan, 1, "cpu").latent_box
    assert window.place == Box(tuple(4 * a for a in drawn.start), tuple(4 * b for b in drawn.stop))


def test_the_vae_starts_from_a_checkpoint(trained, tmp_path):
    method = find_method("tumorgen")(trained.plan(), trained)
    load_weights({"vae": method.vae}, trained.run("tumorgen", "vae"))
    torch.save({k: v + 0.125 for k, v in method.vae.net.state_dict().items()}, tmp_path / "a.pt")
    fresh = find_method("tumorgen")(trained.plan(), trained)
    fresh.stage("vae", 1, tmp_path / "a.pt")
    for key, value in fresh.vae.net.state_dict().items():
        torch.testing.assert_close(value, method.vae.net.state_dict()[key] + 0.125)


def test_stages_need_the_one_before(workspace, tmp_path):
    copy = Workspace(tmp_path / "work")
    shutil.copytree(workspace.root, copy.root)
    with pytest.raises(StateError, match="tumorgen train vae"):
        train_stage(copy, "tumorgen", "flow", 1, "cpu")
    with pytest.raises(PlanError, match="did you mean refiner"):
        train_stage(copy, "tumorgen", "refinr", 1, "cpu")
    shutil.rmtree(copy.cases / copy.splits().train[0])
    with pytest.raises(StateError, match="tumorgen preprocess"):
        train_stage(copy, "tumorgen", "vae", 1, "cpu")


def test_cases_that_given_weights_have_seen_count_as_learnt_from(trained, tmp_path, monkeypatch):
    """A VAE of another fold knows this fold's held-out cases; one of another data set knows none of them."""
    other, splits = Workspace(tmp_path / "other"), trained.splits()
    shutil.copytree(trained.root, other.root)
    write_json(other.splits_file, Splits((splits.train[1], *splits.test), splits.train[:1]))
    monkeypatch.setattr(train, "open_method", lambda workspace, name, _: find_method(name)(workspace.plan(), workspace))
    monkeypatch.setattr(train, "train", lambda *_: None)
    method = find_method("tumorgen")(other.plan(), other)
    assert method.learnt_from() == other.splits().train
    initial = trained.run("tumorgen", "vae") / "weights.safetensors"
    train.train_stage(other, "tumorgen", "vae", device="cpu", restart=True, initial=initial)
    assert method.learnt_from() == (splits.train[1], *splits.test, *sorted({*splits.train} - {splits.train[1]}))
    copy = tmp_path / "alone.safetensors"  # of which nothing is known
    shutil.copy(initial, copy)
    train.train_stage(other, "tumorgen", "vae", device="cpu", restart=True, initial=copy)
    assert method.learnt_from() == other.splits().train
    train.train_stage(other, "tumorgen", "vae", device="cpu", restart=True)
    assert not (method.folder("vae") / INITIAL).exists()


def test_a_poor_vae_is_told_before_the_flow(trained, capsys):
    find_method("tumorgen")(trained.plan(), trained).stage("flow")
    assert "tumors will look blurred" in " ".join(capsys.readouterr().err.split())


def test_difftumor_changes_nothing_beyond_its_mask(trained):
    method, hashes = opened("difftumor", trained)
    assert set(hashes) == {"vqgan", "ddpm"}
    sharp = replace(method.config, sampling=replace(method.config.sampling, edge_mm=(0.0, 0.0)))
    method.config = sharp
    request = make_request(trained)
    made = method.synthesize(request, 3, Sampling())
    untouched = made.mask == 0
    np.testing.assert_array_equal(made.image[:, untouched], request.image[:, untouched])
    changed = np.abs(made.image - request.image)[0] > 1e-6
    assert changed[made.mask == 1].mean() > 0.9


def test_difftumor_keeps_the_healthy_latents(trained):
    """z_0 outside the mask is the scan's own, and what lies under the mask cannot be seen."""
    method, _ = opened("difftumor", trained)
    latent = torch.randn(1, 8, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[..., 2:5, 3:6, 2:4] = 1
    drawn = method._sample(latent, mask, 1, 2, "ddim")
    torch.testing.assert_close(drawn * (1 - mask), latent * (1 - mask))
    assert torch.equal(drawn * mask, method._sample(latent + 7 * mask, mask, 1, 2, "ddim") * mask)
    assert (drawn * mask).abs().max() <= 10


def test_difftumors_latents_are_standardised(trained):
    """Diffusion's noise has variance 1, and so must what it drowns."""
    method, _ = opened("difftumor", trained)
    cases = autoencoder.load_cases(trained, trained.splits().train)
    with torch.no_grad():
        z = torch.cat(
            [
                method.vqgan.encode(torch.from_numpy(autoencoder.whole_image(case, method.plan))[None])[0].flatten(1)
                for case in cases
            ],
            1,
        )
    torch.testing.assert_close(z.std(1), torch.ones(8), atol=0.01, rtol=0)


def test_difftumors_steps_and_samplers(trained):
    method, _ = opened("difftumor", trained)
    request, calls = make_request(trained), []
    hook = method.net.register_forward_hook(lambda *_: calls.append(1))
    for sampling, expected in ((Sampling(), 2), (Sampling(steps=4), 4), (Sampling(steps=10, solver="ddim"), 10)):
        calls.clear()
        assert method.synthesize(request, 0, sampling).drawn["steps"] == expected
        assert len(calls) == expected
    hook.remove()
    with pytest.raises(PlanError, match="at most 10"):
        method.synthesize(request, 0, Sampling(steps=11))
    section = {
        **trained.plan().methods["difftumor"],
        "sampling": {**trained.plan().methods["difftumor"]["sampling"], "steps": 99},
    }
    with pytest.raises(PlanError, match=r"sampling\.steps"):
        find_method("difftumor")(
            replace(trained.plan(), methods={**trained.plan().methods, "difftumor": section}), trained
        )


def test_difftumors_mask_on_the_latent_grid():
    mask = np.zeros((16, 16, 8), np.float32)
    mask[4:9, :, :] = 1
    assert nearest_mask(mask).shape == (1, 4, 4, 2)
    np.testing.assert_array_equal(nearest_mask(mask)[0, :, 0, 0], [0, 1, 0, 0])
    crumb = np.zeros_like(mask)
    crumb[9, 1, 1] = 1
    assert np.argwhere(nearest_mask(crumb)).tolist() == [[0, 2, 0, 0]]  # never lost


def test_the_critics_wait_for_their_turn(trained):
    """Before `adversarial_from` the reconstruction is learnt alone, and the critics do not learn."""
    method = find_method("difftumor")(trained.plan(), trained)
    stage = method.stage("vqgan", 4)
    items = [stage.item(number) for number in range(8)]
    assert all((item["planes"] < item["image"].shape[1:]).all() for item in items)
    assert {item["image"].shape[1] for item in items} == {32, 48}
    first, critics = (o.module for o in stage.objectives)

    def batch(number):
        return {k: torch.as_tensor(v)[None] for k, v in stage.item(number).items()}

    assert "fool" not in first(batch(0))[1]
    assert float(critics(batch(0))[0]) == 0
    loss, terms = first(batch(3))
    assert {"fool", "matching", "perceptual", "l1", "commitment"} <= set(terms)
    loss.backward()
    assert all(p.grad is None for p in critics.parameters())  # to fool them they are held still
    assert float(critics(batch(3))[0]) > 0
    assert first.picture.shape == batch(3)["image"].shape
    assert not first.picture.requires_grad


def test_blending_puts_the_known_region_back(trained):
    """Whatever the network says, what lies outside the box is the scan's at the end, and has been on its own path all along."""
    method, hashes = opened("blended", trained)
    assert set(hashes) == {"vae", "unconditional"}
    assert hashes["vae"] == opened("tumorgen", trained)[1]["vae"]  # one VAE for both
    latent = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    box = torch.zeros(1, 1, 8, 8, 8)
    box[..., 2:6, 3:6, 2:5] = 1
    seen = []
    hook = method.net.register_forward_hook(lambda module, args, out: seen.append((args[0].clone(), float(args[1][0]))))
    drawn = method._sample(latent, box, 4, 4, "euler")
    hook.remove()
    known = torch.cat([latent, -torch.ones(1, 1, 8, 8, 8)], 1)
    torch.testing.assert_close(drawn * (1 - box), known * (1 - box))
    noise = seen[0][0]
    for x, t in seen:
        torch.testing.assert_close(x * (1 - box), ((1 - t) * noise + t * known) * (1 - box), atol=1e-5, rtol=1e-5)
    assert [t for _, t in seen] == pytest.approx([0, 0.25, 0.5, 0.75])


def test_the_status_tells_every_stage_once(trained, workspace):
    told = [step.name.removeprefix("train ") for step in status(trained) if step.name.startswith("train ")]
    expected = [stage for name in METHODS for stage in find_method(name).stages]
    assert sorted(told) == sorted(set(expected))
    assert {step.state for step in status(trained) if step.name.startswith("train ")} == {"done"}
    own = [step.name for step in status(workspace) if step.name.startswith("train ")]
    assert own == ["train vae", "train flow", "train refiner"]  # of rivals nothing is said before one is begun


@pytest.mark.parametrize(("name", "stage"), [(name, stage) for name in METHODS for stage in find_method(name).stages])
def test_every_stage_killed_and_resumed_equals_unbroken(trained, tmp_path, monkeypatch, name, stage):
    """With all that its objectives train beside the saved networks: critics, codebooks, what counts late."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)

    def made(killed_at=None):
        whole = find_method(name)(trained.plan(), trained).stage(stage, 4)

        def item(number):
            if number == killed_at:
                raise RuntimeError("killed")
            return whole.item(number)

        return replace(whole, item=item, preview=None, finish=None)

    def states(folder):
        loop.train(made(), folder, "cpu", "fp32")
        return torch.load(folder / "last.pt", weights_only=True)

    unbroken = states(tmp_path / "unbroken")
    with pytest.raises(RuntimeError, match="killed"):
        loop.train(made(killed_at=3 * made().batch), tmp_path / "broken", "cpu", "fp32")
    resumed = states(tmp_path / "broken")
    assert resumed["step"] == unbroken["step"] == 4
    for part in ("models", "ema"):
        assert all(torch.equal(value, resumed[part][key]) for key, value in unbroken[part].items())
    for own, other in zip(unbroken["extras"], resumed["extras"], strict=True):
        assert all(torch.equal(value, other[key]) for key, value in own.items())


def test_far_from_its_tumor_tumorgen_keeps_the_host(trained):
    """Unless it is to paint the whole box, as the paper does."""
    assert trained.plan().methods["tumorgen"]["sampling"]["keep_mm"] == 20
    keeping, whole = (sampling_with(trained, keep_mm=keep, corrections=0) for keep in (6.0, 0.0))
    assert keeping.keeps_background
    assert not whole.keeps_background
    request = make_request(trained, Box((4, 4, 4), (28, 28, 28)))
    kept, painted = (method.synthesize(request, 3, Sampling()) for method in (keeping, whole))
    np.testing.assert_array_equal(kept.mask, painted.mask)
    away = ndimage.distance_transform_edt(kept.mask < 0.5, request.spacing_mm)
    np.testing.assert_array_equal(kept.image[:, away > 6], request.image[:, away > 6])
    np.testing.assert_allclose(kept.image[:, kept.mask >= 0.5], painted.image[:, kept.mask >= 0.5], atol=1e-2)


def test_a_refined_mask_wavers_and_a_coarse_one_does_not(trained, monkeypatch):
    unsure = np.full((1, 64, 64, 64), 0.5, np.float32)
    unsure[0, :16] = 0.3

    def mask(refined, roughness):
        method = sampling_with(trained, roughness=roughness, corrections=0)
        method.config = replace(method.config, refiner=replace(method.config.refiner, enabled=refined))
        decode = method._decode
        monkeypatch.setattr(
            method,
            "_decode",
            lambda joint: (shown := decode(joint)[0], unsure[0][tuple(slice(n) for n in shown.shape[1:])]),
        )
        return method.synthesize(make_request(trained), 3, Sampling()).mask

    assert not np.array_equal(mask(True, 2.0), mask(True, 0.0))
    np.testing.assert_array_equal(mask(False, 2.0), mask(False, 0.0))


@pytest.mark.parametrize(
    ("corrections", "answers", "kept", "draws"),
    [
        (0, 0.3, 0, 1),  # as drawn
        (1, 0.3, 1, 2),  # nearer
        (3, 0.2, 2, 3),  # near enough, with one to spare
        (3, 1 / 1.5, 0, 1),  # near enough at once
        (1, 2.0, 0, 2),  # the second one is farther off: the first is kept
        (2, 0.05, 1, 3),  # however much it lacks, no more is told than so far
        (3, 0.0, 0, 1),  # no tumor to correct
    ],
)
def test_a_tumor_off_its_character_is_drawn_again(trained, monkeypatch, corrections, answers, kept, draws):
    """A field that answers with `answers` times what it is told; what of a character is not known is not asked for."""
    method = sampling_with(trained, corrections=corrections)
    wanted = np.array([1.0, np.nan, -2.0 if answers == 0.05 else 0.25], np.float32)
    told, decoded = [], []
    monkeypatch.setattr("tumorgen_cli.methods.tumorgen.smooth_host", lambda *arguments: decoded.append(arguments))

    def paint(canvas, smooth, asked, seed, steps, solver):
        told.append(asked)
        return Synthetic(
            np.full((1, 4, 4, 4), len(told) - 1, np.float32), np.full((4, 4, 4), float(answers > 0), np.float32)
        )

    monkeypatch.setattr(method, "_paint", paint)
    monkeypatch.setattr(method, "_character", lambda *arguments: wanted)
    monkeypatch.setattr(method.condition, "standard", np.nan_to_num)
    monkeypatch.setattr(
        "tumorgen_cli.methods.tumorgen.describe_traits", lambda *arguments: answers * told[-1] + [0, 7, 0]
    )
    made = method.synthesize(make_request(trained), 1, Sampling())
    assert made.image.flat[0] == kept
    assert made.drawn["draws"] == len(told) == draws
    assert len(decoded) == 1
    known = np.nan_to_num(wanted)
    np.testing.assert_allclose(told[0], 1.5 * known)
    if draws > 1:
        np.testing.assert_allclose(told[1], np.clip(told[0] + 2 * (known - answers * told[0]), -4, 4), rtol=1e-6)
    if answers:
        assert made.drawn["off"] == pytest.approx(np.abs(known - answers * told[kept])[[0, 2]].max(), abs=1e-4)
    else:
        assert "off" not in made.drawn


def test_a_tumor_is_held_against_its_character_as_training_tumors_were(trained):
    """Beyond the clip limits nothing counts: a host's air, or a bladder beside it."""
    method = sampling_with(trained)
    request = make_request(trained)
    high = request.limits[0, 1]
    mask = np.zeros(request.image.shape[1:], np.float32)
    mask[14:18, 14:18, 14:18] = 1
    tumor = np.where(mask, 0.5 * high, 0.1 * high)[None].astype(np.float32)
    beside, far_beside = tumor.copy(), tumor.copy()
    beside[:, 19:21], far_beside[:, 19:21] = high, 9 * high
    character = method.condition.known()[0][0]
    lacks = [method._lack(character, Synthetic(image, mask), request) for image in (tumor, beside, far_beside)]
    np.testing.assert_allclose(lacks[1], lacks[2], atol=1e-5)
    assert method._lack(character, Synthetic(tumor, 0 * mask), request) is None
    assert method._lack(None, Synthetic(tumor, mask), request) is None
    told = method.condition.standard(describe_traits(tumor, mask, request.spacing_mm, np.zeros(1)))
    np.testing.assert_allclose(lacks[0], method.condition.standard(character) - told, atol=1e-4)
