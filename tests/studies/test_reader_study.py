"""The study: blind, alike for both kinds, without padding; the scores against hand-made answers and published
intervals."""

import base64
import json
import math
import re
import shutil
import subprocess
import zlib
from dataclasses import replace

import numpy as np
import pytest
from support.sets import provenance, write_provenance
from support.spoil import edit_json
from support.workspaces import tumors_of

from tumorgen_cli.data.splits import Splits
from tumorgen_cli.data.volumes import write_volume
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.planning.plan import ChannelPlan, PastePlan, Plan, WindowPlan
from tumorgen_cli.studies.reader_lesions import check_pool
from tumorgen_cli.studies.reader_scores import SCORE_COLUMNS, rating_auc, score_rows, score_study, wilson
from tumorgen_cli.studies.reader_study import Key, StudyOptions, make_study, study_steps
from tumorgen_cli.system.errors import DataError, StateError
from tumorgen_cli.system.json_records import read_record

SPACING = (4.0, 4.0, 5.0)
SHAPE = (26, 22, 18)
GRID = Grid(SHAPE, SPACING, (-40.0, 10.0, 5.0))
SPLITS = Splits(("t1", "t2", "t3", "t4"), ("h1", "h2"))
WHOLE = Box((0, 0, 0), SHAPE)


def ball(center, radius_mm=11.0):
    axes = [(np.arange(n) - c) * s for n, c, s in zip(SHAPE, center, SPACING, strict=True)]
    return sum(a**2 for a in np.meshgrid(*axes, indexing="ij")) <= radius_mm**2


def scan(seed):
    return np.random.default_rng(seed).uniform(0, 10, SHAPE).astype(np.float32)


def write_case(folder, case, image, tumor, grid=GRID):
    write_volume(folder / "imagesTr" / f"{case}_0000.nii.gz", image, grid)
    write_volume(folder / "labelsTr" / f"{case}.nii.gz", 2 * tumor.astype(np.uint8), grid)


def write_set(folder, pairs):
    """`pairs`: case, host, image, tumor, box."""
    for case, _, image, tumor, _ in pairs:
        write_case(folder, case, image, tumor)
    records = [provenance(case, host, box) for case, host, _, _, box in pairs]
    write_provenance(folder, records)
    (folder / "dataset.json").write_text(json.dumps({"file_ending": ".nii.gz"}))
    return folder


@pytest.fixture
def plan(tmp_path):
    folder = tmp_path / "real"
    for i, case in enumerate((*SPLITS.train, *SPLITS.test)):
        write_case(folder, case, scan(i), ball((12 + i % 2, 10, 9)))
    return Plan(
        schema=1,
        dataset="D",
        dataset_path=str(folder),
        fingerprint_hash="f",
        file_ending=".nii.gz",
        labels={"background": 0, "organ": 1, "tumor": 2},
        tumor_name="tumor",
        tumor_label=2,
        channels=(ChannelPlan("PET", "dataset", 0.0, 10.0, 0.5),),
        main_channel=0,
        window=WindowPlan((5.0, 5.0, 5.0), (12, 12, 12), 0.1),
        paste=PastePlan(7.5, 10, 0.1, 0.0, 6.0, (0,), "data", "surroundings"),
        device="cpu",
        precision="fp32",
        memory_gib=1.0,
        seed=0,
        tolerance_mm=5.0,
        methods={},
        decisions=(),
    )


