"""FreeTumor: eq. 1 outside and inside the mask, the filter, training windows, unlabeled scans."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import norm
from support.requests import check_synthetic, make_request, opened

from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.methods.freetumor import method as ft
from tumorgen_cli.methods.freetumor import windows as ft_windows
from tumorgen_cli.methods.freetumor.config import FilterConfig, plan_freetumor
from tumorgen_cli.methods.freetumor.objectives import GeneratorObjective, classification_loss, proportion
from tumorgen_cli.methods.freetumor.windows import change_weight
from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.latent.cache import candidate_window, find_candidates
from tumorgen_cli.models.tumor_generator import TumorGenerator
from tumorgen_cli.pipeline import preprocess
from tumorgen_cli.planning.plan import Decisions, WindowPlan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing import windows
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.preprocessing.healthy import open_healthy
from tumorgen_cli.preprocessing.windows import cut_mix
from tumorgen_cli.studies.subsets import subset_workspace
from tumorgen_cli.system import devices
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import DataError, StateError
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.tumors.texture import TextureConfig


@pytest.fixture
def method(trained):
    return opened("freetumor", trained)[0]


def make_generator(mask_channel=False, form="equation"):
    torch.manual_seed(0)
    return TumorGenerator(2, (4, 8), 7, 1.0, mask_channel, form).eval()


@pytest.mark.parametrize("mask_channel", [False, True])
def test_the_picture_changes_in_the_mask_alone(mask_channel):
    generator, image = make_generator(mask_channel), torch.rand(1, 2, 8, 8, 8)
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[..., 2:5, 3:6, 1:7] = 0.5
    assert torch.equal(generator(image, mask, mask), image)  # untrained: tanh(G) = 0
    torch.nn.init.constant_(generator.net.decoder.seg_layers[-1].bias, -1.0)
    made = generator(image, mask, mask)
    expected = image + 0.5 * float(np.tanh(1.0)) * generator.blur(image)
    inside = (mask > 0).expand_as(image)
    torch.testing.assert_close(made[inside], expected.clamp(0, 1)[inside])
    assert torch.equal(made[~inside], image[~inside])


def test_the_published_form_blurs_the_difference_and_multiplies_it_by_the_weight():
    """x - W g(difference), whatever x is; and where the weight is 0 nothing changes."""
    generator = make_generator(form="published")
    image, weight = torch.full((1, 2, 15, 15, 15), 0.9), torch.full((1, 1, 15, 15, 15), 0.25)
    weight[..., 9:] = 0
    difference = torch.zeros_like(image)
    difference[0, 0, 7, 7, 7] = 1
    lost = image - generator.shade(image, difference, weight)
    kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    kernel /= kernel.sum()
    expected = 0.25 * kernel[3] ** 2 * kernel
    assert lost[0, 0, 4:11, 7, 7].numpy() == pytest.approx(expected, abs=1e-6)
    assert not lost[0, 1].any()
    assert not lost[..., 9:].any()
    torch.testing.assert_close(generator.shade(image / 3, difference, weight), image / 3 - lost, atol=1e-6, rtol=0)


def gan_config(**changes):
    values = {"form": "published", "edge_mm": (3.0, 3.0), "texture": TextureConfig((6.0, 6.0), (6.0, 6.0))}
    return SimpleNamespace(**(values | changes))


def test_the_weight_is_a_texture_under_a_mask_with_a_blurred_edge(monkeypatch):
    """A half space: at its face the weight is half the texture's, 3 mm inside 84 %; the equation's is the mask."""
    monkeypatch.setattr(ft_windows, "draw_texture", lambda config, shape, *rest: np.full(shape, 0.6))
    mask = np.zeros((24, 12, 12), np.float32)
    mask[12:] = 1
    spacing, rng = (1.5, 20.0, 20.0), np.random.default_rng(0)
    weight = change_weight(mask, gan_config(), spacing, rng)
    line = weight[:, 6, 6] / 0.6
    assert line[11] + line[12] == pytest.approx(1, abs=1e-3)
    depth = (np.arange(24) + 0.5 - 12) * 1.5
    assert line[8:16] == pytest.approx(norm.cdf(depth[8:16] / 3), abs=0.02)
    assert change_weight(mask, gan_config(form="equation"), spacing, rng) is mask
    region = np.zeros(mask.shape, bool)
    region[:13] = True
    cut = change_weight(mask * region, gan_config(), spacing, rng, region)
    assert not cut[13:].any()
    assert not change_weight(0 * mask, gan_config(), spacing, rng).any()


def test_the_segmentor_learns_windows_as_large_as_it_judges():
    """On a CPU and on a GPU, also where the user gives the generator's windows."""
    fields = {"methods.freetumor.gan.patch": ((64, 48, 32), "--set")}
    for budget in (DeviceBudget("cpu", 8.0, 1.0), DeviceBudget("cuda", 24.0, 2.0)):
        for given in ({}, fields):
            d = Decisions(given, "methods.freetumor.")
            plan_freetumor(d, WindowPlan((1.5, 1.5, 1.5), (128, 96, 48), 0.2), budget)
            found = {each.field.removeprefix("methods.freetumor."): each.value for each in d.taken}
            expected = (64, 48, 32) if given else (96, 96, 48)
            assert found["segmentor.patch"] == found["gan.patch"] == expected


