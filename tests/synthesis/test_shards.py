"""Shards of a set: together they make what one process makes, and they leave other sets alone."""

import contextlib
import json
import multiprocessing
import multiprocessing.pool
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.pairs import Fake, Sees, paint, records, run_jobs

from tumorgen_cli.judge.predictions import Predictions
from tumorgen_cli.judge.verdict import PassRule
from tumorgen_cli.synthesis import logs, set_pairs, shards
from tumorgen_cli.synthesis import synthesize as synthesize_module
from tumorgen_cli.synthesis.jobs import make_jobs, own_jobs
from tumorgen_cli.synthesis.pair import Quality
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.synthesis.shards import Shard
from tumorgen_cli.synthesis.sources import Source, healthy_sources
from tumorgen_cli.system.errors import DataError, StateError
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.system.locks import locked


@pytest.fixture(scope="module")
def at_once(workspace, phantoms, tmp_path_factory):
    """A set of seven made by one process; read-only."""
    folder = tmp_path_factory.mktemp("at_once") / "out"
    paint(workspace, phantoms, folder, "syntumor", pairs=7, tumors=2)
    return folder


def shard(workspace, phantoms, out, number, count=3, **options):
    return paint(
        workspace, phantoms, out, "syntumor", **{"pairs": 7, "tumors": 2, **options}, shard=Shard(number, count)
    ).tally


