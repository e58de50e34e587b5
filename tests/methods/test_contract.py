"""The contract: every method of the registry passes the same checks."""

import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.requests import check_synthetic, make_request, opened, same_result
from support.workspaces import plan_toy

from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.methods.base import Method, Sampling
from tumorgen_cli.methods.latent import quality
from tumorgen_cli.methods.latent.canvas import open_canvas
from tumorgen_cli.methods.latent.condition import Known
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.pipeline.status import workspace_status
from tumorgen_cli.pipeline.train import train_stages
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.synthesis.window import lay_window
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.training import loop


@pytest.fixture(scope="module")
def fine(trained, tmp_path_factory):
    """As `trained`, with a KL-VAE whose cells are two voxels wide."""
    found = Workspace(tmp_path_factory.mktemp("fine") / "work")
    shutil.copytree(trained.root, found.root, ignore=shutil.ignore_patterns("runs"))
    section = "methods.tumorgen.vae"
    levels = (f"{section}.downsampling=2", f"{section}.widths=[8,16]", f"{section}.res_blocks=[1,1]")
    plan_toy(found, trained.plan().dataset_path, *levels)
    for name in FINE:
        train_stages(found, name, "all", device="cpu")
    return found


FINE = [name for name in METHODS if "tumorgen" in (name, *find_method(name).uses_sections_of)]


@pytest.fixture(scope="module", params=[*METHODS, *(f"{name}, cells of 2 voxels" for name in FINE)])
def method(request, trained):
    name, _, cells = request.param.partition(",")
    found, _ = opened(name, request.getfixturevalue("fine") if cells else trained)
    assert not cells or found.vae.downsampling == 2
    assert found.cell in (1, 2 if cells else 4)
    return found


STAGES = [(name, stage) for name in METHODS for stage in find_method(name).stages]
OTHER_BOXES = [
    Box((0, 0, 0), (10, 12, 8)),  # in a corner
    Box((20, 19, 22), (32, 32, 32)),
    Box((15, 15, 15), (17, 17, 17)),  # smaller than any tumor
    Box((10, 15, 10), (11, 16, 22)),  # a voxel thin
    Box((2, 2, 2), (30, 30, 30)),  # nearly the window
]


def test_every_method_is_found_by_its_name():
    for name in METHODS:
        found = find_method(name)
        assert issubclass(found, Method)
        assert found.name == name
        assert len(found.SOURCE) > 40
        assert "Deviations: " in found.SOURCE
    with pytest.raises(PlanError, match="did you mean copypaste"):
        find_method("copypast")


def test_the_request_is_not_changed_and_the_answer_is_valid(method, trained):
    request = make_request(trained)
    before = request.image.copy()
    made = method.synthesize(request, 1, Sampling())
    np.testing.assert_array_equal(request.image, before)
    assert not np.shares_memory(made.image, request.image)
    check_synthetic(request, made)
    # barely trained networks may draw an empty mask, which changes nothing
    draws = (method.synthesize(request, seed, Sampling()) for seed in range(1, 9))
    assert any(not np.array_equal(each.image, request.image) for each in draws)


@pytest.mark.parametrize("box", OTHER_BOXES, ids=str)
def test_any_box(method, trained, box):
    request = make_request(trained, box)
    check_synthetic(request, method.synthesize(request, 2, Sampling(steps=1)))


def test_a_window_that_has_grown(method, trained):
    request = make_request(trained, Box((3, 5, 5), (44, 28, 28)), (48, 32, 32), (-4, 2, 1))
    check_synthetic(request, method.synthesize(request, 3, Sampling(steps=1)))


def test_same_seed_same_bits(method, trained):
    request = make_request(trained)
    first = method.synthesize(request, 11, Sampling())
    method.synthesize(request, 12, Sampling())
    torch.rand(3), np.random.random(3)  # random numbers that others draw have no influence
    assert same_result(first, method.synthesize(request, 11, Sampling()))
    assert not same_result(first, method.synthesize(request, 12, Sampling()))


def test_a_new_instance_after_load_gives_the_same(method, trained):
    request = make_request(trained)
    again, hashes = opened(method.name, method.workspace)
    assert same_result(method.synthesize(request, 5, Sampling()), again.synthesize(request, 5, Sampling()))
    assert hashes == opened(method.name, method.workspace)[1]