@pytest.fixture
def healthy(tmp_path):
    """Two pairs in each of two healthy scans: their windows overlap."""
    pairs = [(f"pair{i}", f"host{i % 2}", scan(20 + i), ball((11 + i // 2, 10, 8)), WHOLE) for i in range(4)]
    return write_set(tmp_path / "painted_secret", pairs)


def make(plan, sets, out, pairs, seed=0, splits=SPLITS, **more):
    seen = []
    study = make_study(
        plan,
        tumors_of(plan, splits),
        sets,
        out,
        StudyOptions(pairs, seed, **more),
        lambda done, note="": seen.append(done),
    )
    assert seen == list(range(1, study_steps(tumors_of(plan, splits), sets, pairs) + 1))
    return study, read_record(Key, out / "key.json", "")


def content(out):
    return json.loads(re.search(r'id="study">(.*?)</script>', (out / "reader_study.html").read_text(), re.DOTALL)[1])


def unpack(text, shape):
    """What the page's script does: inflate, sum up, (c, z, y, x) with x fastest -> (C, X, Y, Z)."""
    flat = np.cumsum(np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8), dtype=np.uint8)
    return flat.reshape(-1, *shape[::-1]).transpose(0, 3, 2, 1)


def test_page_is_blind_and_key_tells_all(plan, healthy, tmp_path):
    study, key = make(plan, [healthy], tmp_path / "out", 2)
    html = (tmp_path / "out" / "reader_study.html").read_text()
    assert study.study == key.study == content(tmp_path / "out")["study"]
    assert study.megabytes == round(len(html.encode()) / 1e6, 2)
    shown = re.sub(r'"image": "[^"]*"', "", html)  # names could stand in base64 by chance
    held = shown[shown.index('id="study">') : shown.index("<script>")]
    for name in (
        *SPLITS.train,
        *SPLITS.test,
        "real",
        "synthetic",
    ):  # h1 is a tag, real and synthetic are the page's words
        assert name not in held, name
    for name in ("pair", "host0", "host1", "secret", str(tmp_path), plan.hash, "held-out", "origin", "truth"):
        assert name not in shown, name
    assert "://" not in shown
    assert not re.findall(r"<(?:link|img|iframe)|src=|@import|url\(", shown)
    assert {tuple(sorted(case)) for case in content(tmp_path / "out")["cases"]} == {("center", "id", "image")}
    assert (
        [case.id for case in key.cases]
        == [case["id"] for case in content(tmp_path / "out")["cases"]]
        == ["001", "002", "003", "004"]
    )
    assert sorted(case.truth for case in key.cases) == ["real", "real", "synthetic", "synthetic"]
    sizes = {unpack(case["image"], key.shape).shape for case in content(tmp_path / "out")["cases"]}
    assert sizes == {(1, *key.shape)}


def test_both_kinds_are_treated_alike(plan, tmp_path):
    """The same scan, once as a real case and once as a pair, gives the same characters."""
    twin = write_set(tmp_path / "twin", [("a", "other", scan(4), ball((13, 10, 9)), WHOLE)])
    write_case(tmp_path / "real", "h1", scan(4), ball((13, 10, 9)))
    _, key = make(plan, [twin], tmp_path / "out", 1, splits=Splits((), ("h1",)))
    assert {case.truth for case in key.cases} == {"real", "synthetic"}
    a, b = content(tmp_path / "out")["cases"]
    assert (a["image"], a["center"]) == (b["image"], b["center"])


def ramps(axis):
    """The place along an axis in mm, in units of the clip window's 0 to 255."""
    shape = [1, 1, 1]
    shape[axis] = -1
    place = (np.arange(SHAPE[axis]) + 0.5) * SPACING[axis]
    return np.broadcast_to(place.reshape(shape), SHAPE).astype(np.float32)


@pytest.mark.parametrize("axis", range(3))
def test_windows_lie_within_the_scan(plan, tmp_path, axis):
    """On a ramp in mm a voxel's gray level is its place: at a corner as in the middle nothing is padded, stretched or
    turned."""
    wide = replace(plan, channels=(ChannelPlan("PET", "dataset", 0.0, 255.0, 1.0),))
    middle, corner = ball((13, 11, 9)), ball((2, 2, 1), 7)
    write_case(tmp_path / "real", "h1", ramps(axis), middle)
    pairs = write_set(
        tmp_path / "set", [("a", "h", ramps(axis), corner | ball((20, 15, 12), 5), Box((0, 0, 0), (9, 9, 9)))]
    )
    _, key = make(wide, [pairs], tmp_path / "out", 1, splits=Splits((), ("h1",)))
    assert key.spacing_mm == SPACING  # the finest there is
    assert key.shape == (15, 15, 12)  # the plan's 60 mm
    shown = {case["id"]: case for case in content(tmp_path / "out")["cases"]}
    for case in key.cases:
        box = np.argwhere(middle if case.truth == "real" else corner)
        center_mm = (box.min(0) + box.max(0) + 1) / 2 * SPACING
        level = np.moveaxis(unpack(shown[case.id]["image"], key.shape)[0], axis, 0)
        line = level[:, 3, 3].astype(int)
        assert np.abs(np.diff(line) - SPACING[axis]).max() <= 1
        assert (level == line[:, None, None]).all()
        at = np.interp(shown[case.id]["center"][axis], np.arange(len(line)), line)
        assert at == pytest.approx(center_mm[axis], abs=1) or case.shifted
        assert case.shifted == (case.truth == "synthetic")
        expected = center_mm[axis] - 30 if case.truth == "real" else 0
        assert line[0] == pytest.approx(expected + SPACING[axis] / 2, abs=SPACING[axis] / 2 + 1)
    assert any("near the scan's edge: 1 synthetic, 0 real" in note for note in key.notes)


def test_pictures_are_upright(plan, tmp_path):
    """A scan kept with its axes turned (x to the right, y and z swapped) gives the picture of the scan as it is."""
    image, tumor = scan(5), ball((12, 9, 8))
    turned = Grid((26, 18, 22), (4.0, 5.0, 4.0), GRID.origin_mm, (-1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0))
    write_case(tmp_path / "real", "h1", image, tumor)
    write_case(tmp_path / "real", "h2", *(a[::-1].transpose(0, 2, 1) for a in (image, tumor)), turned)
    pairs = write_set(
        tmp_path / "set", [(f"p{i}", f"h{i}", scan(30 + i), ball((12, 9, 8)), WHOLE) for i in range(4, 6)]
    )
    _, key = make(plan, [pairs], tmp_path / "out", 2, splits=Splits((), ("h1", "h2")))
    shown = {case["id"]: case for case in content(tmp_path / "out")["cases"]}
    a, b = (shown[case.id] for case in key.cases if case.truth == "real")
    assert (a["image"], a["center"]) == (b["image"], b["center"])


def test_backgrounds_are_not_shown_twice_where_avoidable(plan, healthy, tmp_path):
    pairs = [
        (f"{host}_{i}", host, scan(40 + i), ball((12, 10, 8)), WHOLE) for i, host in enumerate(("h1", "h1", "h2", "h2"))
    ]
    redrawn = write_set(tmp_path / "redrawn", pairs)
    for seed in range(4):
        _, key = make(plan, [redrawn], tmp_path / f"one{seed}", 1, seed)
        assert len({case.host for case in key.cases}) == 2  # the other held-out case is the real one
        assert [case.origin for case in key.cases if case.truth == "real"] == ["held-out"]
        _, key = make(plan, [redrawn], tmp_path / f"two{seed}", 2, seed)
        assert len({case.host for case in key.cases}) == 4
        assert {case.origin for case in key.cases if case.truth == "real"} == {"training"}
        assert not any(case.shares_background for case in key.cases)
    _, key = make(plan, [healthy, redrawn], tmp_path / "both", 4)
    origins = [case.origin for case in key.cases]
    assert origins.count("painted_secret") == origins.count("redrawn") == 2  # sets in turn
    assert not any(case.shares_background for case in key.cases)
    assert any("2 of 4 synthetic lesions lie in scans that are not of the data set" in note for note in key.notes)
    _, key = make(plan, [redrawn], tmp_path / "four", 4)
    for case in key.cases:
        same = {other.id for other in key.cases if other.host == case.host and other.id != case.id}
        assert set(case.shares_background) == same
    assert any("4 of 8 cases share background" in note for note in key.notes)


def test_only_what_was_painted_is_the_lesion(plan, tmp_path):
    """A larger tumor outside the box, and a smaller one inside, move nothing."""
    tumor = ball((5, 5, 4), 9) | ball((10, 10, 4), 4) | ball((18, 15, 13), 15)
    pairs = write_set(tmp_path / "set", [("a", "x", scan(1), tumor, Box((0, 0, 0), (13, 13, 8)))])
    _, key = make(plan, [pairs], tmp_path / "out", 1)
    (case,) = (case for case in key.cases if case.truth == "synthetic")
    assert case.lesion_ml == pytest.approx(ball((5, 5, 4), 9).sum() * 0.08)


def test_cases_without_a_tumor_are_left_out_and_too_few_are_told(plan, healthy, tmp_path):
    write_case(tmp_path / "real", "h1", scan(1), np.zeros(SHAPE))
    with pytest.raises(DataError) as error:
        make_study(
            plan, tumors_of(plan, SPLITS), [healthy], tmp_path / "out", StudyOptions(6, 0), lambda done, note="": None
        )
    assert [(fault.where, fault.found) for fault in error.value.faults] == [
        ("synthetic lesions", "4"),
        ("real lesions", "5"),
    ]
    assert [fault.remedy for fault in error.value.faults] == [
        "make more pairs with `tumorgen synthesize`, or choose fewer",
        "choose fewer pairs",
    ]
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError) as error:
        check_pool([], 0)
    assert error.value.faults[0].remedy == "give a number in this range, or leave it out"
    assert len(make(plan, [healthy], tmp_path / "fewer", 2)[1].cases) == 4


def test_same_seed_same_bytes_and_no_key_is_lost(plan, healthy, tmp_path):
    make(plan, [healthy], tmp_path / "a", 2)
    make(plan, [healthy], tmp_path / "b", 2)
    for name in ("reader_study.html", "key.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    make(plan, [healthy], tmp_path / "a", 2)
    before = (tmp_path / "a" / "reader_study.html").read_bytes()
    with pytest.raises(StateError, match="another study") as error:
        make(plan, [healthy], tmp_path / "a", 2, seed=1)
    assert error.value.faults[0].remedy == "choose another folder with --out, or move this one away"
    make(plan, [healthy], tmp_path / "c", 2, seed=1)
    assert (tmp_path / "a" / "reader_study.html").read_bytes() == before


def test_a_study_is_not_written_among_other_files(plan, healthy):
    """Nothing is drawn before."""
    before = {path: path.read_bytes() for path in healthy.rglob("*") if path.is_file()}
    with pytest.raises(StateError, match="not empty") as caught:
        make_study(plan, [], [healthy], healthy, StudyOptions(2, 0), lambda done, note="": pytest.fail("drawn"))
    assert "--out" in caught.value.faults[0].remedy
    assert before == {path: path.read_bytes() for path in healthy.rglob("*") if path.is_file()}


def test_page_keeps_to_its_size(plan, healthy, tmp_path):
    _, whole = make(plan, [healthy], tmp_path / "a", 2)
    study, key = make(plan, [healthy], tmp_path / "b", 2, megabytes=0.004)
    assert math.prod(key.shape) * 4 <= 4000 < math.prod(whole.shape) * 4
    pictures = sum(len(case["image"]) for case in content(tmp_path / "b")["cases"])
    assert pictures < 1.5 * 4000  # white noise does not deflate; scans stay below
    assert any("coarser" in note for note in study.notes)


def test_mask_is_shown_on_request(plan, healthy, tmp_path):
    _, key = make(plan, [healthy], tmp_path / "out", 2, with_mask=True)
    assert key.with_mask
    for case, line in zip(content(tmp_path / "out")["cases"], key.cases, strict=True):
        mask = unpack(case["mask"], key.shape)
        assert mask.sum() * 0.08 == pytest.approx(line.lesion_ml)
        assert mask[0][tuple(round(c) for c in case["center"])] == 1


TRUTHS = ("synthetic", "real", "real", "synthetic", "real", "synthetic")


@pytest.fixture
def key_file(tmp_path):
    cases = [
        {
            "id": f"{i:03d}",
            "truth": truth,
            "origin": "o",
            "case": f"c{i}",
            "host": "h",
            "lesion_ml": 1.0,
            "host_spacing_mm": SPACING,
            "shifted": False,
            "cut": False,
            "shares_background": [],
        }
        for i, truth in enumerate(TRUTHS, 1)
    ]
    key = {
        "study": "abc",
        "seed": 0,
        "plan_hash": "p",
        "sets": ["s"],
        "shape": [4, 4, 4],
        "spacing_mm": SPACING,
        "with_mask": False,
        "notes": [],
        "cases": cases,
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(key))
    return path


def answer_file(path, reader, words, study="abc"):
    """`words`: r5 is real with confidence 5, s1 synthetic with 1, - skipped; case i took i seconds."""
    answers = [
        {
            "case": f"{i:03d}",
            "answer": {"r": "real", "s": "synthetic", "-": None}[word[0]],
            "confidence": int(word[1]) if word[1:] else None,
            "comment": "",
            "seconds": i,
        }
        for i, word in enumerate(words.split(), 1)
    ]
    path.write_text(
        json.dumps({"study": study, "reader": reader, "exported": "2026-01-01T00:00:00Z", "answers": answers})
    )
    return path


@pytest.mark.parametrize(
    ("count", "total", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval(count, total, low, high):
    """81 of 263, 0 and 1 of some: Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3."""
    found = wilson(count, total)
    assert (found.value, found.low, found.high) == pytest.approx((count / total, low, high), abs=1e-4)
    assert math.isnan(wilson(0, 0).low)


def test_auc_by_hand():
    assert rating_auc([5, 1], [-2, -5]) == 1
    assert rating_auc([3, 3], [3, 3]) == 0.5
    assert rating_auc([-5], [5]) == 0
    assert rating_auc([4, -1, 2], [-1, 3]) == pytest.approx((2 + 0.5 + 1) / 6)
    assert math.isnan(rating_auc([], [1]))


def test_scores_by_hand(key_file, tmp_path):
    """Positives are the real lesions: 2 of 2 answered are called real, 1 of 3 synthetic ones is called synthetic."""
    files = [
        answer_file(tmp_path / "a.json", "Ada", "s4 r5 r2 r3 - r1"),
        answer_file(tmp_path / "b.json", "Bo", "s5 r5 r5 s5 r5 s5"),
        answer_file(tmp_path / "c.json", "Cy", "- - - - - -"),
    ]
    scores = score_study(files, key_file)
    ada, bo, cy = scores.readers
    assert (scores.study, scores.cases) == ("abc", 6)
    assert (ada.answered, ada.skipped) == (5, 1)
    assert (ada.sensitivity.count, ada.sensitivity.total) == (2, 2)
    assert (ada.specificity.count, ada.specificity.total) == (1, 3)
    assert (ada.accuracy.count, ada.accuracy.total) == (3, 5)
    assert ada.auc == pytest.approx(5 / 6)  # real 5, 2; synthetic -4, 3, 1
    assert ada.seconds == 3
    assert (bo.sensitivity.value, bo.specificity.value, bo.auc) == (1, 1, 1)
    assert (cy.answered, cy.skipped) == (0, 6)
    assert math.isnan(cy.auc)
    assert math.isnan(cy.accuracy.value)
    assert (scores.pooled.answered, scores.pooled.skipped) == (11, 7)
    assert (scores.pooled.accuracy.count, scores.pooled.accuracy.total) == (9, 11)
    rows = score_rows(scores)
    assert [row[0] for row in rows] == ["Ada", "Bo", "Cy", "all"]
    assert all(len(row) == len(SCORE_COLUMNS) for row in rows)
    assert rows[0][4] == "0.333 [0.061, 0.792] (1 of 3)"
    assert "undefined" in rows[2][3]
    assert len(score_rows(score_study(files[:1], key_file))) == 1


def test_a_case_that_is_not_in_the_file_was_skipped(key_file, tmp_path):
    assert score_study([answer_file(tmp_path / "a.json", "Ada", "s4 r5")], key_file).readers[0].skipped == 4


AGAIN = "export it from the page again"
ANSWERS = [  # what is done to the answers, remedy, what follows it
    (
        lambda found: found.update(study="xyz"),
        "give its own key, or leave the file out",
        lambda found: found.update(study="abc"),
    ),
    (
        lambda found: found.update(reader=" "),
        "write it into the field `reader`",
        lambda found: found.update(reader="Ada"),
    ),
    (
        lambda found: found["answers"][1].update(case="001"),
        "delete all but one of them",
        lambda found: found["answers"].pop(1),
    ),
    (lambda found: found["answers"][1].update(case="099"), AGAIN, lambda found: found["answers"][1].update(case="002")),
    (lambda found: found["answers"][1].update(seconds=-1), AGAIN, lambda found: found["answers"][1].update(seconds=2)),
    (
        lambda found: found["answers"][1].update(confidence=9),
        "ask the reader, or set the answer to null",
        lambda found: found["answers"][1].update(answer=None),
    ),
    (
        lambda found: found.update(age=3) or found.pop("exported"),
        AGAIN,
        lambda found: found.pop("age") and found.update(exported="2026"),
    ),
]


@pytest.mark.parametrize(("spoil", "remedy", "follow"), ANSWERS)
def test_answers_are_mended_as_told(key_file, tmp_path, spoil, remedy, follow):
    path = answer_file(tmp_path / "a.json", "Ada", "s4 r5 r2")
    edit_json(path, lambda found: spoil(found) and None)
    with pytest.raises(DataError) as error:
        score_study([path], key_file)
    assert remedy in {fault.remedy for fault in error.value.faults}
    edit_json(path, lambda found: follow(found) and None)
    (reader,) = score_study([path], key_file).readers
    assert reader.reader == "Ada"
    assert reader.answered + reader.skipped == 6
    assert reader.answered >= 2


def test_files_of_readers_and_the_key_are_given_as_told(key_file, tmp_path):
    path = answer_file(tmp_path / "a.json", "Ada", "s4 r5 r2")

    def remedies(files, key):
        with pytest.raises(DataError) as error:
            score_study(files, key)
        return [fault.remedy for fault in error.value.faults]

    assert remedies([], key_file) == ["give the files that the readers exported from the page"]
    assert remedies([path], tmp_path / "none.json") == ["give the key.json that was written with the page"]
    assert remedies([path, path], key_file) == ["leave the older out, or rename a namesake"]
    other = answer_file(tmp_path / "b.json", "Ada B.", "s4 r5 r2")
    assert [reader.reader for reader in score_study([path, other], key_file).readers] == ["Ada", "Ada B."]


def test_every_fault_is_told(key_file, tmp_path):
    good = answer_file(tmp_path / "good.json", "Ada", "s4 r5 r2 r3 - r1")
    again = answer_file(tmp_path / "again.json", " ada ", "s4 r5 r2 r3 - r1")
    other = answer_file(tmp_path / "other.json", "Bo", "s4", study="xyz")
    nameless = answer_file(tmp_path / "nameless.json", " ", "r1 r r9 s3 s3 s3 s3")
    twice = answer_file(tmp_path / "twice.json", "Cy", "s4 r5")
    twice.write_text(twice.read_text().replace('"002"', '"001"').replace('"seconds": 2', '"seconds": NaN'))
    broken, wrong = tmp_path / "broken.json", tmp_path / "wrong.json"
    broken.write_text('{"study": ')
    wrong.write_text(json.dumps({"study": "abc", "reader": "Di", "answers": [], "age": 3}))
    with pytest.raises(DataError) as error:
        score_study([good, again, other, nameless, twice, broken, wrong, tmp_path / "missing.json"], key_file)
    told = str(error.value)
    for part in (
        "2 files of reader ada",
        "answers to study xyz",
        "nameless.json: reader",
        "case 002\n    found:    confidence None",
        "confidence 9",
        "case 007\n    found:    an unknown case",
        "case 001\n    found:    2 answers",
        "nan seconds",
        "broken.json",
        "wrong.json.age",
        "wrong.json.exported",
        "missing.json",
    ):
        assert part in told, part
    assert len(error.value.faults) == 12
    with pytest.raises(DataError, match="no file"):
        score_study([], key_file)
    with pytest.raises(DataError) as error:  # both at once
        score_study([tmp_path / "missing.json"], tmp_path / "nowhere" / "key.json")
    assert [fault.where for fault in error.value.faults] == [
        str(tmp_path / "nowhere" / "key.json"),
        str(tmp_path / "missing.json"),
    ]


_DRIVER = """
<script>
(async () => {
  const report = found => {
    document.body.innerHTML = `<pre id="result">${btoa(JSON.stringify(found))}</pre>`;
  };
  const key = k => document.body.dispatchEvent(new KeyboardEvent("keydown", {key: k, bubbles: true}));
  try {
    $("reader").value = "Robot"; $("reader").dispatchEvent(new Event("input"));
    const seen = [];
    for (let i = 0; i < study.cases.length; i++) {
      if (kept.place !== i) throw new Error(`at ${kept.place} instead of ${i}`);
      await show(i);
      seen.push(volume);
      if (i === 1) { $("skip").click(); continue; }
      document.querySelector(`input[name=answer][value=${i % 2 ? "real" : "synthetic"}]`).click();
      if ($("next").disabled === false) throw new Error("next before confidence");
      key(String(1 + i % 5));
      PLANES[0].canvas.dispatchEvent(new WheelEvent("wheel", {deltaY: -100}));
      $("next").click();
    }
    const sums = seen.map(v => v.reduce((a, b) => a + b, 0));
    report({sums, text: exported(), kept: localStorage.getItem(STORE)});
  } catch (error) { report({error: String(error)}); }
})();
</script></body>"""


@pytest.mark.slow
def test_a_reader_in_a_browser(plan, healthy, tmp_path):
    """A robot answers all but one case; what the page exports scores as it answered."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("there is no Chromium on the PATH")
    _, key = make(plan, [healthy], tmp_path / "out", 3)
    page = tmp_path / "driven.html"
    page.write_text((tmp_path / "out" / "reader_study.html").read_text().replace("</body>", _DRIVER))
    call = [
        browser,
        "--headless=new",
        "--no-sandbox",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=60000",
    ]
    shown = subprocess.run(
        [*call, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=300, check=True
    ).stdout
    result = json.loads(base64.b64decode(re.search(r'<pre id="result">([^<]+)', shown)[1]))
    assert "error" not in result, result
    assert result["sums"] == [
        int(unpack(case["image"], key.shape).sum()) for case in content(tmp_path / "out")["cases"]
    ]
    assert len(json.loads(result["kept"])["answers"]) == 6
    (tmp_path / "answers.json").write_text(result["text"])
    (robot,) = score_study([tmp_path / "answers.json"], tmp_path / "out" / "key.json").readers
    said = {f"{i + 1:03d}": "real" if i % 2 else "synthetic" for i in range(6) if i != 1}
    right = sum(said.get(case.id) == case.truth for case in key.cases)
    assert (robot.reader, robot.answered, robot.skipped, robot.accuracy.count) == ("Robot", 5, 1, right)