def test_networks_see_larger_windows_in_parts():
    """Of the size that they are trained on; together the parts give what the whole would."""
    seen = []

    def network(part):
        seen.append(tuple(part.shape[2:]))
        return 2 * part

    image = torch.rand(1, 2, 48, 32, 20)
    torch.testing.assert_close(ft.in_windows(network, image, (32, 32, 20)), 2 * image)
    assert set(seen) == {(32, 32, 20)}
    assert len(seen) == 2
    seen.clear()
    torch.testing.assert_close(ft.in_windows(network, image, (48, 48, 48)), 2 * image)
    assert seen == [(48, 32, 20)]


def test_the_blur_is_a_gaussian_of_seven_voxels():
    generator, image = make_generator(), torch.zeros(1, 2, 15, 15, 15)
    image[0, 0, 7, 7, 7] = 1
    found = generator.blur(image)
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert not found[0, 1].any()  # channels do not mix
    line = found[0, 0, :, 7, 7]
    assert float(line[8] / line[7]) == pytest.approx(np.exp(-0.5), rel=1e-5)
    assert line[4] > 0
    assert line[3] == 0
    torch.testing.assert_close(
        generator.blur(torch.full_like(image, 0.3)), torch.full_like(image, 0.3)
    )  # the edge continues


def test_a_generator_that_does_nothing_leaves_the_scan_as_it_is(method, trained):
    """Also where intensities lie beyond the clip window."""
    for parameter in method.generator.net.decoder.seg_layers[-1].parameters():
        torch.nn.init.zeros_(parameter)
    request = make_request(trained)
    request = replace(request, image=request.image + 2 * request.limits[0, 1])
    made = method.synthesize(request, 3, Sampling())
    np.testing.assert_array_equal(made.image, request.image)
    assert made.mask.any()


def test_by_the_equation_nothing_changes_outside_the_mask(method, trained):
    method.config = replace(method.config, gan=replace(method.config.gan, form="equation"))
    method.generator.form = "equation"
    torch.nn.init.constant_(method.generator.net.decoder.seg_layers[-1].bias, -0.5)
    request = make_request(trained)
    made = method.synthesize(request, 3, Sampling())
    changed = (made.image != request.image).any(0)
    assert changed.any()
    assert not changed[made.mask == 0].any()
    assert (made.image[0][made.mask > 0.5] >= request.image[0][made.mask > 0.5]).all()  # tanh < 0: brighter


