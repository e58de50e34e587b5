"""TumorGen: every switch of the paper's Table 2, stages, samplers, characters and their correction."""

import csv
import itertools
import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage
from support.requests import check_synthetic, make_request, opened
from support.workspaces import plan_toy, sampling_with

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.geometry import Box, tight_box
from tumorgen_cli.methods.base import INITIAL, Sampling
from tumorgen_cli.methods.latent.canvas import open_canvas, paint
from tumorgen_cli.methods.latent.condition import Known
from tumorgen_cli.methods.latent.joint import upsample_mask
from tumorgen_cli.methods.latent.sampler import FlowSettings
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.methods.tumorgen import method as method_module
from tumorgen_cli.methods.tumorgen.method import TumorGen
from tumorgen_cli.pipeline import train
from tumorgen_cli.pipeline.train import train_stage, train_stages
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scale, unscale
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.training.checkpoints import load_weights
from tumorgen_cli.tumors.boxes import latent_mask


def test_a_kind_is_one_of_the_main_channel(units_of_their_own):
    """Characters drawn for --kind; the brighter a tumor is in one channel, the fainter it is in the other."""
    known = np.random.default_rng(0).random((5, 6), np.float32)
    known[:, 0], known[:, 3] = np.arange(1, 6), np.arange(5, 0, -1)
    for main, (brightest, faintest) in enumerate(((5, 1), (1, 5))):
        method = TumorGen(replace(units_of_their_own.plan(), main_channel=main), units_of_their_own)
        method.condition.learn(Known(known, np.full((5, 3), 30.0), np.full(5, 9e3)))

        def brightness(seed, kind=None, sampler=method.sampler):
            return sampler.draw_tumor(Box((2, 2, 2), (4, 4, 4)), seed, kind).character[0]

        assert {brightness(seed, "low-contrast") for seed in range(20)} == {faintest}
        assert brightest in [brightness(seed) for seed in range(40)]


def columns(workspace, stage):
    with (workspace.run("tumorgen", stage) / "log.csv").open() as stream:
        return set(next(csv.reader(stream)))


@pytest.fixture
def replanned(trained, tmp_path, monkeypatch):
    """(settings) -> a copy of the trained workspace, planned again with other settings; its VAE is kept."""
    monkeypatch.setattr(TumorGen, "_preview", lambda self, path: None)  # tested with `trained`

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
    ["flow.character=false", "flow.volume=false"],
    ["flow.mask_coding=mean", "flow.context=scan", "flow.dropout=0", "flow.healthy_share=0", "sampling.texture=none"],
    ["flow.dropout=0.5", "sampling.guidance=2"],
    ["flow.start=noise", "flow.predicts=data"],
    ["flow.box_weight=2", "flow.mask_weight=3", "flow.fine_over=window"],
    ["refiner.steps=1", "refiner.balanced=false"],
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
    check_synthetic(request, made)
    items = [loaded._items().draw(np.random.default_rng(i)) for i in range(8)]
    items = [i for i in items if i["mask"].any()]  # not the tumor-free ones
    tight = [
        tight_box(latent_mask(i["target"][0], loaded.cell) > 0).shape == tight_box(i["box"][0]).shape for i in items
    ]
    assert all(tight) if not method.config.flow.bapmg else not all(tight)
    assert plan.hash == workspace.plan().hash


def test_another_share_without_a_tumor_makes_flow_and_refiner_stale(trained):
    """Also without healthy scans: windows from which tumors are removed are shown instead."""
    plan = trained.plan()
    sections = {**plan.methods, "tumorgen": {**plan.methods["tumorgen"]}}
    sections["tumorgen"]["flow"] = {**sections["tumorgen"]["flow"], "healthy_share": 0.5}
    method = TumorGen(replace(plan, methods=sections), trained)
    assert [method.trained(stage) for stage in method.stages] == [True, False, False]


def test_weights_of_another_tumor_are_stale(trained):
    """Of a data set with several labels, the hash of its files does not tell which one is the tumor."""
    plan = trained.plan()

    def inputs(labels, tumor):
        chosen = replace(plan, labels={"background": 0, **labels, "ignore": 9}, tumor_label=tumor)
        return TumorGen(chosen, trained).inputs_hash("vae")

    assert inputs({"tumor": 1}, 1) == TumorGen(plan, trained).inputs_hash("vae")
    several = {"organ": 1, "edema": 2, "core": 3}
    assert len({inputs(several, tumor) for tumor in (1, 2, (2, 3), (1, 2, 3))}) == 4
    assert inputs({"whole tumor": (1, 2)}, (1, 2)) != inputs({"tumor": 1}, 1)


