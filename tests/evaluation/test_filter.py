"""The kept set: whole, nnU-Net's, its rejected pairs listed with reasons; the source untouched; shards of it equal to
one run."""

import csv
import json
import multiprocessing.pool
import shutil
from dataclasses import replace

import numpy as np
import pytest
from support.sets import GRID, SHAPE, Threshold, ball, scan, write_case, write_provenance, write_set

from tumorgen_cli.data.volumes import write_volume
from tumorgen_cli.evaluation.cases import synthetic_cases
from tumorgen_cli.evaluation.filter import filter_set
from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.verdict import PassRule
from tumorgen_cli.nnunet.results import LearnedCases
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.synthesis.set_files import read_judges, read_provenance, write_hosts
from tumorgen_cli.synthesis.shards import Shard
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.files import hash_file, hash_files
from tumorgen_cli.system.json_records import write_json


def run(plan, synthetic, tmp_path, keep=0.7, judge=None, shard=None, out="toy_kept", beside=None):
    steps = []
    folder, predictions = tmp_path / "synthetic" / out, tmp_path / "evaluation" / ".cache"
    found = filter_set(
        plan,
        synthetic,
        folder,
        Predictions(judge or Threshold(), predictions),
        PassRule(keep, beside),
        lambda done, note="": steps.append(done),
        shard,
    )
    assert steps[-1] - steps[0] == found.judged  # what is done is told first
    return found, folder


def contents(folder):
    """Every file but locks by its bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_kept_and_rejected(plan, synthetic, tmp_path):
    before = {path: hash_file(path) for path in synthetic.rglob("*") if path.is_file()}
    found, out = run(plan, synthetic, tmp_path)
    assert (found.kept, found.rejected, found.reasons) == (1, 2, {"P below the threshold": 2})
    assert [line.case for line in read_provenance(out)] == ["a"]
    assert json.loads((out / "dataset.json").read_text())["numTraining"] == 1
    assert sorted(path.name for path in out.glob("*Tr/*")) == ["a.nii.gz", "a_0000.nii.gz"]
    rows = {row["case"]: row for row in csv.DictReader((out / "rejected.csv").read_text().splitlines())}
    assert rows.keys() == {"b", "c"}
    assert float(rows["c"]["proportion"]) == 0
    assert 0 < float(rows["b"]["proportion"]) < 0.7
    assert before == {path: hash_file(path) for path in synthetic.rglob("*") if path.is_file()}


def test_a_lower_bar_keeps_more_and_is_another_set(plan, synthetic, tmp_path):
    run(plan, synthetic, tmp_path)
    with pytest.raises(StateError, match="another set"):
        run(plan, synthetic, tmp_path, keep=0.05)
    again, _ = run(plan, synthetic, tmp_path)  # the same again is no fault
    assert again.kept == 1
    judge = Threshold()
    other = filter_set(
        plan,
        synthetic,
        tmp_path / "synthetic" / "lower",
        Predictions(judge, tmp_path / "evaluation" / ".cache"),
        PassRule(0.05, None),
        lambda *_: None,
    )
    assert (other.kept, judge.asked) == (2, 0)  # the judge's answers were kept


def test_what_the_judges_have_learnt_from_is_known(plan, synthetic, tmp_path):
    """Of the one that filtered, and of those before it."""
    write_json(synthetic / "judges.json", {"/first": {"dataset": "Dataset001_A", "cases": ["x"]}})
    judge = Threshold()
    judge.folder = tmp_path / "second"
    write_json(judge.folder / "judge.json", {"dataset": "Dataset002_B", "cases": ["y", "z"]})
    _, out = run(plan, synthetic, tmp_path, judge=judge)
    assert read_judges(out) == {
        "/first": LearnedCases("Dataset001_A", ("x",)),
        str(judge.folder): LearnedCases("Dataset002_B", ("y", "z")),
    }


def test_what_was_given_up_before_is_told_of_the_kept_set_too(plan, synthetic, tmp_path):
    lost = json.dumps({"case": "d", "rejected": {"empty": 10}}) + "\n"
    (synthetic / "given_up.jsonl").write_text(lost)
    _, out = run(plan, synthetic, tmp_path)
    assert (out / "given_up.jsonl").read_text() == lost
    assert not (out / "given_up.jsonl").samefile(synthetic / "given_up.jsonl")  # to which lines may be added


def test_an_empty_mask_is_its_own_reason(plan, synthetic, tmp_path):
    write_case(synthetic, "c", scan(np.zeros(SHAPE, bool), 1, 2), np.zeros(SHAPE))
    write_provenance(synthetic, read_provenance(synthetic))
    found, out = run(plan, synthetic, tmp_path)
    assert found.reasons == {"empty": 1, "P below the threshold": 1}
    assert run(plan, synthetic, tmp_path)[0].reasons == found.reasons  # as read from its lines
    assert json.loads((out / "judged.jsonl").read_text().splitlines()[2]) == {
        "case": "c",
        "reason": "empty",
        "proportion": None,
        "beside": None,
        "dice": None,
        "surface_dice": None,
    }


class Killed(Threshold):
    """A judge that is interrupted at a pair."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def tumor(self, image, grid):
        if self.asked == self.at:
            raise KeyboardInterrupt
        return super().tumor(image, grid)