def test_proportion():
    mask, found = np.zeros((4, 4, 4), np.float32), np.zeros((4, 4, 4), np.float32)
    assert proportion(found, mask) == 0
    mask[:2] = 0.5
    mask[2] = 0.4  # not yet mask
    found[1:] = 0.5
    assert proportion(found, mask) == 0.5
    found[0, 0] = 1
    assert proportion(found, mask) == pytest.approx(20 / 32)


def answering(method, monkeypatch, answers):
    """S that finds a share of any mask, one answer per call; the threshold is the paper's."""
    calls = iter(answers)
    monkeypatch.setattr(ft, "proportion", lambda found, mask: next(calls))
    method.config = replace(method.config, filter=FilterConfig("threshold", 0.7, 3))


def test_a_mask_that_fails_is_drawn_again(method, trained, monkeypatch):
    request = make_request(trained)
    answering(method, monkeypatch, [0.2, 0.69, 0.7])
    made = method.synthesize(request, 5, Sampling())
    assert made.drawn["tries"] == 3
    assert made.drawn["found"] == 0.7
    answering(method, monkeypatch, [1.0])
    first = method.synthesize(request, 5, Sampling())
    assert first.drawn["tries"] == 1
    assert first.mask.any()
    assert not np.array_equal(first.mask, made.mask)


def test_a_scan_stays_healthy_when_no_mask_passes(method, trained, monkeypatch):
    request = make_request(trained)
    answering(method, monkeypatch, [0.2, 0.6, 0.1])
    made = method.synthesize(request, 5, Sampling())
    np.testing.assert_array_equal(made.image, request.image)
    assert not np.shares_memory(made.image, request.image)
    assert not made.mask.any()
    assert made.drawn == {"found": 0.6, "tries": 3}


def test_the_published_form_paints_textured_tumors_inside_the_region(method, trained):
    torch.nn.init.constant_(method.generator.net.decoder.seg_layers[-1].bias, -0.5)
    request = make_request(trained)
    region = np.zeros(request.image.shape[1:], bool)
    region[:15] = True
    made = method.synthesize(replace(request, region=region), 3, Sampling())
    changed = (made.image != request.image).any(0)
    assert changed.any()
    assert not changed[~region].any()
    assert not made.mask[~region].any()
    assert (changed & (made.mask == 0)).any()  # the edge is blurred
    check_synthetic(request, made)


def test_adaptive_masks_pass_as_often_as_they_are_found(method, trained, monkeypatch):
    """Of eq. 8: pairs count in proportion to P, here 0.3."""
    monkeypatch.setattr(ft, "proportion", lambda found, mask: 0.3)
    monkeypatch.setattr(method, "paint", lambda image, mask, weight: image)
    monkeypatch.setattr(method, "probability", lambda image: image[0])
    method.config = replace(method.config, filter=FilterConfig("adaptive", 0.7, 1))
    request = make_request(trained)
    passed = [method.synthesize(request, seed, Sampling()).mask.any() for seed in range(300)]
    assert np.mean(passed) == pytest.approx(0.3, abs=0.08)


def test_the_classifier_sees_real_and_painted_windows_alike(trained, monkeypatch):
    """Rotated windows are smoother: if only the real ones were rotated, the classifier would recognize them by that."""
    turned = []
    monkeypatch.setattr(
        windows, "augment", lambda image, mask, rng, spatial=True: (turned.append(spatial), (image, mask))[1]
    )
    monkeypatch.setattr(ft_windows, "augment", windows.augment)
    ft.FreeTumor(trained.plan(), trained).stage("gan").item(0)
    assert turned == [False, False]


