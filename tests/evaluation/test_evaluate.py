"""Scores of a small set written by hand, with a judge that is a threshold and remembers what it was asked."""

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.sets import (
    BOX,
    GRID,
    SHAPE,
    SPACING,
    SPLITS,
    Threshold,
    ball,
    provenance,
    scan,
    write_case,
    write_provenance,
    write_set,
)
from support.workspaces import fingerprint_of, tumors_of

from tumorgen_cli.data.volumes import read_image, read_volume, write_volume
from tumorgen_cli.evaluation import cases
from tumorgen_cli.evaluation import measure as measure_module
from tumorgen_cli.evaluation.evaluate import ScoringJudge, evaluate_set, evaluation_steps, read_scores
from tumorgen_cli.evaluation.measure import window_around
from tumorgen_cli.evaluation.reports import one_set
from tumorgen_cli.evaluation.reports.one_set import write_page
from tumorgen_cli.evaluation.scores import PLACES
from tumorgen_cli.geometry import Box, Grid, tight_box
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.metrics.feature_networks import hand_made
from tumorgen_cli.pipeline import evaluate as pipeline_evaluate
from tumorgen_cli.planning.plan import ChannelPlan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.files import hash_files


def evaluate(plan, folder, judge, tmp_path):
    steps = []
    out, real = tmp_path / "evaluation" / "toy", tumors_of(plan, SPLITS)
    scoring = ScoringJudge(
        judge and Predictions(judge, measure_module.cache_folder(out)), reason="" if judge else "none"
    )
    scores = evaluate_set(plan, real, folder, out, scoring, hand_made(), 0, lambda done, note="": steps.append(done))
    write_page(plan, real, folder, out, scores, ())
    assert steps == list(range(1, evaluation_steps(folder, real) + 1))
    return scores


def verdict(plan, case, cache, judge):
    return measure_module.verdict_of(plan, case, measure_module.judge_case(plan, case, Predictions(judge, cache)))


def test_scores_of_a_set(plan, synthetic, tmp_path):
    scores = evaluate(plan, synthetic, Threshold(), tmp_path)
    a, b, c = scores.of("synthetic")
    assert (a.verdict.dice, a.verdict.surface_dice, a.verdict.proportion) == (1, 1, 1)
    assert 0 < b.verdict.dice < 0.8
    assert (c.verdict.dice, c.verdict.surface_dice, c.verdict.missed) == (0, 0, 1)  # nothing found: one mask is empty
    assert a.statistics.contrast == pytest.approx(5, abs=0.2)
    assert b.host == "x"
    assert scores.agreement.of("dice").synthetic.mean == pytest.approx((1 + b.verdict.dice) / 3)
    assert (
        scores.agreement.of("dice").synthetic.low
        <= scores.agreement.of("dice").synthetic.mean
        <= scores.agreement.of("dice").synthetic.high
    )
    assert scores.agreement.of("dice").real.mean == 1  # the threshold finds every real tumor
    assert scores.agreement.of("dice").real.count == 2
    assert (scores.agreement.synthetic_lesions.lesions, scores.agreement.synthetic_lesions.missed) == (3, 1)
    assert sum(stratum.dice.synthetic.count for stratum in scores.agreement.strata) == 3
    assert all(math.isnan(case.verdict.dice) for case in scores.of("train"))
    shares = {share.kind: share for share in scores.shares}
    assert shares["low-contrast"].synthetic == pytest.approx(2 / 3)  # b, whose image lies beside its mask, and c
    assert shares["low-contrast"].training == pytest.approx(1 / 4)
    contrast = next(row for row in scores.comparisons if row.field == "contrast")
    assert contrast.training.count == 4
    assert 0 < contrast.ks <= 1
    assert [row.measure for row in scores.radiomics] == ["frechet", "coverage"]
    assert scores.radiomics[0].whole.value > 0
    assert {(row.plane, row.place, row.measure) for row in scores.planes} == {
        (plane, place, measure)
        for plane in ("axial", "coronal", "sagittal", "all")
        for place in ("middle", "tumor")
        for measure in ("frechet", "kernel")
    }
    assert all(
        min(row.whole.value, row.matched.value, row.floor.value) > 0
        for row in scores.planes
        if row.measure == "frechet"
    )
    assert math.isnan(scores.reader.auc)
    assert "10 of each" in scores.reader.reason
    assert {pair.case for pair in scores.novelty.pairs} == {"a", "b", "c"}


