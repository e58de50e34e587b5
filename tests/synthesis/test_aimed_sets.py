"""Aimed sets: half of the pairs as without an aim, the others by it; by shards, again, and in the report."""

import json
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from support.painting import job_of
from support.pairs import Fake, paint, records
from support.report_pages import NOTHING, ORIGIN, drawn_tumor
from support.scores import make_scores
from support.segmentors import training_folds, write_segmentor

from tumorgen_cli.data.volumes import read_volume
from tumorgen_cli.evaluation.reports.one_set import Pictures, write_report
from tumorgen_cli.geometry import Box
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.pipeline.nnunet_setup import set_up_nnunet
from tumorgen_cli.pipeline.synthesize import synthesize_pairs
from tumorgen_cli.synthesis import pair as pair_module
from tumorgen_cli.synthesis.aim import Aim, AimedTumor, AimSummary
from tumorgen_cli.synthesis.counts import draw_count
from tumorgen_cli.synthesis.jobs import PairJob
from tumorgen_cli.synthesis.options import HostOptions, OnTheFlyOptions, SetOptions
from tumorgen_cli.synthesis.painter import paint as paint_patches
from tumorgen_cli.synthesis.set_files import read_aim, read_learned_from, read_provenance
from tumorgen_cli.synthesis.shards import Shard
from tumorgen_cli.synthesis.sources import healthy_sources
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.tumors.boxes import draw_size_mm

SMALL_ML = 6.0  # of the phantoms' tumors, 3 of 8 are smaller


@pytest.fixture(scope="module")
def segmentor(workspace, phantoms, tmp_path_factory):
    """It misses small tumors and outlines the others as drawn."""
    facts = {case.case: case for case in workspace.fingerprint().cases}

    def find(case, label):
        found = label.copy()
        for tumor in facts[case].tumors:
            if tumor.volume_ml < SMALL_ML:
                found[tumor.box.slices] = 0
        return found

    folder = tmp_path_factory.mktemp("segmentor") / "nnUNet__small"
    yield write_segmentor(folder, phantoms.dataset, training_folds(workspace), find)
    shutil.rmtree(workspace.root / "aim", ignore_errors=True)


