"""Pairs that are read, painted and written at once are the same as one after the other, whatever stops them."""

import gc
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pytest
from support.pairs import Fake, provenance, records, run_jobs
from support.stops import wait_until

from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.methods.base import Sampling
from tumorgen_cli.synthesis import set_pairs
from tumorgen_cli.synthesis.jobs import make_jobs
from tumorgen_cli.synthesis.pair import PairInputs, draw_pair, load_host
from tumorgen_cli.synthesis.set_pairs import write_pair
from tumorgen_cli.synthesis.sources import healthy_sources
from tumorgen_cli.system.errors import Fault, StateError

PAIRS = 6
KILLED = """
import os, sys
from pathlib import Path
from support.pairs import Fake, run_jobs
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis import set_pairs
from tumorgen_cli.synthesis.jobs import make_jobs
from tumorgen_cli.synthesis.sources import healthy_sources
work, hosts, out = map(Path, sys.argv[1:])
append, lines = set_pairs.append_line, []
def killed_before_the_third(path, text):
    if len(lines) == 2:
        os.kill(os.getpid(), 9)
    lines.append(text)
    append(path, text)
set_pairs.append_line = killed_before_the_third
workspace = Workspace(work)
method = Fake(workspace.plan(), workspace)
method.device = "cuda"
run_jobs(workspace, out, method, make_jobs(healthy_sources(workspace.plan(), hosts, None), 6, 0))
"""


@pytest.fixture(scope="module")
def hosts(phantoms, tmp_path_factory):
    """Three hosts; two pairs are painted into each."""
    folder = tmp_path_factory.mktemp("hosts")
    for number, path in enumerate(sorted(phantoms.healthy.iterdir()) * 2):
        if number < 3:
            array, grid = read_volume(path)
            write_volume(folder / f"Host_{number}_0000.nii.gz", array + np.float32(0.01 * number), grid)
    return folder


class OnDevice(Fake):
    """Paints as on a GPU, while the processor may read and write."""

    def __init__(self, workspace):
        super().__init__(workspace.plan(), workspace)
        self.device = "cuda"


def jobs_of(workspace, hosts):
    return make_jobs(healthy_sources(workspace.plan(), hosts, None), PAIRS, 0)


def files_of(folder):
    """What is in the files of the pairs, pictures included."""
    found = [*folder.glob("*Tr/*"), *folder.glob("previews/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def plain(workspace, hosts, tmp_path_factory):
    """The pairs, made one after the other: the folder, and the hashes of each pair's files in order."""
    folder, method = tmp_path_factory.mktemp("plain"), Fake(workspace.plan(), workspace)
    inputs = PairInputs(method, workspace.fingerprint().cases, Sampling(), count=1)
    written = []
    for job in jobs_of(workspace, hosts):
        host = load_host(inputs, job.source)
        written.append((job.case, write_pair(inputs.plan, job, host, draw_pair(inputs, job, host), folder)))
    return folder, written


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_pairs_are_those_that_are_made_one_after_the_other(workspace, hosts, plain, tmp_path, device):
    out, told = tmp_path / "out", []
    method = OnDevice(workspace)
    method.device = device
    inputs = PairInputs(method, workspace.fingerprint().cases, Sampling(), count=1)
    out.mkdir()
    logs = out / "provenance.jsonl", out / "given_up.jsonl"
    made, faults = set_pairs.make_pairs(
        inputs, {}, jobs_of(workspace, hosts), out, logs, lambda *done: told.append(done)
    )
    assert (made, faults) == (PAIRS, [])
    assert files_of(out) == files_of(plain[0])
    assert [(line["case"], tuple(line["files"])) for line in records(out)] == plain[1]  # in order
    assert told == [(number, case) for number, (case, _) in enumerate(plain[1], 1)]


def test_a_pair_is_painted_while_the_one_before_is_written(workspace, hosts, plain, tmp_path, monkeypatch):
    out, write, method = tmp_path / "out", set_pairs.write_pair, OnDevice(workspace)
    numbers = {case: number for number, (case, _) in enumerate(plain[1], 1)}

    def waits(plan, job, *rest):
        wait_until(lambda: len(method.seeds) >= min(numbers[job.case] + 1, PAIRS), 20)
        return write(plan, job, *rest)

    monkeypatch.setattr(set_pairs, "write_pair", waits)
    begun = time.perf_counter()
    assert run_jobs(workspace, out, method, jobs_of(workspace, hosts)).made == PAIRS
    took = time.perf_counter() - begun
    assert files_of(out) == files_of(plain[0])
    seconds = [line["seconds"] for line in provenance(out)]
    assert all({*each} == {"read", "method", "compute", "write", "total"} for each in seconds)
    assert sum(each["total"] for each in seconds) <= took  # each second belongs to one pair
    assert [each["read"] > 0 for each in seconds] == [True, False] * 3


def test_an_error_of_the_writer_ends_the_set_and_the_same_command_goes_on(
    workspace, hosts, plain, tmp_path, monkeypatch
):
    out, write, method = tmp_path / "out", set_pairs.write_pair, OnDevice(workspace)
    fault = Fault(str(out), "no space left on the disk", "room for a pair", "make room")

    def full(plan, job, *rest):
        if job.case == plain[1][2][0]:
            raise StateError("A file cannot be written", [fault])
        return write(plan, job, *rest)

    monkeypatch.setattr(set_pairs, "write_pair", full)
    with pytest.raises(StateError) as caught:
        run_jobs(workspace, out, method, jobs_of(workspace, hosts))
    assert caught.value.faults == (fault,)
    assert [line["case"] for line in records(out)] == [case for case, _ in plain[1][:2]]
    assert len(method.seeds) == 4  # the next one was painted meanwhile, and no more
    monkeypatch.undo()
    assert run_jobs(workspace, out, method, jobs_of(workspace, hosts)).made == PAIRS - 2
    assert files_of(out) == files_of(plain[0])


def test_a_process_that_is_killed_with_a_pair_in_flight_goes_on(workspace, hosts, plain, tmp_path):
    out, tests = tmp_path / "out", Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    words = [sys.executable, "-c", KILLED, str(workspace.root), str(hosts), str(out)]
    ended = subprocess.run(words, check=False, capture_output=True, text=True, env=environment)
    assert ended.returncode == -9, ended.stderr
    assert [line["case"] for line in records(out)] == [case for case, _ in plain[1][:2]]
    assert len(list(out.glob("labelsTr/*"))) == 3  # the third pair has its files, and no line
    method = OnDevice(workspace)
    assert run_jobs(workspace, out, method, jobs_of(workspace, hosts)).made == PAIRS - 2
    assert files_of(out) == files_of(plain[0])
    assert [line["case"] for line in records(out)] == [case for case, _ in plain[1]]


def test_a_host_is_let_go_when_its_pairs_are_painted(workspace, hosts):
    """Thousands of scans would not fit into memory."""
    inputs = PairInputs(Fake(workspace.plan(), workspace), workspace.fingerprint().cases, Sampling())
    assert any(tumor.surroundings for tumor in inputs.tumors)  # they are compared with places of the host
    job = jobs_of(workspace, hosts)[0]
    host = load_host(inputs, job.source)
    draw_pair(inputs, job, host)
    image = weakref.ref(host.scan.image)
    del host
    gc.collect()
    assert image() is None