def test_surroundings_of_painted_tumors_are_those_of_the_pairs_image(plan, tmp_path):
    """One tumor lies in the tissue of the training tumors, one in tissue three times as bright."""
    mask = ball((12, 10, 9), 14)
    pairs = [("alike", "x", scan(mask, 6, 1), 2 * mask), ("bright", "y", 3 * scan(mask, 2, 2), 2 * mask)]
    scores = evaluate(plan, write_set(tmp_path / "set", pairs), None, tmp_path)
    table = csv.DictReader((tmp_path / "evaluation" / "toy" / "cases.csv").read_text().splitlines())
    found = {row["case"]: float(row["surroundings"]) for row in table}
    assert found.pop("bright") == pytest.approx(3, abs=0.1)
    assert list(found.values()) == pytest.approx([1] * 7, abs=0.05)
    summary = next(row for row in scores.comparisons if row.field == "surroundings")
    assert (summary.synthetic.median, summary.held_out.count) == (pytest.approx(2, abs=0.1), 2)
    assert 0.9 < scores.places.low < scores.places.high < 1.1
    assert scores.places.synthetic in (0.5, 1)  # four training tumors bound the alike one: chance decides


def test_redrawn_tumors_are_held_against_those_they_replace(plan, tmp_path):
    """Of the case's own tumors those that lie in the painted box: none where the box is beside them, or the host
    another scan of that name."""
    old, new = ball((12, 10, 9), 12), ball((12, 10, 9), 8)
    folder = write_set(tmp_path / "set", [(name, "t1", scan(new, 6, 1), 2 * new) for name in "abcd"])
    own = hash_files([Path(plan.dataset_path) / "imagesTr" / "t1_0000.nii.gz"])
    tight = tight_box(old)
    short = Box(tight.start, (tight.stop[0] - 1, *tight.stop[1:]))
    lines = [
        replace(provenance(case, "t1", box), host_hash=own) for case, box in (("a", BOX), ("b", tight), ("c", short))
    ]
    lines.append(provenance("d", "t1"))
    write_provenance(folder, lines)
    scores = evaluate(plan, folder, None, tmp_path)
    assert (scores.redrawn.volume.count, scores.redrawn.volume.median) == (2, pytest.approx(new.sum() / old.sum()))
    assert (
        "volume over the volume of the replaced tumor (2)"
        in (tmp_path / "evaluation" / "toy" / "report.html").read_text()
    )
    assert (
        "volume of a redrawn tumor over the old one's, median",
        f"{new.sum() / old.sum():.2f}; tumors: 2",
    ) in pipeline_evaluate._score_rows(scores)


