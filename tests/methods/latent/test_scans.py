"""Patches and latent statistics of labeled and unlabeled scans, in the share of the plan."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tumorgen_cli.methods.latent import autoencoder as ae
from tumorgen_cli.methods.latent import scans as scans_module
from tumorgen_cli.methods.latent.scans import TrainingScans, statistic_windows, training_scans
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline import preprocess
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.windows import cut_tumor_window


@pytest.fixture(scope="module")
def with_healthy(workspace, phantoms, tmp_path_factory):
    found = Workspace(tmp_path_factory.mktemp("healthy") / "work")
    shutil.copytree(workspace.root, found.root)
    assert preprocess.preprocess_healthy(found, phantoms.healthy, 0) == 2
    return found


def method_of(workspace, share=None, name="tumorgen", stage="vae"):
    plan = workspace.plan()
    if share is not None:
        section = {**plan.methods[name], stage: {**plan.methods[name][stage], "healthy_share": share}}
        plan = replace(plan, methods={**plan.methods, name: section})
    return find_method(name)(plan, workspace)


def scans_of(method, stage="vae"):
    return training_scans(method, stage, ae.load_cases(method.workspace, method.workspace.splits().train))


@pytest.mark.parametrize(("name", "stage"), [("tumorgen", "vae"), ("difftumor", "vqgan")])
def test_patches_come_from_healthy_scans_in_the_stated_share(with_healthy, name, stage):
    for share in (0.0, 0.3, 1.0):
        found = scans_of(method_of(with_healthy, share, name, stage), stage)
        rng = np.random.default_rng(0)
        drawn = [found.draw(rng).record.case for _ in range(600)]
        healthy = [case.startswith("Healthy") for case in drawn]
        assert np.mean(healthy) == pytest.approx(share, abs=0.05)
        if share:
            assert {case for case in drawn if case.startswith("Healthy")} == {"Healthy_000", "Healthy_001"}


def test_the_plan_gives_half_of_the_patches_to_healthy_scans(with_healthy, workspace):
    assert scans_of(method_of(with_healthy)).healthy_share == 0.25
    assert scans_of(method_of(workspace)).healthy_share == 0  # there are none


def test_without_healthy_scans_the_patches_are_the_same_as_with_a_share_of_0(with_healthy, workspace):
    items = []
    for method in (method_of(workspace), method_of(with_healthy, 0.0), method_of(with_healthy)):
        config = replace(method.config.vae, healthy_share=0.5)
        items.append(ae.vae_item(scans_of(method), method.plan, config, 4)(3)["image"])
    np.testing.assert_array_equal(items[0], items[1])
    assert not np.array_equal(items[0], items[2])


def test_statistics_are_of_windows_of_tumors_as_a_flow_sees_them(workspace, monkeypatch):
    method = method_of(workspace)
    found, asked = scans_of(method), []

    def cut(case, component, channels, shape, seed):
        asked.append((case.record.case, component.number, seed))
        return cut_tumor_window(case, component, channels, shape, seed)

    monkeypatch.setattr(scans_module, "cut_tumor_window", cut)
    windows = [*statistic_windows(method, found)]
    tumors = {(case.record.case, c.number) for case in found.cases for c in case.record.components if c.fits}
    assert len(windows) == 64
    assert {(case, number) for case, number, _ in asked} == tumors
    counts = np.unique([f"{case} {number}" for case, number, _ in asked], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1
    assert len({seed for _, _, seed in asked}) == 64  # augmented, each in its own way
    assert {window.shape for window in windows} == {(1, *method.plan.window.shape)}


def test_statistics_include_healthy_windows_in_the_share_of_the_patches(with_healthy, monkeypatch):
    method = method_of(with_healthy, 0.25)
    made = []

    def windows(_method, count):
        made.append(count)
        return iter(())

    monkeypatch.setattr(scans_module, "healthy_windows", windows)
    assert len([*statistic_windows(method, scans_of(method))]) == 48
    assert made == [16]


def test_without_a_tumor_that_fits_statistics_are_of_windows_anywhere(with_healthy):
    method = method_of(with_healthy)
    found = scans_of(method)
    bare = [replace(case, record=replace(case.record, components=())) for case in found.cases]
    assert len([*statistic_windows(method, TrainingScans(bare, found.healthy, 0.5))]) == 64


def test_statistics_by_hand(workspace):
    method = method_of(workspace)

    class Halves(torch.nn.Module):
        mean, std = torch.zeros(2), torch.ones(2)

        def encode(self, image):
            return torch.cat([image[..., ::4, ::4, ::4], 2 * image[..., ::4, ::4, ::4] + 1], 1)

    codec = Halves()
    windows = [np.full((1, 8, 8, 8), value, np.float32) for value in (0.0, 1.0, 2.0, 1.0)]
    ae.measure_latent_statistics(codec, windows, method.plan, "cpu")
    np.testing.assert_allclose(codec.mean, (1, 3))
    np.testing.assert_allclose(codec.std, (np.sqrt(0.5), 2 * np.sqrt(0.5)), rtol=1e-6)
