"""The check of a GPU: its sizes are a plan's, a part that fails loses no other, and it needs few libraries."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tumorgen_cli.planning import rules

EXAMPLES = Path(__file__).parents[2] / "examples"
#: libraries of the package that a machine with a GPU may lack
ABSENT = ("SimpleITK", "nnunetv2", "scipy", "skimage", "pandas", "pydantic", "typer", "matplotlib", "isal", "nibabel")


@pytest.fixture(scope="module")
def gpu_check(example):
    return example("gpu_check")


def test_sizes_are_those_of_a_plan_for_a_gpu(gpu_check):
    sizes = gpu_check.Sizes()
    assert math.prod(sizes.window) == rules.voxel_budget("cuda", sizes.budget_gib) == rules.PAPER_VOXELS
    assert sizes.patch == rules.largest_patch(sizes.window)
    assert sizes.batches[0] == rules.patches_per_step(sizes.patch)


def test_widths_are_those_of_a_plan_for_a_gpu(gpu_check, phantoms, monkeypatch, tmp_path):
    from tumorgen_cli.pipeline import plan as plan_module
    from tumorgen_cli.planning.workspace import Workspace
    from tumorgen_cli.system.devices import DeviceBudget

    sizes = gpu_check.Sizes()
    monkeypatch.setattr(plan_module, "find_budget", lambda *_: DeviceBudget("cuda", sizes.budget_gib, 2.0))
    plan = plan_module.plan_dataset(Workspace(tmp_path / "work"), str(phantoms.dataset), workers=0, dry_run=True).plan
    section = plan.methods["tumorgen"]
    levels = len(section["vae"]["widths"])
    assert tuple(section["vae"]["widths"]) == sizes.vae_widths[:levels]
    assert section["vae"]["res_blocks"][0] == section["flow"]["res_blocks"] == sizes.res_blocks
    assert tuple(section["flow"]["widths"]) == sizes.flow_widths
    assert (section["flow"]["batch"], section["refiner"]["batch"]) == sizes.batches[1:]
    assert section["refiner"]["width"] == sizes.refiner_width
    assert (section["flow"]["mask_coding"], plan.precision) == ("packed", "bf16")
    assert section["sampling"]["steps"] in sizes.sampling_steps


def test_steps_and_pairs_are_timed(gpu_check, tmp_path):
    (tmp_path / "cases" / "a").mkdir(parents=True)
    np.save(tmp_path / "cases" / "a" / "image.npy", np.linspace(0, 9, 12**3, dtype=np.float32).reshape(1, 12, 12, 12))
    images = gpu_check.read_arrays(tmp_path)
    assert (images[0].min(), images[0].max()) == (-1, 1)
    check = gpu_check.Check(gpu_check.TOY, "cpu", "fp32", images)
    steps, pairs = check.steps(), check.pairs()
    assert {name: each["batch"] for name, each in steps.items()} == {"vae": 2, "flow": 2, "refiner": 2}
    assert all(each["seconds"] > 0 for each in steps.values())
    assert list(pairs) == ["16x16x16, 1 steps", "16x16x16, 2 steps", "32x16x16, 1 steps", "32x16x16, 2 steps"]
    for each in pairs.values():
        assert min(each.values()) > 0
        assert each["whole"] > max(each["network"], each["decode"])


def test_a_part_that_fails_loses_no_other(gpu_check, tmp_path, monkeypatch):
    check = gpu_check.Check(gpu_check.TOY, "cpu", "fp32", gpu_check.read_arrays(None))
    for name in ("steps", "resumed", "shared", "tests"):
        monkeypatch.setattr(gpu_check.Check, name, lambda self: {"good": 1.23456})
    monkeypatch.setattr(gpu_check.Check, "pairs", lambda self: 1 / 0)
    assert not gpu_check.run_parts(check, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert found["seconds of a pair"]["error"] == "ZeroDivisionError: division by zero"
    assert found["tests"]["good"] == 1.23456
    page = (tmp_path / "out" / "gpu_check.html").read_text()
    assert "<th>error<td>ZeroDivisionError: division by zero" in page
    assert "<th>good<td>1.235" in page


@pytest.mark.slow
def test_the_whole_script_runs_with_few_libraries(tmp_path):
    """On a CPU, at toy size; libraries of the package that a machine with a GPU may lack cannot be imported."""
    absent = tmp_path / "absent"
    for name in ABSENT:
        (absent / name).mkdir(parents=True)
        (absent / name / "__init__.py").write_text("raise ImportError(__name__)\n")
    variables = {"PYTHONPATH": str(absent), "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    words = ["bash", str(EXAMPLES / "gpu_check.sh"), "out"]
    environment = {**os.environ, **variables}
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert found["a resumed training"]["equal_bit_by_bit"]
    assert (found["tests"]["PASSED"], found["tests"]["SKIPPED"]) == (6, 1)
    assert found["two processes on one device"]["2 processes"]["pairs_a_second"] > 0
