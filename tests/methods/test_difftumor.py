"""DiffTumor: what the mask lets change, what the condition knows, the models by size, the switches, the losses."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.requests import make_request, opened
from support.workspaces import fingerprint_of, plan_toy
from torch import nn

from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.difftumor import method as module
from tumorgen_cli.methods.difftumor.config import diameter_mm, plan_difftumor
from tumorgen_cli.methods.difftumor.method import condition_of, nearest_mask
from tumorgen_cli.methods.difftumor.objectives import CriticsObjective, VqGanObjective
from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.latent.cache import find_candidates
from tumorgen_cli.methods.latent.scans import TrainingScans, statistic_windows
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.models.vqgan import Critics
from tumorgen_cli.pipeline.train import train_stages
from tumorgen_cli.planning.plan import Decisions, WindowPlan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import unscale
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import PlanError
from tumorgen_cli.tumors.masks import ellipsoid


def planned(workspace, **changes):
    """DiffTumor with another section of the plan: values, or a mapping for fields of a part."""
    plan = workspace.plan()
    section = plan.methods["difftumor"]
    parts = {k: {**section[k], **v} if isinstance(v, dict) else v for k, v in changes.items()}
    return find_method("difftumor")(replace(plan, methods={**plan.methods, "difftumor": section | parts}), workspace)


def painted(method, request, monkeypatch, level):
    """What becomes of a request when the mask is an ellipsoid and the sample has one level, in [-1, 1]."""
    share = np.zeros(request.image.shape[1:], np.float32)
    place = request.place
    share[place.slices] = ellipsoid(place.shape, tuple(n / 2 for n in place.shape), (4.6, 3.7, 2.8), None)
    monkeypatch.setattr(module, "place_mask", lambda *_: (share, {}))
    monkeypatch.setattr(method, "draw", lambda image, *_: np.full_like(image, level))
    return share, method.synthesize(request, 3, Sampling())


# -- what changes ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("edge", [0.0, 4.0])
def test_every_voxel_of_an_ellipsoid_changes(trained, monkeypatch, edge):
    method, request = planned(trained, sampling={"edge_mm": (edge, edge)}), make_request(trained)
    share, made = painted(method, request, monkeypatch, 1.0)
    inside, high = share >= 0.5, request.limits[0, 1]
    assert inside.sum() > 100
    assert (request.image[0][inside] < 0.9 * high).all()
    moved = (made.image[0] - request.image[0]) / (high - request.image[0])
    assert (moved[inside] > 0.1).all()  # not a voxel is left, neither at the edge
    assert made.drawn["edge_mm"] == edge
    assert method.keeps_background
    if not edge:
        np.testing.assert_allclose(moved, share, atol=1e-4)
        np.testing.assert_array_equal(made.image[0][share == 0], request.image[0][share == 0])


def test_without_blending_the_whole_box_is_the_sample(trained, monkeypatch):
    method, request = planned(trained, sampling={"blend": False}), make_request(trained)
    _, made = painted(method, request, monkeypatch, 0.5)
    level = unscale(np.full((1, 1, 1, 1), 0.5), method.plan.channels, request.limits).item()
    outside = np.ones(request.image.shape[1:], bool)
    outside[request.box.slices] = False
    np.testing.assert_allclose(made.image[0][~outside], level, rtol=1e-5)
    np.testing.assert_array_equal(made.image[0][outside], request.image[0][outside])
    assert not method.keeps_background
    assert "edge_mm" not in made.drawn


# -- what is known -----------------------------------------------------------------------------------------------
def test_the_condition_by_hand():
    """Latents, and the mask as -1 or 1; in the paper's form the mask's cells are hidden."""
    latent = np.arange(1.0, 17).reshape(2, 2, 2, 2).astype(np.float32)
    mask = np.zeros((8, 8, 8), np.uint8)
    mask[4:7, :4, :4] = 1
    found, hidden = condition_of(latent, mask, False), condition_of(latent, mask, True)
    np.testing.assert_array_equal(found[:2], latent)
    np.testing.assert_array_equal(found[2], [[[-1, -1], [-1, -1]], [[1, -1], [-1, -1]]])
    np.testing.assert_array_equal(hidden[2], found[2])
    np.testing.assert_array_equal(hidden[:2] == 0, np.broadcast_to(found[2] > 0, (2, 2, 2, 2)))


@pytest.mark.parametrize("model", ["early", "later"])
def test_what_lies_in_the_mask_has_no_influence_on_a_sample(trained, model):
    method, _ = opened("difftumor", trained)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 32)).astype(np.float32)
    mask = np.zeros((32, 32, 32), np.float32)
    mask[9:14, 6:15, 11:13] = 1  # no whole cell
    samples = [method.draw(image + bright * mask, mask, 1, model, 2, "ddim") for bright in (0.0, 0.7)]
    np.testing.assert_array_equal(*samples)
    other = method.draw(image * 0.5, mask, 1, model, 2, "ddim")
    assert not np.array_equal(samples[0], other)
    # the paper's form hides cells, in whose neighbors the encoder has seen the tumor
    seen = planned(trained, ddpm={"condition": "latents"})
    seen.codec.load_state_dict(method.codec.state_dict())
    seen.nets = method.nets
    samples = [seen.draw(image + bright * mask, mask, 1, model, 2, "ddim") for bright in (0.0, 0.7)]
    assert not np.array_equal(*samples)


def test_training_sees_what_a_synthesis_sees(trained):
    """The condition of an item is that of the image whose tumor voxels are 0; its latents are those of the scan."""
    method, _ = opened("difftumor", trained)
    stage, number = method.stage("early"), 4
    item = stage.item(number)
    drawn = [v for v in cached_windows(method) if np.array_equal(v["latent"], item["latent"])]
    assert len(drawn) == 1
    np.testing.assert_array_equal(item["condition"], condition_of(drawn[0]["context"], drawn[0]["mask"], False))
    assert not np.array_equal(item["condition"][:-1], item["latent"])
    assert set(np.unique(item["condition"][-1])) == {-1.0, 1.0}
    hiding = planned(trained, ddpm={"condition": "latents"})
    hiding.folder = lambda stage: method.folder(stage) if stage == "vqgan" else method.folder("latents_of_test")
    item = hiding.stage("early").item(number)
    tumor = item["condition"][-1:] > 0
    np.testing.assert_array_equal(item["condition"][:-1], np.where(tumor, 0, item["latent"]))


def cached_windows(method):
    for path in sorted(method.folder("latents").glob("*.npz")):
        part = np.load(path)
        for copy in range(len(part["latents"])):
            mask = np.unpackbits(part["masks"][copy], axis=-1)
            yield {"latent": part["latents"][copy], "context": part["contexts"][copy], "mask": mask}


def test_the_mask_on_the_latent_grid():
    mask = np.zeros((16, 16, 8), np.float32)
    mask[4:9, :, :] = 1
    assert nearest_mask(mask, 4).shape == (1, 4, 4, 2)
    np.testing.assert_array_equal(nearest_mask(mask, 4)[0, :, 0, 0], [0, 1, 1, 0])
    found = torch.nn.functional.interpolate(torch.from_numpy(mask)[None, None], scale_factor=0.25)[0]
    np.testing.assert_array_equal(nearest_mask(mask, 4), found.numpy())
    crumb = np.zeros_like(mask)
    crumb[9, 1, 1] = 1
    assert np.argwhere(nearest_mask(crumb, 4)).tolist() == [[0, 2, 0, 0]]  # a small mask is never lost


# -- models by size ----------------------------------------------------------------------------------------------
def test_steps_and_samplers_of_both_models(trained):
    """T = 4 by DDPM for early tumors, DDIM in fewer steps than T for later ones."""
    request = make_request(trained)
    for border, model, usual in ((500.0, "early", (4, "ddpm")), (0.1, "later", (2, "ddim"))):
        method = planned(trained, early_mm=border)
        method.load()
        asked = []
        for each in method.nets.values():
            each.register_forward_hook(lambda net, inputs, _, asked=asked: asked.append((net, int(inputs[1][0]))))
        for sampling, (steps, solver) in (
            (Sampling(), usual),
            (Sampling(steps=3, solver="ddim"), (3, "ddim")),
            (Sampling(steps=10), (4 if model == "early" else 10, usual[1])),
        ):
            asked.clear()
            drawn = method.synthesize(request, 0, sampling).drawn
            assert (drawn["model"], drawn["steps"], drawn["solver"]) == (model, steps, solver)
            assert {id(net) for net, _ in asked} == {id(method.nets[model])}
            at = [step for _, step in asked]
            assert len(at) == steps
            assert at == sorted(set(at), reverse=True)
        assert model == "later" or at == [4, 3, 2, 1]
    with pytest.raises(PlanError, match="at most 10"):
        method.synthesize(request, 0, Sampling(steps=11))
    with pytest.raises(PlanError, match=r"sampling\.steps"):
        planned(trained, sampling={"steps": 99})


def test_each_model_learns_from_tumors_of_its_size(trained):
    method = planned(trained)
    found = find_candidates(load_cases(trained, trained.splits().train))
    own = {model: method._own_tumors(model) for model in method.models}
    assert sorted([*own["early"], *own["later"]]) == [*range(len(found))]
    volumes = [np.count_nonzero(each.case.tumors == each.component.number) for each in found]
    sizes = [diameter_mm(n * np.prod(trained.plan().window.spacing_mm)) for n in volumes]
    assert max(sizes[i] for i in own["early"]) < 26 <= min(sizes[i] for i in own["later"])
    assert method.needed("later") == ("vqgan",)  # new weights of the other model do not outdate it
    one = planned(trained, models="later")
    assert one.stages == ("vqgan", "later")
    assert one._own_tumors("later") == [*range(len(found))]
    assert one.model_for(1) == "later"
    few = planned(trained, early_mm=0.1)  # a part of the cases may have none
    assert few._own_tumors("early") == [*range(len(found))]


def test_the_models_and_cells_follow_the_data(workspace):
    facts = fingerprint_of(workspace.plan(), workspace.splits()).tumors

    def fields(diameters, spacing, shape, device="cpu"):
        d, volumes = Decisions(), [np.pi * x**3 / 6000 for x in diameters]
        tumors = [replace(facts[0], volume_ml=volume) for volume in volumes]
        plan_difftumor(d, tumors, WindowPlan((spacing,) * 3, shape, 0.1), DeviceBudget(device, 80.0, 1.0))
        return d.nested()

    both = fields((9, 30), 1.0, (96, 96, 96), "cuda")
    assert (both["models"], both["vqgan"]["downsampling"], both["early"]["timesteps"]) == ("both", 4, 4)
    assert both["ddpm"]["widths"] == (24, 48, 96, 192)
    assert both["ddpm"]["heads"] == (8, 32)
    large = fields((30, 90), 5.0, (48, 48, 96))
    assert (large["models"], large["vqgan"]["downsampling"]) == ("later", 4)
    assert fields((15, *[30] * 10), 5.0, (48, 48, 96))["models"] == "later"  # one tumor of eleven is no model's
    assert fields((15, *[30] * 9), 5.0, (48, 48, 96))["models"] == "both"
    small = fields((5, 12), 1.25, (32, 32, 32))  # cells of 2.5 mm, where they fit the budget
    assert (small["models"], small["vqgan"]["downsampling"], small["vqgan"]["widths"]) == ("early", 2, (16, 32))
    assert small["early"]["iterations"] == both["later"]["iterations"] / 10 == 6000


# -- the autoencoder ---------------------------------------------------------------------------------------------
def test_latents_are_standardized_or_scaled_by_the_codebook(trained):
    """The noise of the diffusion has variance 1; the published code brings the codebook to [-1, 1]."""
    method, _ = opened("difftumor", trained)
    scans = TrainingScans(load_cases(trained, trained.splits().train))
    windows = [torch.from_numpy(window)[None] for window in statistic_windows(method, scans)]
    with torch.no_grad():
        z = torch.cat([method.codec.encode(window)[0].flatten(1) for window in windows], 1)
    torch.testing.assert_close(z.std(1), torch.ones(8), atol=0.01, rtol=0)
    scaled = planned(trained, ddpm={"scale": "codebook"})
    scaled._load_codec()
    codes = scaled.codec.standardize(scaled.codec.codebook.codes[..., None, None, None])
    assert (float(codes.min()), float(codes.max())) == pytest.approx((-1, 1), abs=1e-5)
    with torch.no_grad():
        same = scaled.codec.restore(scaled.codec.encode(windows[0]))
        torch.testing.assert_close(same, method.codec.restore(method.codec.encode(windows[0])), atol=1e-5, rtol=1e-4)


def test_tumorgens_autoencoder(trained, tmp_path):
    """Only the sampler differs: stage `vae` is TumorGen's own run, and the latents are its latents."""
    found = Workspace(tmp_path / "work")
    shutil.copytree(trained.root, found.root, ignore=shutil.ignore_patterns("difftumor"))
    plan_toy(found, trained.plan().dataset_path, "methods.difftumor.autoencoder=tumorgen")
    plan = found.plan()
    method = find_method("difftumor")(plan, found)
    assert method.stages == ("vae", "early", "later")
    assert method.folder("vae") == find_method("tumorgen")(plan, found).folder("vae")
    assert method.trained("vae")
    assert not method.trained("early")
    other = {**plan.methods["tumorgen"], "vae": {**plan.methods["tumorgen"]["vae"], "least_psnr": 1.0}}
    for each, uses in ((plan, True), (trained.plan(), False)):
        changed = replace(each, methods={**each.methods, "tumorgen": other})
        hashes = {find_method("difftumor")(p, found).plan_hash for p in (each, changed)}
        assert len(hashes) == 1 + uses  # TumorGen's section counts only where it is used
    runs = train_stages(found, "difftumor", "all", device="cpu")
    assert len(runs) == 2  # the KL-VAE is TumorGen's and was trained
    assert set(method.load()) == {"vae", "early", "later"}
    assert method.net("later").out.out_channels == method.vae_config.latent_channels
    made = method.synthesize(make_request(trained), 1, Sampling())
    assert np.isfinite(made.image).all()
    with pytest.raises(PlanError, match="no codebook"):
        planned(trained, autoencoder="tumorgen", ddpm={"scale": "codebook"})


