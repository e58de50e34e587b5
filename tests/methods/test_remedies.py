"""What is said about settings of methods works when it is followed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tumorgen_cli.methods import base
from tumorgen_cli.methods import open as open_module
from tumorgen_cli.methods.latent.cache import find_candidates
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.planning.fields import check_overrides, plan_fields
from tumorgen_cli.planning.plan import make_plan
from tumorgen_cli.planning.presets import read_overrides
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.cases import load_case
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.errors import TumorgenError
from tumorgen_cli.tumors.masks import MaskConfig


def remedies(function, *arguments):
    with pytest.raises(TumorgenError) as error:
        function(*arguments)
    return [fault.remedy for fault in error.value.faults]


@pytest.fixture
def planned(workspace):
    """Plans the workspace's data with settings, and opens every method."""
    fingerprint, train = workspace.fingerprint(), workspace.splits().train
    sections = {name: find_method(name).plan_section for name in METHODS}
    fields = plan_fields(1, {name: find_method(name).section for name in METHODS})

    def make(*settings):
        overrides = read_overrides(None, settings)
        check_overrides(overrides, fields)
        plan = make_plan(fingerprint, train, DeviceBudget("cpu", 8.0, 0.0), sections, overrides)
        for name in METHODS:
            find_method(name)(plan, workspace)
        return plan

    return make


SETTINGS = [  # settings of plan, remedy, settings that follow it
    (
        ("methods.difftumor.vqgan.downsampling=4", "methods.difftumor.vqgan.widths=[16,32]"),
        "set methods.difftumor.vqgan.downsampling, .widths and .res_blocks together",
        (
            "methods.difftumor.vqgan.downsampling=4",
            "methods.difftumor.vqgan.widths=[16,32,64]",
            "methods.difftumor.vqgan.res_blocks=[1,1,1]",
        ),
    ),
    (
        ("methods.difftumor.autoencoder=tumorgen", "methods.difftumor.ddpm.scale=codebook"),
        "set methods.difftumor.ddpm.scale=channels, or methods.difftumor.autoencoder=vqgan",
        ("methods.difftumor.autoencoder=tumorgen", "methods.difftumor.ddpm.scale=channels"),
    ),
    (
        ("methods.freetumor.gan.segmentor_weight=0", "methods.freetumor.gan.classifier_weight=0"),
        "set methods.freetumor.gan.segmentor_weight or methods.freetumor.gan.classifier_weight above 0",
        ("methods.freetumor.gan.segmentor_weight=0", "methods.freetumor.gan.classifier_weight=0.1"),
    ),
    (
        (
            "methods.syntumor.sizes=mix",
            "methods.syntumor.mask.radii_mm=[4]",
            "methods.syntumor.mask.deformation=[[0,1]]",
        ),
        "give 4, or sizes=data",
        (
            "methods.syntumor.sizes=data",
            "methods.syntumor.mask.radii_mm=[4]",
            "methods.syntumor.mask.deformation=[[0,1]]",
        ),
    ),
    (
        ("methods.syntumor.mask.radii_mm=[4]", "methods.syntumor.sizes=data"),
        "set this and mask.radii_mm (--set) to lists of the same length",
        (
            "methods.syntumor.mask.radii_mm=[4]",
            "methods.syntumor.sizes=data",
            "methods.syntumor.mask.deformation=[[0,1]]",
        ),
    ),
]


@pytest.mark.parametrize(("wrong", "remedy", "right"), SETTINGS, ids=[row[1][:40] for row in SETTINGS])
def test_settings_are_corrected_as_told(planned, wrong, remedy, right):
    assert remedy in remedies(planned, *wrong)
    planned(*right)


@pytest.mark.parametrize(("name", "field"), [("difftumor", "later"), ("blended", "diffusion")])
def test_a_sampler_takes_fewer_steps_as_told(planned, name, field):
    """Or the plan has more of them."""
    steps, most = f"methods.{name}.sampling.steps=30", f"methods.{name}.{field}.timesteps"
    early = ("methods.difftumor.early.timesteps=40",) if name == "difftumor" else ()
    (remedy,) = set(remedies(planned, steps, f"{most}=20", *early))
    assert remedy == f"take fewer steps, or plan with a higher --set {most}=N"
    planned(f"methods.{name}.sampling.steps=20", f"{most}=20", *early)
    planned(steps, f"{most}=30", *early)


def test_masks_have_a_range_for_each_radius():
    (remedy,) = remedies(MaskConfig, "ellipsoid", (4.0, 8.0), ((0.0, 0.1),), 20.0)
    assert remedy == "set this and mask.radii_mm (--set) to lists of the same length"
    MaskConfig("ellipsoid", (4.0, 8.0), ((0.0, 0.1), (0.0, 0.2)), 20.0)


def test_scans_that_are_held_out_are_deleted_as_told(workspace, tmp_path):
    held_out = workspace.splits().test[0]
    learned = ["a", held_out]
    inner = SimpleNamespace(splits=workspace.splits, unlabeled=tmp_path / "unlabeled")
    method = SimpleNamespace(name="toy", workspace=inner, learned_from=lambda: learned)
    (remedy,) = remedies(open_module.check_held_out, method)
    assert (
        remedy == f"delete their folders in {tmp_path / 'unlabeled'}, then train anew (--restart), without such weights"
    )
    learned.remove(held_out)
    open_module.check_held_out(method)


def test_records_of_what_was_learned_are_made_again_as_told(tmp_path):
    """Training anew writes them again, or leaves none."""
    path = tmp_path / base.HEALTHY
    path.write_text("[3]")
    (remedy,) = remedies(base.read_healthy, tmp_path)
    assert remedy == "train the stage anew, with `tumorgen train STAGE --restart`"
    path.unlink()
    assert base.read_healthy(tmp_path) == ()


def test_first_weights_are_recorded_again_as_told(workspace, tmp_path):
    method = find_method("tumorgen")(workspace.plan(), Workspace(shutil.copytree(workspace.root, tmp_path / "work")))
    begun = method.folder("vae") / base.INITIAL
    begun.parent.mkdir(parents=True)
    begun.write_text("{}")
    (remedy,) = remedies(method.learned_from)
    assert remedy == "train the stage anew, with `tumorgen train STAGE --restart` and the same --init"
    begun.write_text('{"cases": ["x"]}')  # as the training writes it
    assert method.learned_from() == (*workspace.splits().train, "x")


def test_a_window_without_tumors_is_planned_larger_as_told(workspace):
    cases = [load_case(workspace.cases / name) for name in workspace.splits().train]
    small = [replace(case, record=replace(case.record, components=())) for case in cases]
    said = "plan with a larger window (--memory, or --set window.shape=[...]) or check the labels"
    assert remedies(find_candidates, small) == [said]
    assert len(find_candidates(cases)) >= len(cases)
