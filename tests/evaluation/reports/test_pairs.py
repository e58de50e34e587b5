"""The pairs of a page: chosen over the whole range, drawn with the scan before painting, kept in a cache."""

from dataclasses import replace

import numpy as np
import pytest
from support.scores import make_scores
from support.sets import BOX, ball, provenance, scan, write_provenance, write_set

from tumorgen_cli.data.volumes import read_image
from tumorgen_cli.evaluation.reports import pairs
from tumorgen_cli.evaluation.reports.pairs import draw_pairs, kinds_of, ranked_tumors, shown_cases, size_of
from tumorgen_cli.metrics.statistics import TumorStatistics
from tumorgen_cli.synthesis.set_files import write_hosts
from tumorgen_cli.system.files import hash_once

TUMOR = ball((12, 10, 9), 12)


@pytest.fixture
def painted(tmp_path):
    """A set of one pair, its host beside it."""
    host = write_set(tmp_path / "hosts", [("x", "x", scan(TUMOR, 1, 1), TUMOR * 0)]) / "imagesTr" / "x_0000.nii.gz"
    folder = write_set(tmp_path / "set", [("a", "x", scan(TUMOR, 6, 1), TUMOR * 2)])
    write_provenance(folder, [replace(provenance("a", "x"), host_hash=hash_once(host))])
    write_hosts(folder, {"x": [host]})
    return folder, host


def test_planes_show_the_pair_before_and_after_painting(plan, painted, tmp_path):
    folder, host = painted
    drawn = draw_pairs(plan, folder, ["a"], ["a"], tmp_path / "cache")["a"]
    assert drawn.has_host
    axial = drawn.planes[0]
    assert (axial.number, axial.count) == (10, TUMOR.shape[2])
    changed = axial.pictures["before"] != axial.pictures["after"]
    assert changed.any()
    inside = axial.pictures["after"] < 100  # PET is dark on white
    assert changed[inside].all()
    assert (axial.pictures["before"][inside] > 150).all()
    assert drawn.crop is not None
    assert drawn.crop.mask.sum() == TUMOR.sum()
    lowest, highest = (getattr(drawn.crop, name).max() / 255 * drawn.crop.levels[1] for name in ("before", "after"))
    assert lowest == pytest.approx(read_image((host,))[0][0][BOX.slices].max(), rel=0.3)
    assert highest == pytest.approx(read_image((folder / "imagesTr" / "a_0000.nii.gz",))[0].max(), rel=0.01)


def test_a_second_page_reads_the_pictures_again(plan, painted, tmp_path, monkeypatch):
    folder, _ = painted
    one = draw_pairs(plan, folder, ["a"], ["a"], tmp_path / "cache")["a"]
    monkeypatch.setattr(pairs, "_draw", None)
    other = draw_pairs(plan, folder, ["a"], ["a"], tmp_path / "cache")["a"]
    for a, b in zip(one.planes, other.planes, strict=True):
        assert (a.words, a.size_mm, a.sides, a.outlines) == (b.words, b.size_mm, b.sides, b.outlines)
        np.testing.assert_array_equal(a.pictures["before"], b.pictures["before"])
    assert one.crop.packed() == other.crop.packed()


@pytest.mark.parametrize("loss", ["gone", "another scan"])
def test_a_host_that_is_not_the_painted_one_is_not_shown(plan, painted, tmp_path, loss):
    folder, host = painted
    if loss == "gone":
        host.unlink()
    else:
        write_set(host.parents[1], [("x", "x", scan(TUMOR, 1, 5), TUMOR * 0)])
    drawn = draw_pairs(plan, folder, ["a"], [], tmp_path / "cache")["a"]
    assert not drawn.has_host
    assert drawn.crop is None
    assert all(plane.pictures.keys() == {"after"} for plane in drawn.planes)


def test_a_hundred_pairs_are_spread_from_best_to_worst():
    scores = make_scores([0.5])
    (one,) = scores.of("synthetic")
    dices = [*(i / 300 for i in range(300)), float("nan")]
    cases = [replace(one, case=f"pair{i}", verdict=replace(one.verdict, dice=d)) for i, d in enumerate(dices)]
    scores = replace(scores, cases=tuple(cases))
    shown = shown_cases(scores)
    assert len(shown) == 100
    assert shown[0] == "pair299"  # the best
    assert shown[-1] == "pair300"  # the undefined one is last
    assert ranked_tumors(scores)[-2].case == "pair0"


def test_kinds_and_sizes_come_from_the_scores():
    scores = make_scores([0.5, 0.0])
    limits = {"low-contrast": 6.0, "necrotic": 1.0, "heterogeneous": float("nan"), "small": 5.0}
    scores = replace(scores, shares=tuple(replace(s, threshold=limits[s.kind]) for s in scores.shares))
    case, missed = scores.of("synthetic")
    faint: TumorStatistics = replace(case.statistics, contrast=-1.0, core_ratio=2.0)
    assert kinds_of(replace(case, statistics=faint), scores) == ["low-contrast"]
    assert "missed by the judge" in kinds_of(missed, scores)
    sizes = [size_of(replace(case, statistics=replace(faint, volume_ml=v)), scores) for v in (0.1, 13.5, 99.0)]
    assert sizes == ["small", "medium", "large"]