class _Stub(nn.Module):
    """A critic whose features are the mean of what it sees, times 1 and 10; the verdict is that mean."""

    def forward(self, image):
        return [image.mean(), 10 * image.mean(), image.mean()]


def test_the_losses_of_the_critics_are_sums(workspace):
    """Volume and axial slice count alike; feature matching is a sum over layers and critics."""
    config = replace(planned(workspace).config.vqgan, perceptual_weight=0.0)
    critics = Critics(1, 8)
    critics.volume, critics.slices = _Stub(), _Stub()
    plain = nn.Module()
    plain.forward = lambda real: (real + 1, torch.zeros(()))
    first = VqGanObjective(plain, critics, config)
    image = torch.arange(4.0).expand(1, 1, 4, 4, 4)  # its axial slice 3 has the mean 3, the volume 1.5
    loss, terms = first({"image": image, "planes": torch.tensor([[0, 0, 3]]), "fools": torch.ones(1)})
    assert float(terms["fool"]) == -(2.5 + 4.0)
    assert float(terms["matching"]) == 2 * (1 + 10)
    expected = config.l1_weight + config.adversarial_weight * -6.5 + config.matching_weight * 22
    assert float(loss) == pytest.approx(expected)
    first.picture = image - 4
    batch = {"image": image, "planes": torch.tensor([[0, 0, 3]]), "fools": torch.ones(1)}
    assert float(CriticsObjective(critics, first)(batch)[0]) == 0  # real above 1, drawn below -1
    first.picture = image
    assert float(CriticsObjective(critics, first)(batch)[0]) == (0 + 2.5) / 2 + (0 + 4.0) / 2