def test_a_change_of_what_is_encoded_makes_flow_and_refiner_stale(trained, monkeypatch):
    """The definition of a character is not in the plan; the VAE gets no characters."""
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


def test_a_refiner_that_is_switched_off_is_not_trained(replanned):
    workspace = replanned("methods.tumorgen.refiner.enabled=false")
    shutil.rmtree(workspace.run("tumorgen", "refiner"))
    for restart in (False, True):
        assert train_stage(workspace, "tumorgen", "refiner", 2, "cpu", restart) is None
    assert not workspace.run("tumorgen", "refiner").exists()

    method, _ = opened("tumorgen", workspace)  # the mask is then the coarse one, upsampled
    joint = torch.randn(1, method.net.out_channels, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(method.sampler.decode(joint)[1], upsample_mask(joint[:, 4:], 4)[0, 0].numpy())


def test_the_flow_sees_nothing_of_the_box(trained):
    """z^m = (1 - B) z1: what lies in the box cannot change the draw; what lies outside does.

    Only a flow that starts from the latents without the tumor begins with what lies there.
    """
    method, _ = opened("tumorgen", trained)
    config = method.config
    method.config = replace(config, flow=replace(config.flow, start="noise"))
    latent = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    box = torch.zeros(1, 1, 8, 8, 8)
    box[..., 2:6, 3:6, 2:5] = 1
    hidden = latent + box * 9
    outside = latent.clone()
    outside[..., 7, 7, 7] += 9

    wanted = method.sampler.draw_tumor(Box((2, 3, 2), (6, 6, 5)), 4)

    def sample(z):
        return method.sampler.sample(z, box, wanted, FlowSettings(4, 2, "euler"))

    drawn = sample(latent)
    assert torch.equal(drawn, sample(hidden))
    assert not torch.equal(drawn * box, sample(outside) * box)
    torch.testing.assert_close(drawn[:, :4] * (1 - box), latent * (1 - box))
    assert ((drawn[:, 4:] * (1 - box)) == -(1 - box)).all()  # no tumor outside
    method.config = config
    assert config.flow.start == "healthy"
    assert not torch.equal(sample(latent) * box, sample(hidden) * box)


def test_steps_and_solver_are_the_plans_or_the_callers(trained):
    method = sampling_with(trained, guidance=1.0)
    request, calls = make_request(trained), []
    hook = method.net.register_forward_hook(lambda *_: calls.append(1))
    for sampling, expected in ((Sampling(), 2), (Sampling(steps=3), 3), (Sampling(steps=3, solver="heun"), 5)):
        calls.clear()
        method.synthesize(request, 0, sampling)
        assert len(calls) == expected
    hook.remove()


def test_what_the_decoder_loses_of_the_host_stays(trained, monkeypatch):
    """The host's noise is in the tumor as it was; where the drawn picture is the decoded host, nothing changes."""
    method = sampling_with(trained, keep_cells=0.0, texture="host")
    request = make_request(trained, Box((2, 2, 2), (30, 30, 30)))
    high = float(request.limits[0, 1])
    flat = np.full_like(request.image, 0.3 * high)
    noise = 0.02 * high * np.random.default_rng(0).standard_normal(flat.shape).astype(np.float32)
    noise[0, 4, 4, 4] = 5 * high  # beyond the clip limits
    request = replace(request, image=flat + noise)
    canvas = open_canvas(method.vae, request, method.plan, 100, "cpu")
    smooth, ball = scale(flat, method.plan.channels, request.limits), np.zeros(flat.shape[1:], np.float32)
    ball[14:18, 14:18, 14:18] = 1
    monkeypatch.setattr("tumorgen_cli.methods.latent.canvas.smooth_host", lambda *arguments: smooth)
    same, _ = method.sampler.paint(canvas, smooth, ball, 0)
    np.testing.assert_allclose(same, request.image, atol=1e-4 * high)
    picture = smooth + 0.2 * ball
    image, mask = method.sampler.paint(canvas, picture, ball, 0)
    np.testing.assert_array_equal(mask, ball)
    np.testing.assert_allclose(image[0, ball == 0], request.image[0, ball == 0], atol=1e-4 * high)
    tumor = scale(image, method.plan.channels, request.limits)[0, ball == 1]
    before = scale(request.image, method.plan.channels, request.limits)[0, ball == 1]
    np.testing.assert_allclose(tumor - before, 0.2, atol=1e-3)


def test_where_noise_grows_with_the_intensity_a_tumor_gets_as_much_as_tissue_as_bright(trained, monkeypatch):
    """Half of the window is dark with little noise, half bright with much; the tumor is a bright ball in the dark."""
    method = sampling_with(trained)
    request = make_request(trained, Box((2, 2, 2), (14, 30, 30)))
    channels, bright = method.plan.channels, np.arange(32)[:, None, None] >= 16
    smooth = np.where(bright, 0.4, -0.2) * np.ones((1, 32, 32, 32), np.float32)
    noise = np.where(bright, 0.06, 0.02) * np.random.default_rng(0).standard_normal(smooth.shape)
    request = replace(request, image=unscale((smooth + noise).astype(np.float32), channels, request.limits))
    x = np.indices((32, 32, 32)) - np.array([8, 16, 16])[:, None, None, None]
    ball = (np.square(x).sum(0) < 25).astype(np.float32)
    picture = np.where(ball > 0, 0.4, smooth).astype(np.float32)
    monkeypatch.setattr("tumorgen_cli.methods.latent.canvas.smooth_host", lambda *arguments: smooth.astype(np.float32))
    spread = {}
    for texture, power in itertools.product(("host", "matched", "drawn"), (0.5, 1.0)):
        plan = replace(method.plan, channels=tuple(replace(channel, power=power) for channel in channels))
        host = replace(request, image=unscale((smooth + noise).astype(np.float32), plan.channels, request.limits))
        canvas = open_canvas(method.vae, host, plan, 100, "cpu")
        image, _ = paint(canvas, method.vae, plan, picture, ball, texture, 0)
        np.testing.assert_allclose(image[0, ball == 0], host.image[0, ball == 0], atol=1e-3)
        spread[texture, power] = float(scale(image, plan.channels, request.limits)[0, ball == 1].std())
    assert spread["host", 0.5] == pytest.approx(0.02, rel=0.1)
    assert spread["matched", 0.5] == spread["drawn", 0.5] == pytest.approx(0.06, rel=0.15)
    assert spread["matched", 1.0] == spread["host", 1.0]


def test_the_flow_sees_as_many_cells_around_the_box_as_planned(trained):
    """Sides of 3 + 2 cells become 6, which the network can halve; what lies beyond changes nothing."""
    box = torch.zeros(1, 1, 16, 16, 16)
    box[..., 2:5, 3:6, 9:12] = 1
    latent = torch.randn(1, 4, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    shapes = []

    def draws(context_cells, *latents):
        method = sampling_with(trained, context_cells=context_cells)
        wanted = method.sampler.draw_tumor(Box((2, 3, 9), (5, 6, 12)), 4)
        hook = method.net.register_forward_hook(lambda _, inputs, __: shapes.append(tuple(inputs[0].shape[2:])))
        drawn = [method.sampler.sample(z, box, wanted, FlowSettings(4, 2, "euler")) for z in latents]
        hook.remove()
        return drawn

    beyond, beside = latent.clone(), latent.clone()
    beyond[..., 12:, :, :] += 9
    beside[..., 6, 5, 10] += 9
    near, same, other = draws(1, latent, beyond, beside)
    assert set(shapes) == {(6, 6, 6)}
    assert torch.equal(near * box, same * box)
    assert not torch.equal(near * box, other * box)
    torch.testing.assert_close(same[:, :4] * (1 - box), beyond * (1 - box))
    shapes.clear()
    whole, changed = draws(0, latent, beyond)
    assert set(shapes) == {(16, 16, 16)}
    assert not torch.equal(whole * box, changed * box)


def test_a_larger_halo_brings_a_box_closer_to_the_decoded_window(trained):
    method, _ = opened("tumorgen", trained)
    box = Box((12, 12, 12), (20, 20, 20))
    errors = []
    for halo in (1, 2, 8):
        canvas = open_canvas(method.vae, make_request(trained, box), trained.plan(), halo, "cpu")
        with torch.no_grad():
            whole, part = (method.vae.decode(latent)[0] for latent in (canvas.latent, canvas.latent[canvas.cells]))
        errors.append(float((part[(0, *canvas.in_region(box).slices)] - whole[(0, *box.slices)]).abs().mean()))
    assert errors[0] > errors[1] > errors[2] == 0


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


def test_cases_that_initial_weights_were_trained_on_count_as_seen(trained, tmp_path, monkeypatch):
    """A VAE of another fold has seen this fold's held-out cases; one of another data set has seen none of them."""
    other, splits = Workspace(tmp_path / "other"), trained.splits()
    shutil.copytree(trained.root, other.root)
    write_json(other.splits_file, Splits((splits.train[1], *splits.test), splits.train[:1]))
    monkeypatch.setattr(train, "open_method", lambda workspace, name, _: find_method(name)(workspace.plan(), workspace))
    method = find_method("tumorgen")(other.plan(), other)
    assert method.learned_from() == other.splits().train
    initial = trained.run("tumorgen", "vae") / "weights.safetensors"
    begin = partial(train.train_stage, other, "tumorgen", "vae", iterations=1, device="cpu", restart=True)
    begin(options=train.StageOptions({"vae": initial}))
    assert method.learned_from() == (splits.train[1], *splits.test, *sorted({*splits.train} - {splits.train[1]}))
    copy = tmp_path / "alone.safetensors"  # its cases are not known
    shutil.copy(initial, copy)
    begin(options=train.StageOptions({"vae": copy}))
    assert method.learned_from() == other.splits().train
    begin()
    assert not (method.folder("vae") / INITIAL).exists()


def test_far_from_its_tumor_tumorgen_keeps_the_host(trained):
    """Unless it paints the whole box, as in the paper."""
    keeping, whole = (sampling_with(trained, keep_cells=keep) for keep in (0.5, 0.0))
    reach = 0.5 * keeping.sampler.cell_mm
    assert keeping.keeps_background
    assert not whole.keeps_background
    assert whole.needs_healthy_box  # the flow has learned beside latents without the tumor
    request = make_request(trained, Box((4, 4, 4), (28, 28, 28)))
    kept, painted = (method.synthesize(request, 3, Sampling()) for method in (keeping, whole))
    np.testing.assert_array_equal(kept.mask, painted.mask)
    away = ndimage.distance_transform_edt(kept.mask < 0.5, request.spacing_mm)
    np.testing.assert_array_equal(kept.image[:, away > reach], request.image[:, away > reach])
    np.testing.assert_allclose(kept.image[:, kept.mask >= 0.5], painted.image[:, kept.mask >= 0.5], atol=1e-2)


def test_the_edge_of_a_refined_mask_becomes_irregular_and_of_a_coarse_one_not(trained, monkeypatch):
    unsure = np.full((1, 64, 64, 64), 0.5, np.float32)
    unsure[0, :16] = 0.3

    def mask(refined, roughness):
        method = sampling_with(trained, roughness=roughness)
        method.config = replace(method.config, refiner=replace(method.config.refiner, enabled=refined))
        decode = method.sampler.decode
        monkeypatch.setattr(
            method.sampler,
            "decode",
            lambda joint: (shown := decode(joint)[0], unsure[0][tuple(slice(n) for n in shown.shape[1:])], None),
        )
        return method.synthesize(make_request(trained), 3, Sampling()).mask

    assert not np.array_equal(mask(True, 2.0), mask(True, 0.0))
    np.testing.assert_array_equal(mask(False, 2.0), mask(False, 0.0))


def test_guidance_moves_the_draw_away_from_what_is_drawn_untold(trained):
    """v0 + g (v1 - v0): the draw of one step is linear in g; without guidance the network is called once a step."""
    latent, box = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 8, 8, 8)
    box[..., 2:6, 3:6, 2:5] = 1
    drawn = {}
    for guidance in (0.0, 1.0, 3.0):
        sampler = sampling_with(trained, guidance=guidance).sampler
        wanted = sampler.draw_tumor(Box((2, 3, 2), (6, 6, 5)), 4)
        drawn[guidance] = sampler.sample(latent, box, wanted, FlowSettings(4, 1, "euler"))
    torch.testing.assert_close(drawn[3.0], drawn[0.0] + 3 * (drawn[1.0] - drawn[0.0]), rtol=1e-3, atol=1e-4)
    assert not torch.equal(drawn[0.0], drawn[1.0])


def test_a_box_holds_one_tumor(trained, monkeypatch):
    """The largest part of the drawn mask is the tumor; around the others the host stays."""
    method = sampling_with(trained, keep_cells=0.5)
    method.config = replace(method.config, flow=replace(method.config.flow, context="healthy"))
    method.sampler.config = method.config
    decode = method.sampler.decode

    def two_parts(joint):
        picture, mask, sublabels = decode(joint)
        mask = np.zeros_like(mask)
        mask[12:17, 12:17, 12:17], mask[20:22, 20:22, 20:22] = 1, 1
        return picture, mask, sublabels

    monkeypatch.setattr(method.sampler, "decode", two_parts)
    request = make_request(trained, Box((4, 4, 4), (28, 28, 28)))
    made = method.synthesize(request, 3, Sampling())
    assert made.mask.sum() == 125
    np.testing.assert_array_equal(made.image[:, 20:22, 20:22, 20:22], request.image[:, 20:22, 20:22, 20:22])
