"""Small workspaces: settings under which every stage takes a second or two, and what tests read from them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tumorgen_cli.data.integrity import CaseVoxels
from tumorgen_cli.data.phantom import Phantoms
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.evaluation.cases import TumorCase, real_tumors
from tumorgen_cli.planning.fingerprint import CaseFacts, Fingerprint, measure_tumors
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace

#: settings of `plan` under which every stage takes a second or two
TOY = (
    "precision=fp32",
    "window.shape=[32,32,32]",
    "paste.smallest_ml=0.05",
    "paste.least_change=0",  # barely trained networks paint faintly
    "paste.draws=3",
    "methods.tumorgen.vae.downsampling=4",
    "methods.tumorgen.vae.widths=[8,16,32]",
    "methods.tumorgen.vae.res_blocks=[1,1,1]",
    "methods.tumorgen.vae.latent_channels=4",
    "methods.tumorgen.vae.batch=1",
    "methods.tumorgen.vae.patch=[48,32,32]",
    "methods.tumorgen.vae.iterations=4",
    "methods.tumorgen.vae.least_psnr=0",
    "methods.tumorgen.flow.widths=[32,64]",
    "methods.tumorgen.flow.res_blocks=1",
    "methods.tumorgen.flow.batch=2",
    "methods.tumorgen.flow.iterations=3",
    "methods.tumorgen.flow.copies=2",
    "methods.tumorgen.flow.predicts=velocity",  # barely trained, a field that predicts data draws empty masks
    "methods.tumorgen.refiner.width=4",
    "methods.tumorgen.refiner.iterations=2",
    "methods.tumorgen.sampling.steps=2",
    "methods.difftumor.models=both",
    "methods.difftumor.early_mm=26",
    "methods.difftumor.vqgan.downsampling=4",
    "methods.difftumor.vqgan.widths=[8,16,32]",
    "methods.difftumor.vqgan.res_blocks=[1,1,1]",
    "methods.difftumor.vqgan.codes=64",
    "methods.difftumor.vqgan.critic_width=8",
    "methods.difftumor.vqgan.patch=[48,32,32]",
    "methods.difftumor.vqgan.iterations=4",
    "methods.difftumor.vqgan.least_psnr=0",
    "methods.difftumor.ddpm.widths=[8,16]",
    "methods.difftumor.ddpm.heads=[2,4]",
    "methods.difftumor.ddpm.batch=2",
    "methods.difftumor.ddpm.copies=2",
    "methods.difftumor.early.iterations=3",
    "methods.difftumor.later.iterations=3",
    "methods.difftumor.later.timesteps=10",
    "methods.difftumor.sampling.steps=2",
    "methods.blended.diffusion.widths=[32,64]",
    "methods.blended.diffusion.res_blocks=1",
    "methods.blended.diffusion.batch=2",
    "methods.blended.diffusion.iterations=3",
    "methods.blended.diffusion.copies=2",
    "methods.blended.sampling.steps=2",
    "methods.unconditional.unconditional.widths=[32,64]",
    "methods.unconditional.unconditional.res_blocks=1",
    "methods.unconditional.unconditional.batch=2",
    "methods.unconditional.unconditional.iterations=3",
    "methods.unconditional.unconditional.copies=2",
    "methods.unconditional.sampling.steps=2",
    "methods.freetumor.segmentor.widths=[4,8]",
    "methods.freetumor.segmentor.patch=[32,32,32]",
    "methods.freetumor.segmentor.batch=2",
    "methods.freetumor.segmentor.iterations=3",
    "methods.freetumor.gan.widths=[4,8]",
    "methods.freetumor.gan.classifier_width=4",
    "methods.freetumor.gan.patch=[32,32,32]",
    "methods.freetumor.gan.batch=1",
    "methods.freetumor.gan.iterations=3",
    "methods.freetumor.filter.threshold=0.0",
)


def tumors_of(plan: Plan, splits: Splits) -> tuple[TumorCase, ...]:
    return real_tumors(plan, fingerprint_of(plan, splits), splits)


def fingerprint_of(plan: Plan, splits: Splits) -> Fingerprint:
    """The tumors of a plan's data set as they are outlined, and no intensity."""
    cases = []
    for case in (*splits.train, *splits.test):
        labels, grid = read_volume(Path(plan.dataset_path) / "labelsTr" / f"{case}{plan.file_ending}")
        tumors, _ = measure_tumors(CaseVoxels((), labels == plan.tumor_label, grid))
        cases.append(CaseFacts(case, grid, tumors))
    of_set = (
        plan.dataset,
        plan.dataset_path,
        plan.fingerprint_hash,
        plan.file_ending,
        plan.labels,
        plan.tumor_name,
        plan.tumor_label,
    )
    return Fingerprint(*of_set, (), tuple(cases))


def plan_toy(
    workspace: Workspace, dataset: str, *settings: str, fold: int | None = None, groups: Path | None = None
) -> None:
    """Plans with `TOY` and other settings; the second that measuring bf16 takes is spared."""
    from tumorgen_cli.pipeline import plan as plan_module
    from tumorgen_cli.system import devices

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "measure_bf16_speedup", lambda: 0.0)
        options = PlanOptions(memory_gib=8.0, settings=(*TOY, *settings), fold=fold, groups=groups)
        plan_module.plan_dataset(workspace, dataset, options, "cpu", workers=0)


def sampling_with(workspace: Workspace, **changes):
    """TumorGen, loaded, with other settings of its sampling."""
    from tumorgen_cli.methods.registry import find_method

    plan = workspace.plan()
    section = {**plan.methods["tumorgen"], "sampling": {**plan.methods["tumorgen"]["sampling"], **changes}}
    method = find_method("tumorgen")(replace(plan, methods={**plan.methods, "tumorgen": section}), workspace)
    method.load()
    return method


def lay_out_demo(trained: Workspace, phantoms: Phantoms, folder: Path) -> Path:
    """Copy a trained workspace and link its phantoms into `folder` as `tumorgen_demo`, where `tumorgen demo` writes."""
    work = folder / "tumorgen_demo"
    shutil.copytree(trained.root, work)
    (work / "phantoms").symlink_to(phantoms.dataset.parent)
    return work