def contents(folder):
    """Every file but locks by its bytes; of provenance what took time is left out."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".lock")]
    # a preview's text may be set a hair differently: it is there, and that is all
    found = {str(path.relative_to(folder)): path.suffix == ".png" or path.read_bytes() for path in files}
    return {**found, "provenance.jsonl": records(folder)}


def test_shards_equal_one_run(at_once, workspace, phantoms, tmp_path):
    out = tmp_path / "out"
    tallies = [shard(workspace, phantoms, out, number) for number in (2, 3)]
    assert [(t.made, t.pairs, t.left) for t in tallies] == [(2, 2, 5), (2, 4, 3)]
    assert not (out / "dataset.json").exists()  # a set that is not whole does not look so
    assert json.loads((out / "set.json").read_text()) == json.loads((at_once / "set.json").read_text())
    assert {line.case for line in read_provenance(out)} <= {line.case for line in read_provenance(at_once)}
    last = shard(workspace, phantoms, out, 1)
    assert (last.made, last.pairs, last.left) == (3, 7, 0)
    assert contents(out) == contents(at_once)
    assert [shard(workspace, phantoms, out, number).made for number in (1, 2, 3)] == [0, 0, 0]
    assert contents(out) == contents(at_once)


def test_a_killed_shard_goes_on_and_leaves_the_others_alone(at_once, workspace, phantoms, tmp_path, monkeypatch):
    out, write, seen = tmp_path / "out", set_pairs.write_pair, []

    def killed_at_the_second(*arguments):
        seen.append(arguments)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(set_pairs, "write_pair", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        shard(workspace, phantoms, out, 1)
    monkeypatch.undo()
    log = out / "provenance_1_of_3.jsonl"
    log.write_text(log.read_text() + '{"case": "Heal')  # as a kill leaves it
    assert (shard(workspace, phantoms, out, 2).left, len(read_provenance(out))) == (
        4,
        3,
    )  # which another shard can read
    assert shard(workspace, phantoms, out, 1).made == 2
    assert shard(workspace, phantoms, out, 3).left == 0
    assert contents(out) == contents(at_once)


def test_one_process_finishes_what_shards_left(at_once, workspace, phantoms, tmp_path):
    shard(workspace, phantoms, tmp_path / "out", 3)
    assert paint(workspace, phantoms, tmp_path / "out", "syntumor", pairs=7, tumors=2).tally.made == 5
    assert contents(tmp_path / "out") == contents(at_once)


def test_shards_at_the_same_time(at_once, workspace, phantoms, tmp_path):
    """As threads: locks and logs are files, opened by each anew."""
    with multiprocessing.pool.ThreadPool(3) as pool:
        tallies = pool.map(lambda number: shard(workspace, phantoms, tmp_path / "out", number), (1, 2, 3))
    assert sum(t.made for t in tallies) == 7
    assert min(t.left for t in tallies) == 0
    assert contents(tmp_path / "out") == contents(at_once)


@pytest.mark.slow
def test_shards_as_torchrun_starts_them(at_once, workspace, phantoms, tmp_path):
    out, root = tmp_path / "out", Path(synthesize_module.__file__).parents[2]
    command = [
        sys.executable,
        "-m",
        "tumorgen_cli.cli",
        "synthesize",
        "-w",
        workspace.root,
        "--healthy",
        phantoms.healthy,
        "-n",
        7,
    ]
    command += ["--method", "syntumor", "--tumors", 2, "--out", out, "--device", "cpu"]
    environments = [{**os.environ, "PYTHONPATH": str(root), "RANK": str(rank), "WORLD_SIZE": "3"} for rank in range(3)]
    running = [
        subprocess.Popen([str(c) for c in command], env=e, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        for e in environments
    ]
    told = [process.communicate(timeout=300)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], told
    assert contents(out) == contents(at_once)


def test_who_may_work_beside_whom(workspace, phantoms, tmp_path):
    out = tmp_path / "out"
    with locked(out, "synthesize", "1_of_2"):
        with pytest.raises(StateError, match="synthesize 1_of_2"):
            shard(workspace, phantoms, out, 1, 2, pairs=2)
        with pytest.raises(StateError, match="in use"):
            paint(workspace, phantoms, out, "syntumor", pairs=2, tumors=2)
        assert shard(workspace, phantoms, out, 2, 2, pairs=2).left == 1
        with pytest.raises(StateError, match="another set"):
            shard(workspace, phantoms, out, 2, 2, pairs=2, seed=5)
    with locked(out, "filter"), pytest.raises(StateError, match="tumorgen filter"):
        shard(workspace, phantoms, out, 1, 2, pairs=2)
    assert shard(workspace, phantoms, out, 1, 2, pairs=2).left == 0


def test_a_claim_that_no_pair_followed(workspace, phantoms, tmp_path):
    """Alone one may put it right; a shard may not while others are at work, for one may be about to paint by it."""
    out = tmp_path / "out"
    write_json(out / "set.json", {"command": "synthesize", "seed": 99})
    write_json(out / "shards.json", {"pairs": 2, "shards": 2})
    with pytest.raises(StateError, match="another set"):
        shard(workspace, phantoms, out, 1, 2, pairs=2)
    assert paint(workspace, phantoms, out, "syntumor", pairs=1, tumors=2).tally.made == 1


@pytest.mark.parametrize("other", [{"pairs": 2}, {"count": 2}], ids=["pairs", "shards"])
def test_shards_of_another_division_are_refused(at_once, workspace, phantoms, tmp_path, other):
    """One of fewer pairs would be done, and put together what another is still at."""
    out = tmp_path / "out"
    shard(workspace, phantoms, out, 1)
    before = contents(out)
    with pytest.raises(StateError, match="do not belong together") as error:
        shard(workspace, phantoms, out, **{"number": 2, "count": 3, **other})
    (fault,) = error.value.faults
    assert fault.found == "7 pairs in 3 shards are unfinished"
    assert fault.remedy.startswith("give every shard the same numbers; or run the command once without --shard")
    assert contents(out) == before
    paint(workspace, phantoms, out, "syntumor", pairs=1, tumors=2)  # as the error says: alone, with any number
    assert shards.find_unfinished_shards(out) is None
    assert [shard(workspace, phantoms, out, number, 2).left for number in (1, 2)] == [2, 0]
    assert contents(out) == contents(at_once)


def test_a_shard_leaves_another_division_alone(at_once, workspace, phantoms, tmp_path, monkeypatch):
    """The set was finished while a shard was finishing, and a longer one begun: the new shard's lines stay."""
    out, cut = tmp_path / "out", shards.take_turn
    turns = []

    def begun_meanwhile(folder, part):
        turns.append(part)
        if len(turns) == 2:  # the first shard's end
            shards.remove_division(folder)
            shards.begin_shard(folder, 7, Shard(1, 3))
            (folder / "provenance_1_of_3.jsonl").write_text("")
        return cut(folder, part)

    paint(workspace, phantoms, out, "syntumor", pairs=4, tumors=2)
    monkeypatch.setattr(synthesize_module, "take_turn", begun_meanwhile)
    assert shard(workspace, phantoms, out, 1, 2, pairs=4).left == 0
    monkeypatch.undo()
    assert (out / "provenance_1_of_3.jsonl").exists()
    assert [shard(workspace, phantoms, out, number).left for number in (1, 2, 3)][-1] == 0
    assert contents(out) == contents(at_once)