PREVIEWS = [
    ("tumorgen", "_preview"),
    ("blended", "_preview"),
    ("unconditional", "_preview"),
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
            characters = np.random.default_rng(0).random((5, 6), np.float32)
            method.condition.learn(Known(characters, np.full((5, 3), 30.0), np.full(5, 9e3)))
        draw = getattr(method, preview)
        if preview == "vae":
            cases = [load_case(units_of_their_own.cases / case) for case in units_of_their_own.splits().test]
            draw = quality.reconstruction_preview(method.vae, cases, plan, "cpu")
        for module in (sys.modules[type(method).__module__], quality):
            monkeypatch.setattr(
                module, "save_grid_preview", lambda path, rows, names, columns, low, high: shown.append((rows, columns))
            )
        with torch.no_grad():
            if name == "freetumor":
                for weight in method.generator.parameters():
                    weight.add_(0.1)  # an untrained generator changes nothing
            draw(tmp_path / "preview.png")
    (first, columns), (second, _) = shown
    for before, after in zip(first, second, strict=True):
        for title, a, b in zip(columns, before, after, strict=True):
            assert np.array_equal(a, b) == ("mask" in title or title == "segmentor"), title


def test_the_cells_that_are_drawn_are_the_place(trained, method):
    """So that no mask is cut off in the middle of a cell; a given mask is one of voxels."""
    assert (method.cell == 1) == hasattr(method.config, "mask") or method.name not in FINE
    if method.cell == 1:
        return
    plan, cell = trained.plan(), method.cell
    window = lay_window(
        SimpleNamespace(name="x", grid=Grid((60, 60, 60), (3.0, 4.0, 5.0))),
        Box((20, 22, 25), (31, 33, 34)),
        plan,
        method.cell,
    )
    request = replace(make_request(trained, window.window_box, window.grid.shape), place=window.place)
    drawn = open_canvas(method.vae, request, plan, 1, "cpu").latent_box
    assert window.place == Box(tuple(cell * a for a in drawn.start), tuple(cell * b for b in drawn.stop))


def test_the_status_names_every_stage_once(trained, workspace):
    named = [step.name.removeprefix("train ") for step in workspace_status(trained) if step.name.startswith("train ")]
    expected = [stage for name in METHODS for stage in find_method(name).stages]
    assert sorted(named) == sorted(set(expected))
    assert {step.state for step in workspace_status(trained) if step.name.startswith("train ")} == {"done"}
    own = [step.name for step in workspace_status(workspace) if step.name.startswith("train ")]
    assert own == ["train vae", "train flow", "train refiner"]  # stages of other methods are named after one has begun


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_every_stage_resumed_after_a_kill_equals_uninterrupted(trained, tmp_path, monkeypatch, name, stage):
    """Including what the objectives train beside the saved networks: critics, codebooks, terms that begin late."""
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

    uninterrupted = states(tmp_path / "uninterrupted")
    with pytest.raises(RuntimeError, match="killed"):
        loop.train(made(killed_at=3 * made().batch), tmp_path / "broken", "cpu", "fp32")
    resumed = states(tmp_path / "broken")
    assert resumed["step"] == uninterrupted["step"] == 4
    for part in ("models", "ema"):
        assert all(torch.equal(value, resumed[part][key]) for key, value in uninterrupted[part].items())
    for own, other in zip(uninterrupted["extras"], resumed["extras"], strict=True):
        assert all(torch.equal(value, other[key]) for key, value in own.items())


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_an_item_is_a_function_of_its_number(trained, name, stage):
    first, second = (find_method(name)(trained.plan(), trained).stage(stage) for _ in range(2))
    second.item(2)
    for key, value in first.item(5).items():
        np.testing.assert_array_equal(value, second.item(5)[key])
    assert any(not np.array_equal(value, first.item(6)[key]) for key, value in first.item(5).items())


@pytest.mark.parametrize("name", METHODS)
def test_a_method_says_what_it_needs(trained, tmp_path, name):
    """Without trained stages or preprocessed cases, `load` names the command to run."""
    empty = Workspace(tmp_path)
    for path in (trained.plan_file, trained.fingerprint_file, trained.splits_file):
        shutil.copy(path, tmp_path)
    method = find_method(name)(empty.plan(), empty)
    if name in ("syntumor", "pixel2cancer"):
        assert method.load() == {}  # needs nothing
        return
    command = f"train {method.stages[0]}" if method.stages else "preprocess"
    with pytest.raises(StateError, match=f"tumorgen {command}"):
        method.load()


@pytest.mark.parametrize("name", METHODS)
def test_the_settings_of_every_stage_are_in_the_plan(trained, name):
    method = find_method(name)(trained.plan(), trained)
    assert all(method.planned_iterations(stage) > 0 for stage in method.stages)
    assert all(method.trained(stage) for stage in method.stages)
    assert not any(method.trained(stage, 10**9) for stage in method.stages)
    assert method.learned_from() == trained.splits().train


@pytest.mark.parametrize("name", METHODS)
def test_what_is_trained_has_a_loss_for_the_membership_test(trained, name):
    """Every method with networks tells how well it predicts each tumor of any case; the same each time."""
    found, _ = opened(name, trained)
    assert bool(found.tested_loss) == bool(found.stages)
    for case in (trained.splits().train[0], trained.splits().test[0]):
        losses = found.tumor_losses(case)
        assert len(losses) == bool(found.stages) * len(trained.fingerprint().of([case]).tumors)
        assert all(loss > 0 for loss in losses)
        assert found.tumor_losses(case) == losses