@pytest.mark.parametrize("keep", [0.0, 0.7])
def test_shards_equal_one_run(plan, synthetic, tmp_path, keep):
    _, whole = run(plan, synthetic, tmp_path, keep)
    found = [run(plan, synthetic, tmp_path, keep, shard=Shard(number, 2), out="parts")[0] for number in (2, 1)]
    assert [(f.judged, f.left) for f in found] == [(1, 2), (2, 0)]
    assert contents(tmp_path / "synthetic" / "parts") == contents(whole)
    again, out = run(plan, synthetic, tmp_path, keep, shard=Shard(2, 2), out="parts")
    assert (again.judged, again.left, again.kept) == (0, 0, found[1].kept)
    assert contents(out) == contents(whole)


def test_a_killed_filter_goes_on(plan, synthetic, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(plan, synthetic, tmp_path, judge=Killed(at=1), shard=Shard(1, 2), out="parts")
    out = tmp_path / "synthetic" / "parts"
    log = out / "judged_1_of_2.jsonl"
    assert [json.loads(line)["case"] for line in log.read_text().splitlines()] == ["a"]
    log.write_text(log.read_text() + '{"case": "c", "propor')  # as a kill leaves it
    assert run(plan, synthetic, tmp_path, shard=Shard(2, 2), out="parts")[0].left == 1
    assert not (out / "dataset.json").exists()  # a set that is not whole does not look so
    judge = Threshold()
    assert run(plan, synthetic, tmp_path, judge=judge, shard=Shard(1, 2), out="parts")[0].left == 0
    assert judge.asked == 1
    assert contents(out) == contents(run(plan, synthetic, tmp_path)[1])


def test_one_process_finishes_what_shards_left(plan, synthetic, tmp_path):
    run(plan, synthetic, tmp_path, shard=Shard(3, 3), out="parts")
    found, out = run(plan, synthetic, tmp_path, out="parts")
    assert found.judged == 2
    assert contents(out) == contents(run(plan, synthetic, tmp_path)[1])


def test_shards_at_the_same_time(plan, synthetic, tmp_path):
    """As threads: locks and logs are files, opened by each anew."""
    with multiprocessing.pool.ThreadPool(3) as pool:
        found = pool.map(
            lambda number: run(plan, synthetic, tmp_path, shard=Shard(number, 3), out="parts")[0], (1, 2, 3)
        )
    assert min(f.left for f in found) == 0
    assert contents(tmp_path / "synthetic" / "parts") == contents(run(plan, synthetic, tmp_path)[1])


def test_who_may_filter_beside_whom(plan, synthetic, tmp_path):
    run(plan, synthetic, tmp_path, shard=Shard(1, 3), out="parts")
    with pytest.raises(StateError, match="3 pairs in 3 shards are unfinished"):
        run(plan, synthetic, tmp_path, shard=Shard(2, 2), out="parts")
    with pytest.raises(StateError, match="other keep"):  # a kept pair is there that another bar might not have kept
        run(plan, synthetic, tmp_path, keep=0.1, out="parts")


def test_a_set_whose_shards_are_at_work_is_not_filtered(plan, synthetic, tmp_path):
    (synthetic / "shards.json").write_text('{"pairs": 4, "shards": 2}')
    with pytest.raises(StateError, match="unfinished shards"):
        run(plan, synthetic, tmp_path)
    assert not (tmp_path / "synthetic" / "toy_kept").exists()


def test_another_set_is_not_overwritten(plan, synthetic, tmp_path):
    """Neither a painted set, which may be the one that is filtered, nor one that was filtered from another set."""
    _, kept = run(plan, synthetic, tmp_path)
    painted = shutil.copytree(synthetic, tmp_path / "painted")
    write_json(painted / "set.json", {"format": PAIR_FORMAT, "command": "synthesize", "plan": plan.hash})
    for out, found in ((painted, "`tumorgen synthesize`"), (kept, "filtered_from")):
        before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
        with pytest.raises(StateError, match="another set") as caught:
            filter_set(plan, painted, out, Predictions(Threshold()), PassRule(), lambda *_: None)
        (fault,) = caught.value.faults
        assert found in fault.found
        assert "--out" in fault.remedy
        assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_an_edited_label_of_a_kept_pair_leaves_the_set_alone(plan, synthetic, tmp_path):
    _, out = run(plan, synthetic, tmp_path)
    label = out / "labelsTr" / "a.nii.gz"
    before = (synthetic / "labelsTr" / "a.nii.gz").read_bytes()
    with label.open("r+b") as stream:
        stream.write(b"edited")
    assert (synthetic / "labelsTr" / "a.nii.gz").read_bytes() == before


@pytest.mark.parametrize("name", ["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"])
@pytest.mark.parametrize("kept", [None, 0.6, 0])
def test_a_lost_or_cut_file_of_a_kept_pair_is_put_back(plan, synthetic, tmp_path, name, kept):
    _, out = run(plan, synthetic, tmp_path)
    content = (out / name).read_bytes()
    (out / name).unlink()  # it may be another name of the set's own file
    if kept is not None:
        (out / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(StateError, match="run the same `tumorgen filter` command again"):
        synthetic_cases(plan, out)
    run(plan, synthetic, tmp_path)
    assert len(synthetic_cases(plan, out)) == 1
    assert (out / name).read_bytes() == (synthetic / name).read_bytes()


def painted_into_old_lesions(tmp_path):
    """A pair in a host with an unlabeled lesion, close to the new tumor and larger than it; and where the host lies."""
    new, old = ball((12, 10, 8), 12), ball((18, 10, 8), 13)
    folder = write_set(tmp_path / "set", [("a", "x", scan(new | old, 6, 11), 2 * new)])
    host = tmp_path / "hosts" / "x_0000.nii.gz"
    write_volume(host, scan(old, 6, 12), GRID)
    (line,) = read_provenance(folder)
    line = replace(line, host_hash=hash_files([host]))
    write_provenance(folder, [line])
    write_hosts(folder, {"x": (host,)})
    return folder, host


def test_what_is_marked_in_the_unpainted_host_is_not_new(plan, tmp_path):
    folder, host = painted_into_old_lesions(tmp_path)
    judge = Threshold()
    found, out = run(plan, folder, tmp_path, judge=judge, beside=0.5)
    assert (found.kept, judge.asked) == (1, 2)  # the pair, and its host
    assert json.loads((out / "judged.jsonl").read_text())["beside"] == 0
    host.unlink()
    again = run(plan, folder, tmp_path, keep=0.6, judge=judge, beside=0.5, out="again")[0]
    assert (again.kept, judge.asked) == (1, 2)  # what the judge marks in it is known


def test_what_is_newly_marked_beside_the_mask_counts(plan, tmp_path):
    folder, host = painted_into_old_lesions(tmp_path)
    write_volume(host, scan(np.zeros(SHAPE, bool), 1, 12), GRID)  # no lesion was there before
    line = replace(read_provenance(folder)[0], host_hash=hash_files([host]))
    write_provenance(folder, [line])
    found, out = run(plan, folder, tmp_path, beside=0.5)
    assert (found.kept, found.reasons) == (0, {"marked beside the mask": 1})
    (row,) = csv.DictReader((out / "rejected.csv").read_text().splitlines())
    assert float(row["beside"]) > 0.5
    assert run(plan, folder, tmp_path, out="p_alone")[0].kept == 1


def test_a_host_that_is_gone_is_named_with_a_remedy_that_works(plan, tmp_path):
    folder, host = painted_into_old_lesions(tmp_path)
    host.unlink()
    with pytest.raises(StateError, match=r"hosts/x_0000\.nii\.gz") as error:
        run(plan, folder, tmp_path, beside=0.5)
    said = "put the scan back, or use --p-alone, which does not look at what is marked beside the mask"
    assert error.value.faults[0].remedy == said
    assert run(plan, folder, tmp_path, out="p_alone")[0].kept == 1


@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_cut_prediction_is_made_again(plan, synthetic, tmp_path, share):
    first, _ = run(plan, synthetic, tmp_path)
    kept = sorted((tmp_path / "evaluation" / ".cache" / "predictions").rglob("*.npz"))
    assert len(kept) == 3
    for path in kept:
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
    judge = Threshold()
    again, out = run(plan, synthetic, tmp_path, judge=judge, out="again")
    assert (again.kept, again.reasons, judge.asked) == (first.kept, first.reasons, 3)
    assert contents(out)["judged.jsonl"] == contents(tmp_path / "synthetic" / "toy_kept")["judged.jsonl"]
