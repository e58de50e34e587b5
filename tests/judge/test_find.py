"""Which judge is taken, and which scans are like those that it has learned from."""

import dataclasses
import math

import numpy as np
import pytest

from tumorgen_cli.data.volumes import write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.judge import find
from tumorgen_cli.judge.card import JudgeFacts, record_facts
from tumorgen_cli.judge.domain import channel_differences, grid_differences, make_domain
from tumorgen_cli.judge.find import bundled_judge, choose_judge, needed_judge, no_judge_words
from tumorgen_cli.judge.results_files import read_judge_record
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import write_json

BUNDLED = read_judge_record(bundled_judge())
TORSO = Grid((128, 128, 213), (4.6875, 4.6875, 3.27))
SARCOMA = Grid((40, 38, 60), (5.46875, 5.46875, 3.27))


@pytest.fixture
def own(workspace):
    """The record of a judge of the workspace, which is written; it is removed in the end."""
    plan, splits = workspace.plan(), workspace.splits()
    record = dataclasses.replace(
        BUNDLED,
        cases=splits.train,
        tumor_name=plan.tumor_name,
        fingerprint_hash=plan.fingerprint_hash,
        domain=make_domain(workspace.fingerprint()),
    )
    write_json(workspace.judge / "judge.json", record)
    yield record
    (workspace.judge / "judge.json").unlink()


def scan(folder, grid, level=1.5, name="host"):
    path = folder / f"{name}_0000.nii.gz"
    image = np.random.default_rng(0).random(grid.shape).astype(np.float32) * level / 0.95
    write_volume(path, image, grid)
    return (path,)


def test_the_bundled_judge_is_that_of_its_card():
    facts = record_facts(BUNDLED, "the bundled judge")
    assert facts.dice == pytest.approx(0.8173, abs=1e-3)  # of the eight patients in MODEL_CARD.md, without phantoms
    assert facts.surface_dice == pytest.approx(0.7743, abs=1e-3)
    assert facts.words == ("the bundled judge: 6,000 training iterations; DSC 0.82, NSD 0.77 on 8 real held-out cases")
    assert facts.is_trained
    assert not facts.caution


def test_phantoms_get_the_bundled_judge(workspace, phantoms):
    scans = [(path,) for path in sorted(phantoms.healthy.glob("*_0000.nii.gz"))]
    choice = choose_judge(workspace, None, scans)
    assert choice.folder == bundled_judge()
    assert (choice.tumor_name, choice.reason, choice.differences) == ("tumor", "", ())


@pytest.mark.parametrize(
    ("grid", "level", "difference"),
    [
        (TORSO, 1.5, "extent 600×600×696.5 mm"),  # a whole body, with heart, kidneys and bladder
        (Grid((100, 100, 100), (2.0, 2.0, 2.0)), 1.5, "spacing 2×2×2 mm"),  # a brain
        (SARCOMA, 3000.0, "other units"),  # Bq/ml
    ],
    ids=["torso", "brain", "units"],
)
def test_hosts_unlike_its_card_do_not(workspace, tmp_path, grid, level, difference):
    scans = [scan(tmp_path, grid, level)]
    choice = choose_judge(workspace, None, scans)
    assert choice.folder is None
    assert difference in choice.reason
    with pytest.raises(StateError, match="train one of your own with `tumorgen train judge`, or give") as error:
        needed_judge(workspace, None, "cpu", scans)
    assert difference in error.value.faults[0].found
    forced = choose_judge(workspace, find.Path("bundled"), scans)
    assert forced.folder == bundled_judge()
    assert any(difference in each for each in forced.differences)


def test_a_voxel_that_is_no_number_is_no_other_unit(workspace, tmp_path):
    """What reads the host for painting names it."""
    image = np.ones(SARCOMA.shape, np.float32)
    image[0, 0, 0] = np.nan
    write_volume(tmp_path / "h_0000.nii.gz", image, SARCOMA)
    assert choose_judge(workspace, None, [(tmp_path / "h_0000.nii.gz",)]).differences == ()


def test_sarcoma_crops_fit():
    assert grid_differences(BUNDLED.domain, [SARCOMA]) == []
    assert channel_differences(BUNDLED.domain, ["SUV"], [6.0]) == []


@pytest.mark.parametrize("names", [["CT"], ["T1"], ["SPECT"], ["PET", "CT"]])
def test_other_channels_do_not_fit(names):
    (found,) = channel_differences(BUNDLED.domain, names, [1.5] * len(names))
    assert "the judge learned from PET" in found


def test_a_few_odd_scans_do_not_decide():
    assert grid_differences(BUNDLED.domain, [SARCOMA] * 19 + [TORSO]) == []
    (found,) = grid_differences(BUNDLED.domain, [SARCOMA] * 3 + [TORSO])
    assert "(1 of 4 scans)" in found


def test_a_forced_judge_warns(workspace, tmp_path, capsys):
    needed_judge(workspace, find.Path("bundled"), "cpu", [scan(tmp_path, TORSO)])
    text = " ".join(capsys.readouterr().err.split())
    assert "the scans are unlike those that this judge learned from (extent 600×600×696.5 mm" in text
    assert "6,000 training iterations" in text


def test_the_own_judge_comes_first(workspace, own):
    choice = choose_judge(workspace, None)
    assert (choice.folder, choice.tumor_name, choice.reason) == (workspace.judge, own.tumor_name, "")
    assert choose_judge(workspace, workspace.root).folder == workspace.root  # a given one before it


def test_a_judge_of_a_data_set_as_it_was_before_is_stale(workspace, own):
    """As every other stage is: its labels may have been corrected since."""
    write_json(workspace.judge / "judge.json", dataclasses.replace(own, fingerprint_hash="before"))
    with pytest.raises(StateError, match=r"judge is stale(.|\n)*as it was before"):
        choose_judge(workspace, None)


def test_no_conclusion_from_a_judge_that_is_hardly_trained():
    facts = JudgeFacts("a judge", 40, 0.2, 2, 0.9, 0.8)
    assert not facts.is_trained
    assert "40 training iterations in 0.2 of 30 planned minutes" in facts.words
    assert facts.caution.startswith("no conclusion: this judge is hardly trained (40 iterations")
    assert JudgeFacts("a judge").is_trained  # nothing is known of it
    assert "its scores mean little" in JudgeFacts("a judge", 6000, 30.0, 2, 0.3, 0.2).caution
    assert "its scores mean little" in JudgeFacts("a judge", 6000, 30.0, 2, math.nan, math.nan).caution


def test_a_choice_without_a_judge_says_why_and_how_to_get_one(workspace, tmp_path):
    words = no_judge_words(choose_judge(workspace, None, [scan(tmp_path, TORSO)]))
    assert words.startswith("no judge: the bundled judge does not know such scans (extent 600×600×696.5 mm")
    assert "`tumorgen train judge`" in words
    assert "--judge bundled" in words