def test_a_set_is_read_while_its_shards_are_put_together(at_once, workspace, phantoms, tmp_path, monkeypatch):
    """A log that is listed may be gone when it is read: its lines are in the set's own then."""
    out, list_logs = tmp_path / "out", logs.list_logs
    shard(workspace, phantoms, out, 1, pairs=2)

    def put_together_meanwhile(folder, name):
        found = list_logs(folder, name)
        monkeypatch.undo()
        logs.merge_logs(folder, name, {})
        return found

    monkeypatch.setattr(logs, "list_logs", put_together_meanwhile)
    assert [line.case for line in read_provenance(out)] == ["Healthy_000_s0000"]
    assert not list(out.glob("provenance_*"))


def test_given_up_pairs_of_shards(workspace, phantoms, tmp_path):
    method, out = Fake(workspace.plan(), workspace), tmp_path / "out"
    jobs = make_jobs(healthy_sources(workspace.plan(), phantoms.healthy, None), 3, 0)
    quality = Quality(Predictions(Sees(10**6)), PassRule(0.7, None), 2)
    tallies = [run_jobs(workspace, out, method, jobs, Shard(number, 2), quality=quality) for number in (1, 2)]
    assert [(t.given_up, t.left) for t in tallies] == [(2, 1), (3, 0)]
    assert [json.loads(line)["case"] for line in (out / "given_up.jsonl").read_text().splitlines()] == [
        job.case for job in jobs
    ]
    assert not list(out.glob("*_of_*"))


def test_shards_that_came_to_nothing_may_try_again(workspace, phantoms, tmp_path):
    """With other settings, other numbers, or alone."""
    plan, out = workspace.plan(), tmp_path / "out"
    jobs = make_jobs(healthy_sources(plan, phantoms.healthy, None), 3, 0)

    def run(method, part, seed=0, count=3):
        return run_jobs(workspace, out, method, jobs[:count], part, seed)

    for number in (1, 2):
        with pytest.raises(DataError, match="No tumor came") if number == 2 else contextlib.nullcontext():
            run(Fake(plan, workspace, empty=10**6), Shard(number, 2))
    tallies = [run(Fake(plan, workspace), Shard(number, 2), seed=1, count=2) for number in (1, 2)]
    assert (tallies[-1].pairs, tallies[-1].left) == (2, 0)


def test_shards_share_out_every_pair_once():
    jobs = make_jobs([Source(name, ()) for name in "abcd"], 23, 0)
    parts = [own_jobs(jobs, Shard(number, 5)) for number in range(1, 6)]
    assert sorted(job.index for part in parts for job in part) == list(range(23))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    longer = make_jobs([Source(name, ()) for name in "abcd"], 40, 0)
    assert {job.case for job in parts[1]} <= {job.case for job in own_jobs(longer, Shard(2, 5))}
