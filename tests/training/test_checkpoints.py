"""Files of a training that were damaged, and runs that take the place of others."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.spoil import flip
from support.stages import STEPS, make_stage
from torch import nn

from tumorgen_cli.system.errors import StateError
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.training import checkpoints
from tumorgen_cli.training.checkpoints import (
    check_initial,
    forget_damaged_run,
    load_weights,
    read_run,
    restart_folder,
    settle_restart,
)
from tumorgen_cli.training.loop import train


@pytest.fixture
def run(tmp_path):
    """A finished run."""
    train(make_stage(), tmp_path / "vae", "cpu", "fp32")
    return tmp_path / "vae"


def weight_bytes(path):
    """Where the numbers of a file of weights are: those of the model's weight are (1, 3) float32."""
    return path.read_bytes().index(load_file(path)["model.weight"].numpy().tobytes())


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_damaged_weights_are_refused_and_made_again_from_the_checkpoint(run, damage):
    path = run / "weights.safetensors"
    whole = path.read_bytes()
    if damage == "flipped":
        content = bytearray(whole)
        content[weight_bytes(path)] ^= 1
        path.write_bytes(content)
        assert load_file(path)["model.weight"].shape == (1, 3), "safetensors notices nothing"
    elif damage == "cut":
        path.write_bytes(whole[:-3])
    else:
        path.unlink()
    with pytest.raises(StateError) as caught:
        load_weights({"model": nn.Linear(3, 1)}, run)
    (fault,) = caught.value.faults
    assert fault.where == str(path)
    assert fault.remedy == "run `tumorgen train vae`"
    assert forget_damaged_run(run) is not None
    train(make_stage(lambda n: pytest.fail("nothing is left to compute")), run, "cpu", "fp32")
    assert path.read_bytes() == whole
    assert forget_damaged_run(run) is None
    load_weights({"model": nn.Linear(3, 1)}, run)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:40],
        lambda text: "[]",
        lambda text: "",
        lambda text: text.replace('"iterations"', '"steps"'),
        lambda text: text.replace(f'"iterations": {STEPS}', '"iterations": "many"'),
    ],
)
def test_a_damaged_record_is_one_error_and_is_made_again(run, change):
    before = read_run(run)
    (run / "run.json").write_text(change((run / "run.json").read_text()))
    with pytest.raises(StateError) as caught:
        read_run(run)
    (fault,) = caught.value.faults
    assert (fault.where, fault.remedy) == (str(run / "run.json"), "run `tumorgen train vae`")
    assert forget_damaged_run(run) is not None
    train(make_stage(), run, "cpu", "fp32")
    assert read_run(run).weights_hash == before.weights_hash


@pytest.mark.parametrize("damage", ["flipped", "cut", "text", "a number", "without its digest"])
def test_a_damaged_checkpoint_is_refused(run, damage):
    path = run / "last.pt"
    if damage == "flipped":
        content = path.read_bytes()
        numbers = torch.load(path, weights_only=True)["ema"]["model.weight"].numpy().tobytes()
        where = content.index(numbers)
        path.write_bytes(content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :])
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    elif damage == "text":
        path.write_text("not a checkpoint")
    elif damage == "a number":
        torch.save(3, path)
    else:
        saved = torch.load(path, weights_only=True)
        del saved["digest"]
        torch.save(saved, path)
    (run / "run.json").unlink()
    with pytest.raises(StateError, match="A checkpoint is damaged") as caught:
        train(make_stage(), run, "cpu", "fp32")
    assert "run `tumorgen train vae --restart`" in str(caught.value)


@pytest.mark.parametrize("step", range(1, 20))
def test_any_flipped_byte_of_a_checkpoint_is_noticed_or_changes_nothing(run, step):
    saved = torch.load(run / "last.pt", weights_only=True)
    flip(run / "last.pt", step / 20)
    try:
        found = checkpoints.read_checkpoint(run / "last.pt", "")
    except StateError:
        return
    assert checkpoints._digest(found) == saved["digest"]  # padding, and dates that nothing reads


@pytest.mark.parametrize("content", [b"", b"\xff\x00nonsense", b"step,fit\n10,1.5\nten,2\n12,1,1\n", b"fit\n3\n"])
def test_a_damaged_log_stops_nothing(run, content):
    (run / "log.csv").write_bytes(content)
    train(make_stage(iterations=STEPS + 6), run, "cpu", "fp32")
    rows = (run / "log.csv").read_text().splitlines()
    kept = ["10"] if b"10,1.5" in content else []
    assert [row.split(",")[0] for row in rows] == ["step", *kept, str(STEPS + 6)]


def test_first_weights_are_compared_with_the_record_beside_them(run, tmp_path):
    path = run / "weights.safetensors"
    check_initial(path)
    flip(path, 0.99)
    with pytest.raises(StateError, match="damaged or was replaced") as error:
        check_initial(path)
    assert error.value.faults[0].remedy == "copy the file again, or give other weights"
    flip(path, 0.99)  # copied again
    check_initial(path)
    (tmp_path / "shipped").mkdir()
    shipped = tmp_path / "shipped" / "vae.safetensors"
    save_file({"x": torch.zeros(3)}, shipped)
    check_initial(shipped)  # nothing is known about it
    write_json(shipped.parent / "card.json", {"files": {shipped.name: {"sha256": "0" * 64}}})
    with pytest.raises(StateError, match="hash 0000000000000000"):
        check_initial(shipped)


def test_weights_get_the_mode_of_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        train(make_stage(), tmp_path, "cpu", "fp32")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"last.pt", "weights.safetensors", "run.json", "log.csv"}
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o644"}


def test_a_restart_replaces_the_run_when_it_is_finished(run):
    fresh = restart_folder(run)
    settle_restart(run)
    assert read_run(run).iterations == STEPS
    train(make_stage(iterations=3), fresh, "cpu", "fp32")
    (fresh / "run.json").rename(fresh / "later.json")
    settle_restart(run)
    assert read_run(run).iterations == STEPS, "an unfinished restart replaces nothing"
    (fresh / "later.json").rename(fresh / "run.json")
    settle_restart(run)
    assert read_run(run).iterations == 3
    assert [path.name for path in run.parent.iterdir()] == ["vae"]


def test_a_kill_while_a_restart_replaces_the_run(run, monkeypatch):
    fresh = restart_folder(run)
    train(make_stage(iterations=3), fresh, "cpu", "fp32")
    run.rename(run.with_name("vae.replaced"))  # killed here
    settle_restart(run)
    assert read_run(run).iterations == 3
    assert [path.name for path in run.parent.iterdir()] == ["vae"]


LIMITED = """
import resource, sys
from pathlib import Path
from support.spoil import flip
from support.stages import make_stage
from tumorgen_cli.system.errors import StateError
from tumorgen_cli.training.loop import train
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    train(make_stage(iterations=int(sys.argv[3])), Path(sys.argv[1]), "cpu", "fp32")
except StateError as error:
    print(error)
"""


@pytest.mark.parametrize(("limit", "steps"), [(40, STEPS), (200, STEPS), (40, STEPS + 5), (3000, STEPS + 5)])
def test_a_file_that_cannot_grow_is_an_error_and_keeps_the_earlier_one(run, limit, steps):
    whole = (run / "last.pt").read_bytes()
    tests = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(run), str(limit), str(steps)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
    )
    assert "Traceback" not in done.stderr
    assert "remedy" in done.stdout
    assert (run / "last.pt").read_bytes() == whole
    if (run / "run.json").is_file():
        load_weights({"model": nn.Linear(3, 1)}, run)