def test_the_segmentor_is_frozen_while_the_generator_learns(trained):
    """Its weights do not change, and only the generator gets a gradient from the first objective."""
    stage = ft.FreeTumor(trained.plan(), trained).stage("gan")
    generator, classifier = (objective.module for objective in stage.objectives)
    segmentor, critic = generator._judges
    before = {k: v.clone() for k, v in segmentor.state_dict().items()}
    batch = {k: torch.from_numpy(v)[None] for k, v in stage.item(0).items()}
    optimizers = [torch.optim.SGD(m.parameters(), 0.1) for m in (generator, classifier)]
    for module, optimizer in zip((generator, classifier), optimizers, strict=True):
        optimizer.zero_grad()
        loss, _ = module(batch)
        loss.backward()
        optimizer.step()
        if module is generator:
            assert all(p.grad is None for p in critic.parameters())
            assert any(p.grad.abs().sum() > 0 for p in generator.parameters() if p.grad is not None)
    assert any(p.grad.abs().sum() > 0 for p in critic.parameters())
    assert all(p.grad is None and not p.requires_grad for p in segmentor.parameters())
    for key, value in segmentor.state_dict().items():
        assert torch.equal(value, before[key])
    assert not {id(p) for p in generator.parameters()} & {
        id(p) for p in (*segmentor.parameters(), *critic.parameters())
    }


@pytest.mark.parametrize("weights", [(1.0, 0.1), (0.5, 2.0), (1.0, 0.0), (0.0, 0.3)])
def test_the_generators_loss_is_the_sum_of_its_weighted_terms(weights):
    """S finds a quarter, so 3/4 are lost; the classifier gives even odds, so fooling it costs ln 2."""
    logit = float(np.log(1 / 3))
    asked = []

    def judge(name, answer):
        return lambda picture: asked.append(name) or answer(picture)

    classifier = torch.nn.Identity()
    classifier.forward = judge("classifier", lambda picture: [picture[:, :1] * 0])
    segmentor = torch.nn.Identity()
    segmentor.forward = judge("segmentor", lambda picture: picture[:, :1] * 0 + logit)
    mask = torch.zeros(1, 1, 8, 8, 8)
    mask[..., 2:5, 3:6, 1:7] = 1
    batch = {"image": torch.rand(1, 2, 8, 8, 8), "mask": mask, "weight": mask}
    loss, terms = GeneratorObjective(make_generator(), segmentor, classifier, weights)(batch)
    expected = {"lost": 0.75, "fool": float(np.log(2))}
    assert float(loss.detach()) == pytest.approx(weights[0] * expected["lost"] + weights[1] * expected["fool"])
    used = {name: value for (name, value), weight in zip(expected.items(), weights, strict=True) if weight}
    assert {name: float(term) for name, term in terms.items()} == pytest.approx(used)
    assert asked == [name for name, weight in zip(("segmentor", "classifier"), weights, strict=True) if weight]


@pytest.mark.parametrize(
    ("weights", "names"),
    [((1.0, 0.1), ["generator", "classifier"]), ((1.0, 0.0), ["generator"]), ((0.0, 0.1), ["generator", "classifier"])],
)
def test_a_classifier_that_does_not_count_is_not_trained(trained, weights, names):
    plan = trained.plan()
    section = plan.methods["freetumor"]
    gan = {**section["gan"], "segmentor_weight": weights[0], "classifier_weight": weights[1]}
    method = ft.FreeTumor(replace(plan, methods={**plan.methods, "freetumor": {**section, "gan": gan}}), trained)
    stage = method.stage("gan")
    assert [objective.name for objective in stage.objectives] == names
    assert stage.objectives[0].module.weights == weights
    planned = (section["gan"]["segmentor_weight"], section["gan"]["classifier_weight"])
    assert (stage.inputs_hash == ft.FreeTumor(plan, trained).inputs_hash("gan")) == (weights == planned)


