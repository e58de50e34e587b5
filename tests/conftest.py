"""Phantoms and grids that tests share. What is session-scoped is read-only: copy it to change it."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tumorgen_cli.dataset import CaseVoxels
from tumorgen_cli.evaluation import CaseFiles, real_tumors
from tumorgen_cli.fingerprint import measure_tumors
from tumorgen_cli.phantom import Phantoms, write_phantoms
from tumorgen_cli.plan import Plan
from tumorgen_cli.records import CaseFacts, Fingerprint, Grid
from tumorgen_cli.volumes import read_volume
from tumorgen_cli.workspace import Splits, Workspace

#: settings of `plan` under which every stage takes a second or two
TOY = (
    "precision=fp32", "window.shape=[32,32,32]", "paste.smallest_ml=0.05", "paste.draws=3",
    "methods.tumorgen.vae.widths=[8,16,32]", "methods.tumorgen.vae.res_blocks=[1,1,1]", "methods.tumorgen.vae.latent_channels=4",
    "methods.tumorgen.vae.batch=1", "methods.tumorgen.vae.patch=[48,32,32]", "methods.tumorgen.vae.iterations=4",
    "methods.tumorgen.flow.widths=[32,64]", "methods.tumorgen.flow.res_blocks=1", "methods.tumorgen.flow.batch=2",
    "methods.tumorgen.flow.iterations=3", "methods.tumorgen.flow.copies=2", "methods.tumorgen.refiner.width=4",
    "methods.tumorgen.refiner.iterations=2", "methods.tumorgen.sampling.steps=2",
    "methods.difftumor.vqgan.widths=[8,16,32]", "methods.difftumor.vqgan.res_blocks=[1,1,1]", "methods.difftumor.vqgan.codes=64",
    "methods.difftumor.vqgan.patch=[48,32,32]", "methods.difftumor.vqgan.iterations=4", "methods.difftumor.ddpm.widths=[8,16]",
    "methods.difftumor.ddpm.heads=[2,4]", "methods.difftumor.ddpm.batch=2", "methods.difftumor.ddpm.iterations=3",
    "methods.difftumor.ddpm.copies=2", "methods.difftumor.ddpm.timesteps=10", "methods.difftumor.sampling.steps=2",
    "methods.blended.unconditional.widths=[32,64]", "methods.blended.unconditional.res_blocks=1", "methods.blended.unconditional.batch=2",
    "methods.blended.unconditional.iterations=3", "methods.blended.unconditional.copies=2", "methods.blended.sampling.steps=2",
    "methods.freetumor.segmentor.widths=[4,8]", "methods.freetumor.segmentor.patch=[32,32,32]", "methods.freetumor.segmentor.batch=2",
    "methods.freetumor.segmentor.iterations=3", "methods.freetumor.gan.widths=[4,8]", "methods.freetumor.gan.classifier_width=4",
    "methods.freetumor.gan.patch=[32,32,32]", "methods.freetumor.gan.batch=1", "methods.freetumor.gan.iterations=3",
    "methods.freetumor.filter.threshold=0.0",
)  # fmt: skip


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Phantoms:
    """Six small phantoms with tumors (`.dataset`, an nnU-Net raw dataset) and two without (`.healthy`)."""
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), cases=6, healthy=2, seed=7, small=True)


@pytest.fixture
def grid() -> Grid:
    """Anisotropic spacing, origin off zero, turned about two axes."""
    a, b = math.radians(20), math.radians(-35)
    about_z = ((math.cos(a), -math.sin(a), 0.0), (math.sin(a), math.cos(a), 0.0), (0.0, 0.0, 1.0))
    about_x = ((1.0, 0.0, 0.0), (0.0, math.cos(b), -math.sin(b)), (0.0, math.sin(b), math.cos(b)))
    direction = tuple(sum(row[k] * about_x[k][j] for k in range(3)) for row in about_z for j in range(3))
    return Grid((12, 10, 8), (2.0, 3.0, 5.0), (-31.5, 12.25, 400.0), direction)


def tumors_of(plan: Plan, splits: Splits) -> tuple[CaseFiles, ...]:
    return real_tumors(plan, fingerprint_of(plan, splits), splits)


def fingerprint_of(plan: Plan, splits: Splits) -> Fingerprint:
    """The tumors of a plan's data set as they are outlined, and no intensity."""
    cases = []
    for case in (*splits.train, *splits.test):
        labels, grid = read_volume(Path(plan.dataset_path) / "labelsTr" / f"{case}{plan.file_ending}")
        tumors, _ = measure_tumors(CaseVoxels((), labels == plan.tumor_label, grid))
        cases.append(CaseFacts(case, grid, tumors))
    of_set = (plan.dataset, plan.dataset_path, plan.fingerprint_hash, plan.file_ending, plan.labels, plan.tumor_name, plan.tumor_label)
    return Fingerprint(*of_set, (), tuple(cases))


def plan_toy(workspace: Workspace, dataset: str, *settings: str, fold: int | None = None) -> None:
    """Plans with `TOY` and other settings; the second that measuring bf16 takes is spared."""
    from tumorgen_cli import devices, pipeline

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "measure_bf16_speedup", lambda: 0.0)
        pipeline.plan_dataset(workspace, dataset, None, "cpu", 8.0, settings=(*TOY, *settings), workers=0, fold=fold)


def sampling_with(workspace: Workspace, **changes):
    """TumorGen, loaded, with other settings of its sampling."""
    from tumorgen_cli.methods import find_method

    plan = workspace.plan()
    section = {**plan.methods["tumorgen"], "sampling": {**plan.methods["tumorgen"]["sampling"], **changes}}
    method = find_method("tumorgen")(replace(plan, methods={**plan.methods, "tumorgen": section}), workspace)
    method.load()
    return method


@pytest.fixture(scope="session")
def workspace(phantoms: Phantoms, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The phantoms planned with `TOY` settings and preprocessed."""
    from tumorgen_cli import pipeline

    found = Workspace(tmp_path_factory.mktemp("workspace"))
    plan_toy(found, str(phantoms.dataset))
    pipeline.preprocess_dataset(found, workers=0)
    return found


@pytest.fixture(scope="session")
def trained(workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A copy of `workspace` in which every stage of every method has been trained for a few steps."""
    from tumorgen_cli.methods import METHODS, find_method
    from tumorgen_cli.stages import train_stages

    found = Workspace(tmp_path_factory.mktemp("trained") / "work")
    shutil.copytree(workspace.root, found.root)
    for method in METHODS:
        if find_method(method).stages:
            train_stages(found, method, "all", device="cpu")
    return found