def test_a_redrawn_tumor_is_judged_beside_the_one_it_replaces(plan, tmp_path):
    """Real: the threshold finds all of it. Painted: half of its mask, hence 2/3, and only in the held-out case."""
    case, known = SPLITS.test[0], SPLITS.train[0]
    masks = {
        each: read_volume(Path(plan.dataset_path) / "labelsTr" / f"{each}.nii.gz")[0] == 2 for each in (case, known)
    }
    pairs, lines = [], []
    for name, host in (("a", case), ("b", known)):
        box = tight_box(masks[host])
        seen = masks[host].copy()
        seen[: (box.start[0] + box.stop[0]) // 2] = False
        pairs.append((name, host, scan(seen, 6, 1), 2 * masks[host]))
        own = hash_files([Path(plan.dataset_path) / "imagesTr" / f"{host}_0000.nii.gz"])
        lines.append(replace(provenance(name, host, box), host_hash=own))
    folder = write_set(tmp_path / "set", pairs)
    write_provenance(folder, lines)
    scores = evaluate(plan, folder, Threshold(), tmp_path)
    assert scores.redrawn.volume.count == 2
    whole, stratum = scores.redrawn.strata
    assert (whole.dice.count, whole.hosts, whole.few) == (1, 1, True)
    painted = next(each for each in scores.of("synthetic") if each.case == "a").verdict
    assert 0.5 < painted.dice < 0.8
    assert whole.dice.mean == pytest.approx(painted.dice - 1)
    assert whole.surface_dice.mean == pytest.approx(painted.surface_dice - 1)
    assert stratum.size in {"small", "medium", "large"}
    page = (tmp_path / "evaluation" / "toy" / "report.html").read_text()
    assert "Are redrawn tumors as hard as those they replace?" in page
    assert "too few to conclude from" in page
    assert evaluate(plan, folder, None, tmp_path).redrawn.strata == ()


def test_files(plan, synthetic, tmp_path):
    scores = evaluate(plan, synthetic, Threshold(), tmp_path)
    out = tmp_path / "evaluation" / "toy"
    assert "NaN" not in (out / "scores.json").read_text()
    assert str(read_scores(out / "scores.json")) == str(scores)  # nan is not equal to itself; its text is
    rows = list(csv.DictReader((out / "cases.csv").read_text().splitlines()))
    assert [row["group"] for row in rows] == ["synthetic"] * 3 + ["train"] * 4 + ["test"] * 2
    assert float(rows[0]["dice"]) == 1
    assert "<html" in (out / "report.html").read_text()


def test_a_rerun_asks_nothing_again(plan, synthetic, tmp_path, monkeypatch):
    first, judge = evaluate(plan, synthetic, Threshold(), tmp_path), Threshold()
    monkeypatch.setattr(measure_module, "describe_tumor", None)  # would fail if called
    assert str(evaluate(plan, synthetic, judge, tmp_path)) == str(first)
    assert judge.asked == 0
    other = Threshold()
    other.hash = "4567"
    evaluate(plan, synthetic, other, tmp_path)
    assert other.asked == 5  # three pairs, two test cases


def test_cut_caches_are_made_again(plan, synthetic, tmp_path):
    """Predictions, measurements and features; a cut one must not change a score."""
    first = evaluate(plan, synthetic, Threshold(), tmp_path)
    cached = sorted((tmp_path / "evaluation" / ".cache").rglob("*.npz"))
    assert {path.parent.name for path in cached} == {"drawn", "measured", Threshold.hash}
    for path in cached:
        content = path.read_bytes()
        path.write_bytes(content[: 6 * len(content) // 10])
    assert str(evaluate(plan, synthetic, Threshold(), tmp_path)) == str(first)


def test_a_changed_pair_is_measured_again(plan, synthetic, tmp_path):
    evaluate(plan, synthetic, Threshold(), tmp_path)
    seen = ball((12, 10, 8), 14)
    write_case(synthetic, "c", scan(seen, 8, 14), seen * 2)
    with pytest.raises(StateError, match=r"c_0000(.|\n)*changed since it was written"):
        evaluate(plan, synthetic, Threshold(), tmp_path)
    write_provenance(synthetic, read_provenance(synthetic))  # as if it had been made so
    judge = Threshold()
    assert evaluate(plan, synthetic, judge, tmp_path).of("synthetic")[2].verdict.dice == 1
    assert judge.asked == 1


def test_without_a_judge(plan, synthetic, tmp_path):
    scores = evaluate(plan, synthetic, None, tmp_path)
    assert scores.judge == scores.judge_hash == ""
    assert scores.agreement.of("dice").synthetic.count == 0
    assert scores.agreement.of("dice").synthetic.undefined == 3
    assert scores.comparisons[0].synthetic.count == 3
    assert math.isnan(read_scores(tmp_path / "evaluation" / "toy" / "scores.json").agreement.of("dice").synthetic.mean)
    for channel, unit in (("SUV", "SUV"), ("PET", "uptake"), ("T1", "scan ranges")):
        rows = dict(pipeline_evaluate._score_rows(replace(scores, channel=channel)))
        assert f" {unit}; training" in rows["mean intensity, median"]
        assert f" {unit}/mm; training" in rows["boundary gradient, median"]


def test_what_lies_outside_the_box_does_not_count(plan, tmp_path):
    """A real tumor of the host beside the box, and hot spots far from it, change neither agreement nor statistics."""
    painted, beside = ball((12, 10, 8), 14), ball((21, 10, 8), 8)
    image = scan(painted | beside, 6, 1)
    image[0:2, 0:2] = 30
    folder = write_set(tmp_path / "synthetic" / "toy", [("a", "x", image, 2 * (painted | beside))])
    (case,) = evaluate(plan, folder, Threshold(), tmp_path).of("synthetic")
    assert case.verdict.dice == 1
    assert case.statistics.contrast == pytest.approx(5, abs=0.2)
    assert case.statistics.volume_ml == pytest.approx(painted.sum() * 0.08)


def test_an_empty_pair_is_counted_not_hidden(plan, synthetic, tmp_path):
    write_case(synthetic, "c", scan(np.zeros(SHAPE, bool), 1, 2), np.zeros(SHAPE))
    write_provenance(synthetic, read_provenance(synthetic))
    scores = evaluate(plan, synthetic, Threshold(), tmp_path)
    assert scores.of("synthetic")[2].statistics.volume_ml == 0
    assert scores.agreement.of("dice").synthetic.undefined == 1
    assert next(row for row in scores.comparisons if row.field == "contrast").synthetic.undefined == 1


def test_missing_files_are_all_told(plan, synthetic, tmp_path):
    (synthetic / "labelsTr" / "a.nii.gz").unlink()
    (synthetic / "imagesTr" / "b_0000.nii.gz").unlink()
    write_case(synthetic, "z", np.zeros(SHAPE), np.zeros(SHAPE))
    with pytest.raises(StateError) as error:
        evaluate(plan, synthetic, None, tmp_path)
    assert len(error.value.faults) == 4  # both files that belong to no pair
    with pytest.raises(StateError, match="Real cases") as error:
        cases.real_tumors(replace(plan, dataset_path="/nowhere"), fingerprint_of(plan, SPLITS), SPLITS)
    said = "put the data set back, or run `tumorgen plan DATASET` with its new path"
    assert error.value.faults[0].remedy == said
    assert len(cases.real_tumors(plan, fingerprint_of(plan, SPLITS), SPLITS)) > 0
    (synthetic / "provenance.jsonl").write_text('{"case": "a"}\nnonsense\n')
    with pytest.raises(StateError, match="line 2"):
        read_provenance(synthetic)
    (synthetic / "dataset.json").unlink()
    with pytest.raises(StateError, match="tumorgen synthesize"):
        cases.synthetic_cases(plan, synthetic)


def test_window_is_centred_and_kept_inside(plan):
    """A ramp in millimeters shows where each of the window's voxels comes from."""
    place = [(np.arange(n) + 0.5) * s for n, s in zip(SHAPE, SPACING, strict=True)]
    wide, limits = replace(plan, channels=(ChannelPlan("x", "dataset", 0.0, 1000.0, 1.0),)), np.array([[0.0, 1000.0]])
    box = Box((1, 9, 8), (5, 13, 10))
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = -1
        ramp = np.broadcast_to(place[axis].reshape(shape), SHAPE)[None]
        window, center = window_around(wide, np.ascontiguousarray(ramp), GRID, box, limits)
        assert window.shape == (1, 16, 16, 16)
        line = 1000 * np.moveaxis(window[0], axis, 0)[:, 8, 8]
        start = max(0, min(box.center[axis] * SPACING[axis] - 40, GRID.extent_mm[axis] - 80))
        inner = slice(1, -1)  # beyond the outer voxels' centers the scan's edge continues
        np.testing.assert_allclose(line[inner], (start + (np.arange(16) + 0.5) * 5)[inner], atol=0.01)
        assert start + (center[axis] + 0.5) * 5 == pytest.approx(box.center[axis] * SPACING[axis])


def test_real_tumors_count_one_by_one(plan, tmp_path, monkeypatch):
    """A pair holds one tumor; a case with two is two, or a copy of one of them would look new."""
    folder = tmp_path / "real"
    for case in (*SPLITS.train, *SPLITS.test):
        image, labels = (
            read_volume(Path(plan.dataset_path) / name)[0]
            for name in (f"imagesTr/{case}_0000.nii.gz", f"labelsTr/{case}.nii.gz")
        )
        write_case(folder, case, image, labels)
    large, small, crumb = ball((12, 10, 8), 14), ball((21, 10, 9), 9), ball((3, 3, 3), 1)
    image = scan(large | small, 6, 4)
    write_case(folder, "t1", image, 2 * (large | small | crumb))
    plan = replace(plan, dataset_path=str(folder))
    copy = write_set(
        tmp_path / "synthetic" / "toy", [("a", "x", image, 2 * large), ("b", "y", scan(large, 5, 9), 2 * large)]
    )
    read: list[Path] = []
    monkeypatch.setattr(cases, "read_image", lambda paths: (read.extend(paths), read_image(paths))[1])
    scores = evaluate_set(
        plan,
        tumors_of(plan, SPLITS),
        copy,
        tmp_path / "evaluation" / "toy",
        ScoringJudge(Predictions(Threshold())),
        hand_made(),
        0,
        lambda *_: None,
    )
    assert (
        len(read) == len(set(read)) == len({case.host for case in scores.cases})
    )  # a scan is read once for all that is in it
    names = [case.case for case in scores.of("train")]
    assert names == ["t1_tumor1", "t1_tumor2", "t2", "t3", "t4"]
    first, second = scores.of("train")[:2]
    assert (first.host, second.host) == ("t1", "t1")
    assert first.statistics.volume_ml == pytest.approx(large.sum() * 0.08)
    assert second.statistics.volume_ml == pytest.approx(small.sum() * 0.08)
    counts = {row.place: row.floor.counts[1] for row in scores.planes}
    assert counts == {"tumor": 4, "middle": 4}  # of scans, which are what was drawn
    near = next(near for near in scores.novelty.pairs if near.case == "a")
    assert near.nearest == "t1_tumor1"
    assert near.distance < 1e-3
    before = tumors_of(plan, SPLITS)[0]
    labels = before.label.read_bytes()
    write_case(folder, "t1", image, 2 * small)
    with pytest.raises(StateError, match="not in its place") as error:
        cases.read_tumor(plan, before)
    assert error.value.faults[0].remedy == "put the label back, or run `tumorgen plan DATASET` again"
    before.label.write_bytes(labels)
    assert cases.read_tumor(plan, before)[0].any()


def turned(array):
    """The same anatomy with its axes stored in another order, two of them reversed; `TURNED` is its grid."""
    return np.ascontiguousarray(array.transpose(2, 0, 1)[::-1, :, ::-1])


_ORDER = (2, 0, 1)
TURNED = Grid(
    tuple(SHAPE[a] for a in _ORDER),
    tuple(SPACING[a] for a in _ORDER),
    (0.0, 0.0, 0.0),
    (0.0, 1.0, 0.0, 0.0, 0.0, -1.0, -1.0, 0.0, 0.0),
)


def test_a_scan_counts_the_same_however_it_is_stored(plan, tmp_path):
    tumor = ball((9, 12, 7), 12)
    image = scan(tumor, 6, 4)
    box = Box((5, 8, 3), (15, 17, 12))
    mark = np.zeros(SHAPE, bool)
    mark[box.slices] = True
    found = []
    for name, grid, store in (("a", GRID, np.asarray), ("b", TURNED, turned)):
        write_volume(tmp_path / f"{name}_0000.nii.gz", store(image), grid)
        write_volume(tmp_path / f"{name}.nii.gz", store(2 * tumor).astype(np.uint8), grid)
        where = tight_box(store(mark))
        files = cases.TumorCase(
            "synthetic",
            name,
            name,
            "x",
            (tmp_path / f"{name}_0000.nii.gz",),
            tmp_path / f"{name}.nii.gz",
            (where,),
            (where,),
        )
        found.append(measure_module.measure_case(plan, files, tmp_path / "cache"))
    one, other = found
    for plane, seen in one.slices.items():
        np.testing.assert_allclose(seen, other.slices[plane], atol=1e-5)
    np.testing.assert_allclose(one.lesion, other.lesion, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(one.facts, other.facts, rtol=1e-5)


def test_the_middle_is_that_of_the_scan(plan):
    """The paper's protocol; through the tumor is another slice wherever the scan is larger than the window."""
    image = np.zeros((1, *SHAPE), np.float32)
    image[0, 13], image[0, 6:8] = 12, 3
    found = measure_module.slices_of(
        plan, image, replace(GRID, spacing_mm=(5.0, 5.0, 5.0)), Box((5, 5, 5), (9, 9, 9)), np.array([[0.0, 12.0]])
    )
    middle, tumor = found["sagittal"][:, 0]
    assert middle.mean() == pytest.approx(1)
    assert tumor.mean() == pytest.approx(0.5)  # the square root of a quarter


def test_a_box_that_was_widened_is_judged_where_it_was_asked_for(plan, tmp_path):
    """With the mask, and 10 mm around: what a method may change beyond counts neither for nor against it."""

    class Finds:
        """Marks what is above 3."""

        usual_extent_mm, hash, tumor_labels = (1e6, 1e6, 1e6), "finds", (1,)

        def tumor(self, image, grid):
            return image[0] > 3

    tumor, far = np.zeros((2, 40, 40, 40), np.float32)
    tumor[18:22, 18:22, 18:24] = 1
    far[30:33, 20, 20] = 1
    grid, asked = (
        Grid((40, 40, 40), (2.0, 2.0, 2.0)),
        Box((17, 17, 17), (23, 23, 21)),
    )  # 14 mm from what is found besides; the mask goes on
    write_volume(tmp_path / "a_0000.nii.gz", 5 * (tumor + far), grid)
    write_volume(tmp_path / "a.nii.gz", (plan.tumor_label * tumor).astype(np.uint8), grid)
    paths, found = ((tmp_path / "a_0000.nii.gz",), tmp_path / "a.nii.gz"), []
    for box in (Box((12, 12, 12), (34, 28, 28)), asked.hull(tight_box(tumor))):
        case = cases.TumorCase("synthetic", "a", "a", "x", *paths, (box,), (asked,))
        found += [verdict(plan, case, tmp_path, Finds())]
    assert found[0] == found[1]
    assert (found[0].dice, found[0].proportion) == (1.0, 1.0)
    wide = cases.TumorCase("synthetic", "a", "a", "x", *paths, *[(Box((12, 12, 12), (34, 28, 28)),)] * 2)
    assert verdict(plan, wide, tmp_path, Finds()).dice < 1


def test_units_of_scans_that_have_none_do_not_count(plan, tmp_path):
    """MR: the same scan at three times the gain is the same tumor."""
    plan = replace(plan, channels=(ChannelPlan("T1", "own", 0.0, 2.0, 1.0),))
    tumor, found = ball((12, 10, 8), 14), []
    for gain in (1.0, 3.0):
        folder = write_set(
            tmp_path / f"{gain}" / "synthetic" / "toy", [("a", "x", gain * scan(tumor, 6, 1), 2 * tumor)]
        )
        (files,) = cases.synthetic_cases(plan, folder)
        found.append(measure_module.measure_case(plan, files, tmp_path / f"{gain}"))
    assert found[0].statistics.contrast == pytest.approx(found[1].statistics.contrast, rel=1e-4)
    np.testing.assert_allclose(found[0].lesion, found[1].lesion, rtol=1e-3, atol=1e-5)


def test_the_main_channel_is_scored_and_shown(plan, synthetic, tmp_path, monkeypatch):
    """A second channel before it, of noise, changes neither scores nor pictures of tumors."""
    two, pairs = tmp_path / "real", tmp_path / "two" / "synthetic" / "toy"
    noise = np.random.default_rng(0).random(SHAPE, np.float32)
    for old, new in ((Path(plan.dataset_path), two), (synthetic, pairs)):
        shutil.copytree(old, new)
        for path in [*(new / "imagesTr").iterdir()]:
            path.rename(path.with_name(path.name.replace("_0000", "_0001")))
            write_volume(path, noise, GRID)
    write_provenance(pairs, read_provenance(pairs))
    both = replace(
        plan,
        dataset_path=str(two),
        channels=(ChannelPlan("CT", "dataset", 0.0, 1.0, 1.0), *plan.channels),
        main_channel=1,
    )
    found, pages = [], []
    monkeypatch.setattr(one_set, "write_report", lambda *args: pages.append(args[5]))
    for each, folder in ((plan, synthetic), (both, pairs)):
        found.append(evaluate(each, folder, None, folder.parent.parent))
    one, other = found
    assert other.channel == "PET"
    assert repr([case.statistics for case in other.cases]) == repr([case.statistics for case in one.cases])  # nan too
    assert other.comparisons == one.comparisons
    assert other.shares == one.shares
    (alone, beside) = pages
    assert beside.drawn.keys() == alone.drawn.keys()
    for case, pair in alone.drawn.items():
        for own, seen in zip(pair.planes, beside.drawn[case].planes, strict=True):
            np.testing.assert_array_equal(seen.pictures["after"], own.pictures["after"])
    assert beside.slices
    for case, picture in beside.slices.items():
        (files,) = (
            each for each in (*cases.synthetic_cases(plan, synthetic), *tumors_of(plan, SPLITS)) if each.case == case
        )
        seen = measure_module.measure_case(plan, files, tmp_path / "seen").slices["axial"]
        np.testing.assert_array_equal(picture, seen[PLACES.index("tumor"), 0])


def test_a_tumor_is_not_measured_by_itself(plan, tmp_path):
    """MR: two tumors of 1 % of a scan, twice and four times as bright as the rest, differ as much, and a third one
    changes nothing."""
    plan = replace(plan, channels=(ChannelPlan("T1", "own", 0.0, 4.0, 1.0),))
    tumor, other, means = ball((12, 10, 8), 14), ball((20, 16, 13), 12), []
    bare = scan(tumor & False, 1, 1)
    for uptake in (2.0, 4.0):
        for others in (other & False, other):
            image = np.where(others, 9.0, np.where(tumor, uptake, bare)).astype(np.float32)
            folder = write_set(
                tmp_path / f"{len(means)}" / "synthetic" / "toy", [("a", "x", image, 2 * (tumor | others))]
            )
            (files,) = cases.synthetic_cases(plan, folder)
            means.append(measure_module.measure_case(plan, files, folder.parent).statistics.mean)
    unit = np.percentile(bare, (0.1, 99.9))
    np.testing.assert_allclose(means, (np.repeat([2.0, 4.0], 2) - unit[0]) / np.ptp(unit), rtol=0.05)