def test_a_scan_without_a_body_is_removed_as_told(method, trained, monkeypatch):
    cases = [load_case(trained.cases / name) for name in trained.splits().train]
    windows = ft_windows.HealthyWindows(cases, trained.plan(), method.config, method._tumors(), [])
    real = windows.healthy
    monkeypatch.setattr(windows, "healthy", lambda n: (real(n)[0], real(n)[1] & (n > 0)))
    with pytest.raises(DataError, match="No place for a tumor") as error:
        windows.draw(np.random.default_rng(0), 0)
    (fault,) = error.value.faults
    assert (fault.where, fault.remedy) == (cases[0].record.case, "remove this scan, then plan and preprocess again")
    assert windows.draw(np.random.default_rng(0), 1)[1].max() > 0  # as all are, once it is removed


def test_healthy_windows_hold_no_tumor(method, trained):
    """The tumors of labeled cases are removed first."""
    cases = [load_case(trained.cases / name) for name in trained.splits().train]
    marked = [
        replace(c, image=np.where(np.asarray(c.tumors)[None] > 0, 1e6, np.asarray(c.image)).astype(np.float32))
        for c in cases
    ]
    windows = ft_windows.HealthyWindows(marked, trained.plan(), method.config, method._tumors(), [])
    for number, case in enumerate(cases):
        healthy, body = windows.healthy(number)
        assert healthy.max() <= 2 * np.asarray(case.image).max()
        assert body.shape == case.record.shape
    for seed in range(8):
        image, mask, name = windows.draw(np.random.default_rng(seed), seed % len(cases))
        assert name == cases[seed % len(cases)].record.case
        assert image.shape[1:] == mask.shape == method.config.gan.patch
        assert mask.max() > 0
        assert -1 <= image.min() <= image.max() <= 1
    again = windows.draw(np.random.default_rng(3), 3 % len(cases))
    np.testing.assert_array_equal(again[1], windows.draw(np.random.default_rng(3), 3 % len(cases))[1])


def test_the_runs_record_their_quality(trained):
    numbers = [
        json.loads((trained.run("freetumor", stage) / "run.json").read_text())["numbers"]
        for stage in ("segmentor", "gan")
    ]
    assert 0 <= numbers[0]["dice_worst"] <= numbers[0]["dice"] <= 1
    assert {"proportion", "proportion_before", "passed", "unlabeled_scans"} <= set(numbers[1])
    for stage in ("segmentor", "gan"):
        assert list((trained.run("freetumor", stage) / "previews").glob("step_*.png"))


def test_classification_counts_the_patches_that_hold_a_tumor():
    logits, mask = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 8, 8, 8)
    mask[0, 0, 0, 0, 0] = 1
    logits[0, 0, 1] = 9  # elsewhere
    assert float(classification_loss(logits, mask, 1.0)) == pytest.approx(np.log(2))
    logits[0, 0, 0, 0, 0] = 9
    assert float(classification_loss(logits, mask, 1.0)) < 0.001
    assert float(classification_loss(logits, mask, 0.0)) == pytest.approx(9, abs=0.01)


def test_a_box_of_another_window():
    shape = (6, 8, 10)
    a, b = np.zeros((2, *shape), np.float32), np.ones((2, *shape), np.float32)
    shares = []
    for seed in range(20):
        image, mask = cut_mix(a, a[0], b, b[0], np.random.default_rng(seed))
        np.testing.assert_array_equal(image, np.stack([mask, mask]))  # one box for image and mask
        places = np.argwhere(mask)
        assert mask.sum() == np.prod(places.max(0) - places.min(0) + 1)
        shares.append(mask.mean())
    assert not a.any()
    assert min(shares) < 0.2
    assert max(shares) > 0.7
    np.testing.assert_array_equal(
        cut_mix(a, a[0], b, b[0], np.random.default_rng(1))[1], cut_mix(a, a[0], b, b[0], np.random.default_rng(1))[1]
    )


@pytest.fixture
def unlabeled(trained, phantoms, tmp_path):
    found = Workspace(tmp_path / "work")
    shutil.copytree(trained.root, found.root)
    assert preprocess.preprocess_healthy(found, phantoms.healthy, 0) == 2
    return found