def test_the_critics_wait_for_their_turn(trained):
    """Before `adversarial_from` only the reconstruction is trained, and the critics are not."""
    method = find_method("difftumor")(trained.plan(), trained)
    stage = method.stage("vqgan", 4)
    items = [stage.item(number) for number in range(8)]
    assert all((item["planes"] < item["image"].shape[1:]).all() for item in items)
    assert {item["image"].shape[1] for item in items} == {32, 48}
    first, critics = (o.module for o in stage.objectives)

    def batch(number):
        return {k: torch.as_tensor(v)[None] for k, v in stage.item(number).items()}

    assert "fool" not in first(batch(0))[1]
    assert float(critics(batch(0))[0].detach()) == 0
    loss, terms = first(batch(3))
    assert {"fool", "matching", "perceptual", "l1", "commitment"} <= set(terms)
    loss.backward()
    assert all(p.grad is None for p in critics.parameters())  # they are frozen in the loss that has to fool them
    assert float(critics(batch(3))[0].detach()) > 0
    assert first.picture.shape == batch(3)["image"].shape
    assert not first.picture.requires_grad


def test_a_network_that_predicts_nothing_has_the_loss_of_its_noise(trained, monkeypatch):
    """The mean absolute value of normal noise is √(2/π), whichever model is the tumor's, and 0 where it is known."""
    method, _ = opened("difftumor", trained)
    told = []

    def nothing(x, step):
        told.append((x.shape[1], int(step)))
        return torch.zeros_like(x[:, : len(method.codec.mean)])

    monkeypatch.setattr(method, "net", lambda model: nothing)
    case = trained.splits().train[0]
    losses = method.tumor_losses(case)
    assert losses == pytest.approx([np.sqrt(2 / np.pi)] * len(losses), rel=0.02)
    assert {channels for channels, _ in told} == {2 * len(method.codec.mean) + 1}
    (tumor,) = find_candidates(load_cases(trained, [case]))
    steps = method.settings(method._model_of(tumor)).timesteps
    assert [step for _, step in told] == [max(1, round(share * steps)) for share in (0.9, 0.7, 0.5, 0.3, 0.1)]