@pytest.fixture(scope="module")
def aimed(workspace, phantoms, segmentor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("aimed") / "set"
    paint(workspace, phantoms, folder, aim=segmentor)
    return folder


def voxels(folder, case):
    return [read_volume(path)[0] for path in sorted(folder.glob(f"*Tr/{case}*"))]


def test_half_of_the_pairs_are_aimed_and_the_others_as_before(workspace, phantoms, aimed, tmp_path):
    paint(workspace, phantoms, tmp_path / "plain")
    before = {record["case"]: record for record in records(tmp_path / "plain")}
    of_each = Counter()
    for record in records(aimed):
        if record["tumors"][0]["aimed_at"] is None:
            assert record == before[record["case"]]
            for one, other in zip(*(voxels(f, record["case"]) for f in (aimed, tmp_path / "plain")), strict=True):
                np.testing.assert_array_equal(one, other)
        else:
            at = record["tumors"][0]["aimed_at"]
            assert at["size"] in ("small", "medium", "large")
            assert at["like"] in workspace.splits().train
            assert set(at) == {"like", "size"}  # copypaste knows no kinds, and there are few tumors
        of_each[record["host"], record["tumors"][0]["aimed_at"] is None] += 1
    assert set(of_each.values()) == {1}
    assert len(of_each) == 4  # two hosts, one pair of each kind


def test_what_was_aimed_at_is_told(workspace, aimed, segmentor, capsys):
    found = read_aim(aimed)
    assert (found.segmentor, found.tumors, found.cases) == ("nnUNet__small", 8, 5)
    assert found.found == pytest.approx(5 / 8)
    assert found.dice == pytest.approx(5 / 8)
    assert found.aimed
    small = next(row for row in found.strata if row.name == "small")
    assert (small.trait, small.tumors, small.found) == ("size", 3, 0.0)
    assert small.factor > 1
    assert set(workspace.splits().train) <= set(read_learned_from(aimed))
    assert set(workspace.splits().test).isdisjoint(read_learned_from(aimed))


def test_shards_and_later_calls_make_the_same_set(workspace, phantoms, aimed, segmentor, tmp_path):
    shards = tmp_path / "shards"
    for number in (2, 1):
        paint(workspace, phantoms, shards, aim=segmentor, shard=Shard(number, 2))
    assert records(shards) == records(aimed)
    assert json.loads((shards / "set.json").read_text()) == json.loads((aimed / "set.json").read_text())
    lost = next((shards / "imagesTr").iterdir())
    lost.unlink()
    paint(workspace, phantoms, shards, aim=segmentor)
    assert sorted(records(shards), key=lambda record: record["case"]) == sorted(
        records(aimed), key=lambda record: record["case"]
    )
    with pytest.raises(StateError, match="made with other aim"):
        paint(workspace, phantoms, shards)


def test_options_that_do_not_fit_an_aim_are_told(workspace, phantoms, segmentor, tmp_path):
    for others, remedy in (
        ({"box": Box((2, 2, 2), (20, 20, 20))}, "leave one out"),
        ({"sampling": Sampling(kind="low-contrast"), "method": "maskfirst"}, "leave one out"),
    ):
        with pytest.raises(PlanError) as error:
            paint(workspace, phantoms, tmp_path / "set", aim=segmentor, **others)
        assert [fault.remedy for fault in error.value.faults if fault.where.startswith("--aim")] == [remedy]
    made = SetOptions(2, tmp_path / "set")
    with pytest.raises(PlanError, match="--aim") as error:
        synthesize_pairs(workspace, "copypaste", made, HostOptions(cases="test", aim=segmentor), device="cpu")
    assert error.value.faults[0].remedy == "leave it out"
    assert not (tmp_path / "set").exists()


def test_without_a_pattern_all_pairs_are_as_before(workspace, phantoms, tmp_path, capsys):
    folder = write_segmentor(tmp_path / "s", phantoms.dataset, training_folds(workspace), lambda _, label: label)
    paint(workspace, phantoms, tmp_path / "set", aim=folder)
    assert "nothing to aim at" in " ".join(capsys.readouterr().err.split())
    assert all(tumor.aimed_at is None for record in read_provenance(tmp_path / "set") for tumor in record.tumors)
    assert not read_aim(tmp_path / "set").aimed
    shutil.rmtree(workspace.root / "aim")


def test_sizes_and_counts_follow_the_weights(workspace):
    cases = [case for case in workspace.fingerprint().cases if case.tumors]
    tumors = [tumor for case in cases for tumor in case.tumors]
    weights = np.array([0.0 if tumor.volume_ml > SMALL_ML else 1.0 for tumor in tumors])
    weights[0] = 3.0
    rng = np.random.default_rng(0)
    drawn = Counter(draw_size_mm(tumors, 0.0, (200.0,) * 3, rng, weights=weights)[1] for _ in range(600))
    small = {number for number, weight in enumerate(weights) if weight}
    assert set(drawn) == small
    assert drawn[0] / 600 == pytest.approx(3 / weights.sum(), abs=0.06)
    # the case with three tumors, of which one is small, and the case with two large ones
    body = max(case.body_ml for case in cases)
    counts = Counter(draw_count(cases, body, rng, weights) for _ in range(600))
    means = [np.mean(part) for part in np.split(weights, np.cumsum([len(case.tumors) for case in cases])[:-1])]
    expected = [mean for case, mean in zip(cases, means, strict=True) if len(case.tumors) == 3]
    assert counts[3] / 600 == pytest.approx(sum(expected) / sum(means), abs=0.06)
    assert counts[2] == 0


def test_aimed_tumors_are_of_the_drawn_size_and_kind(workspace, phantoms):
    """A method that knows kinds is asked for the kind; its own sizes, if it has such, give way."""
    plan, facts = workspace.plan(), workspace.fingerprint().cases
    method, count = Fake(plan, workspace), sum(len(case.tumors) for case in facts)
    method.draw_extents = lambda _: ((50.0, 50.0, 50.0),)
    asked = []
    paint_once = method.synthesize
    method.synthesize = lambda request, seed, sampling: asked.append(sampling) or paint_once(request, seed, sampling)
    chosen = min(range(count), key=lambda n: [t for case in facts for t in case.tumors][n].volume_ml)
    tumors = [AimedTumor("c", float(count * (n == chosen)), {"size": "small"}, "necrotic") for n in range(count)]
    aim = Aim(AimSummary("s", "h", count, 1, 0.5, 0.5, ()), tuple(tumors), ())
    inputs = pair_module.PairInputs(method, facts, Sampling(steps=3), count=1, aim=aim)
    source = healthy_sources(plan, phantoms.healthy, None)[0]
    host = pair_module.load_host(inputs, source)
    boxes = {}
    for is_aimed in (False, True):
        pair = pair_module.draw_pair(inputs, PairJob(0, source, "h", 5, 0, aimed=is_aimed), host)
        boxes[is_aimed] = np.prod(pair.tumors[0].requested_box.shape)
        assert (pair.tumors[0].aimed_at is not None) == is_aimed
    assert asked == [Sampling(steps=3), Sampling(steps=3, kind="necrotic")]
    assert pair.tumors[0].aimed_at == {"like": "c", "size": "small", "kind": "necrotic"}
    assert boxes[True] < boxes[False]


def test_the_painter_aims_at_half_of_its_pairs(unpainted, phantoms, segmentor, tmp_path):
    hosts, patches = HostOptions(phantoms.healthy, tumors=1, aim=segmentor), OnTheFlyOptions(pool=2, share=1.0)
    painting = set_up_nnunet(unpainted, "copypaste", hosts, patches, device="cpu").painting
    assert painting.learned_from == tuple(sorted(unpainted.splits().train))
    paint_patches(tmp_path, job_of(painting), 4)
    found = [record.tumors[0].aimed_at for record in read_provenance(tmp_path)]
    assert [at is not None for at in found] == [False, True, True, False]  # two hosts in turn
    assert found[1]["size"] in ("small", "medium", "large")
    plain = set_up_nnunet(unpainted, "copypaste", replace(hosts, aim=None), patches, device="cpu").painting
    assert plain.content_hash != painting.content_hash


def test_the_page_has_a_table_of_it(aimed, tmp_path):
    found, page = read_provenance(aimed), tmp_path / "report.html"
    scores = make_scores((0.5, 0.6))
    drawn = {case.case: drawn_tumor()[0] for case in scores.of("synthetic")}
    pictures = Pictures(drawn, {case: {} for case in drawn}, {})
    write_report(page, scores, (), found, NOTHING, pictures, replace(ORIGIN, aim=read_aim(aimed)))
    text = page.read_text()
    assert "What was it aimed at?" in text
    assert "size: small" in text
    assert "3 (38%)" in text.replace("38 %", "38%")
    write_report(page, scores, (), found, NOTHING, pictures, ORIGIN)
    assert "aimed at" not in page.read_text()