def test_tumor_free_scans_have_the_cases_form_and_are_resumed(unlabeled, phantoms):
    folders = sorted(unlabeled.unlabeled.iterdir())
    for folder in folders:
        case = load_case(folder)
        assert case.record.spacing_mm == unlabeled.plan().window.spacing_mm
        assert case.record.components == ()
        assert case.tumors.shape == case.image.shape[1:]
        assert not case.tumors.any()
    (folders[0] / "case.json").unlink()
    assert preprocess.preprocess_healthy(unlabeled, phantoms.healthy, 0) == 1


def test_a_workspace_of_some_cases_has_them_too(unlabeled, phantoms, tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "measure_bf16_speedup", lambda: 0.0)
    splits = unlabeled.splits()
    inner = subset_workspace(unlabeled, [*splits.train[:2], *splits.test], tmp_path / "inner", "cpu")
    names = {path.name for path in unlabeled.unlabeled.iterdir()}
    assert {path.name for path in inner.unlabeled.iterdir()} == names
    assert len(names) == 2
    assert preprocess.healthy_folders(inner) == [phantoms.healthy.resolve()]
    write_json(unlabeled.healthy_file, [str(tmp_path / "gone")])
    assert (
        subset_workspace(unlabeled, [*splits.train[:2], *splits.test], tmp_path / "inner", "cpu") == inner
    )  # only a warning
    assert open_healthy(inner, inner.plan())[0].record.spacing_mm == inner.plan().window.spacing_mm


def test_the_generator_learns_from_them(unlabeled, trained):
    method = ft.FreeTumor(unlabeled.plan(), unlabeled)
    names = [record.case for record in method.healthy_records("gan")]
    assert len(names) == 2
    assert method.trained("segmentor")  # which learns from labels alone
    assert not method.trained("gan")
    assert ft.FreeTumor(trained.plan(), trained).trained("gan")
    path = unlabeled.unlabeled / names[0] / "case.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "inputs_hash": "old"}))
    said = "run `tumorgen preprocess --healthy DIR` again, or delete the folder to do without"
    with pytest.raises(StateError, match=said):
        method.stage("gan")


def test_a_labeled_case_is_not_a_healthy_scan(unlabeled, phantoms, tmp_path):
    """Neither under its own name nor under another."""
    held_out = unlabeled.splits().test[0]
    with pytest.raises(DataError, match="6 of the data set's own cases"):
        preprocess.preprocess_healthy(unlabeled, phantoms.dataset, 0)
    shutil.copytree(phantoms.healthy, tmp_path / "scans")
    shutil.copy(phantoms.dataset / "imagesTr" / f"{held_out}_0000.nii.gz", tmp_path / "scans" / "Somebody_0000.nii.gz")
    with pytest.raises(DataError, match=f"Somebody, which is {held_out}"):
        preprocess.preprocess_healthy(unlabeled, tmp_path / "scans", 0)
    assert len(list(unlabeled.unlabeled.iterdir())) == 2


def test_a_segmentor_that_knows_a_tumor_has_a_smaller_loss_on_it(method, monkeypatch):
    """Logits of 0 have an entropy of log 2 and a Dice of n / (m / 2 + n) of n tumor voxels among m; true ones less."""
    case = method.workspace.splits().train[0]
    (candidate,) = find_candidates(load_cases(method.workspace, [case]))
    mask = candidate_window(method.plan, candidate, 0).mask
    monkeypatch.setattr(method, "_logits", lambda image: torch.zeros(1, 1, *mask.shape))
    n, m = int(mask.sum()), mask.size
    (loss,) = method.tumor_losses(case)
    assert loss == pytest.approx(np.log(2) + 1 - (n + 1) / (m / 2 + n + 1), rel=1e-5)
    monkeypatch.setattr(method, "_logits", lambda image: torch.from_numpy(mask * 40.0 - 20)[None, None])
    assert method.tumor_losses(case)[0] == pytest.approx(0, abs=1e-4)
