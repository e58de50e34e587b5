"""The training loop on a linear model: a resumed run equals an uninterrupted one, two processes equal one, errors."""

import csv
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.stages import STEPS, Fit, item, make_stage
from support.stops import start, stop, wait_until
from torch import nn

from tumorgen_cli.system.errors import DeviceError, StateError
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import read_plain
from tumorgen_cli.system.processes import Terminated
from tumorgen_cli.training import loop
from tumorgen_cli.training.checkpoints import is_finished, load_initial_weights, load_weights
from tumorgen_cli.training.loop import learning_rate_factor, train
from tumorgen_cli.training.stage import Objective, Stage


def weights(folder):
    return load_file(folder / "weights.safetensors")


def log(folder):
    with (folder / "log.csv").open() as stream:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(stream)]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def always(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run = train(make_stage(), folder, "cpu", "fp32")
    assert run.iterations == STEPS
    return folder


def test_training_fits_a_linear_model(tmp_path):
    stage = make_stage(iterations=300, batch=8)
    train(stage, tmp_path, "cpu", "fp32")
    model = stage.models["model"]
    np.testing.assert_allclose(model.weight.detach().numpy(), [[1, -2, 0]], atol=0.05)
    np.testing.assert_allclose(model.bias.detach().numpy(), [0.5], atol=0.05)
    losses = [float(row["fit"]) for row in log(tmp_path)]
    assert losses[-1] < 0.01 * losses[0]


def test_a_finished_run_leaves_record_weights_and_log(whole):
    run = read_plain(whole / "run.json", "")
    assert (run["stage"], run["inputs_hash"], run["iterations"], run["processes"], run["device"]) == (
        "vae",
        "inputs",
        STEPS,
        1,
        "cpu",
    )
    assert run["planned_iterations"] == STEPS
    assert not (whole / "progress.json").exists()
    assert run["weights_hash"] == hash_file(whole / "weights.safetensors")
    assert [int(row["step"]) for row in log(whole)] == [10, STEPS]
    assert {"fit", "twice", "fit_gradient", "rate"} <= set(log(whole)[0])
    assert float(log(whole)[0]["twice"]) == pytest.approx(2 * float(log(whole)[0]["fit"]))
    assert is_finished(whole, "inputs")
    assert is_finished(whole, "inputs", STEPS)
    assert not is_finished(whole, "inputs", STEPS + 1)
    assert not is_finished(whole, "other")
    assert not is_finished(whole.parent, "inputs")


@pytest.mark.parametrize("killed_at", [1, 6, 10, 11, 13])
def test_killed_and_resumed_equals_unbroken(tmp_path, always, whole, killed_at):
    def dying(number):
        if number == 2 * killed_at:
            raise RuntimeError("killed")
        return item(number)

    with pytest.raises(RuntimeError, match="killed"):
        train(make_stage(dying), tmp_path, "cpu", "fp32")
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == killed_at
    assert not (tmp_path / "run.json").exists()
    seen = []
    train(make_stage(lambda n: (seen.append(n), item(n))[1]), tmp_path, "cpu", "fp32")
    assert seen == list(range(2 * killed_at, 2 * STEPS))
    assert equal(weights(tmp_path), weights(whole))
    assert log(tmp_path) == log(whole)


def test_killed_between_the_last_step_and_the_manifest(tmp_path, whole):
    def broken():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        train(make_stage(finish=broken), tmp_path, "cpu", "fp32")
    assert not is_finished(tmp_path, "inputs")
    train(make_stage(lambda n: pytest.fail("nothing is left to compute")), tmp_path, "cpu", "fp32")
    assert equal(weights(tmp_path), weights(whole))


def test_resume_includes_what_an_objective_trains_beside_the_models(tmp_path, always):
    train(make_stage(extra=True), tmp_path / "whole", "cpu", "fp32")

    def dying(number):
        if number == 12:
            raise RuntimeError("killed")
        return item(number)

    with pytest.raises(RuntimeError, match="killed"):
        train(make_stage(dying, extra=True), tmp_path / "broken", "cpu", "fp32")
    train(make_stage(extra=True), tmp_path / "broken", "cpu", "fp32")
    assert equal(weights(tmp_path / "broken"), weights(tmp_path / "whole"))
    assert set(weights(tmp_path / "whole")) == {"model.weight", "model.bias"}


def test_a_longer_run_continues_the_shorter_one(tmp_path):
    train(make_stage(iterations=5), tmp_path, "cpu", "fp32")
    seen = []
    run = train(make_stage(lambda n: (seen.append(n), item(n))[1], iterations=8), tmp_path, "cpu", "fp32")
    assert seen == list(range(10, 16))
    assert run.iterations == 8


def test_a_finished_stage_stays_usable_while_it_is_trained_longer(tmp_path, always):
    train(make_stage(iterations=5), tmp_path, "cpu", "fp32")

    def dying(number):
        if number == 14:
            raise RuntimeError("killed")
        return item(number)

    with pytest.raises(RuntimeError, match="killed"):
        train(make_stage(dying, iterations=8), tmp_path, "cpu", "fp32")
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 7
    assert is_finished(tmp_path, "inputs", 5)
    load_weights({"model": nn.Linear(3, 1)}, tmp_path)


def test_the_record_has_the_planned_length(tmp_path):
    run = train(make_stage(iterations=5), tmp_path, "cpu", "fp32", planned=400)
    assert (run.iterations, run.planned_iterations) == (5, 400)


def test_a_shorter_length_reports_the_steps_that_were_trained(tmp_path, always):
    def dying(number):
        if number == 16:
            raise RuntimeError("killed")
        return item(number)

    with pytest.raises(RuntimeError, match="killed"):
        train(make_stage(dying), tmp_path, "cpu", "fp32")
    assert train(make_stage(iterations=5), tmp_path, "cpu", "fp32").iterations == 8


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)])
def test_a_stop_is_saved_after_the_running_step(tmp_path, whole, capsys, number, kind):
    def interrupted(index):
        if index == 8:
            signal.raise_signal(number)
        return item(index)

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt) as caught:
        train(make_stage(interrupted), tmp_path, "cpu", "fp32")
    assert type(caught.value) is kind
    assert signal.getsignal(number) is before
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 5
    progress = read_plain(tmp_path / "progress.json", "")
    assert (progress["step"], progress["iterations"], progress["inputs_hash"]) == (5, STEPS, "inputs")
    assert f"toy: the state after 5 of {STEPS} steps is saved" in capsys.readouterr().err
    train(make_stage(), tmp_path, "cpu", "fp32")
    assert equal(weights(tmp_path), weights(whole))


WITH_LOADERS = """
import sys, time
from pathlib import Path
from torch.utils.data import DataLoader
from support.stages import item, make_stage
from tumorgen_cli.system.processes import exit_code, stop_cleanly
from tumorgen_cli.training import loop
loop.DataLoader = lambda *arguments, **given: DataLoader(*arguments, **{**given, "num_workers": 2})  # as on a GPU
try:
    with stop_cleanly():
        loop.train(make_stage(lambda n: (time.sleep(0.05), item(n))[1], 10**6), Path(sys.argv[1]), "cpu", "fp32")
except KeyboardInterrupt as stop:
    sys.exit(exit_code(stop))
"""


def test_a_stop_while_the_last_step_is_saved_is_not_lost(tmp_path, whole):
    def stop_here(_):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Terminated):
        train(make_stage(previews=1, preview=stop_here), tmp_path, "cpu", "fp32")
    assert not (tmp_path / "run.json").exists()  # the next stage does not begin either
    assert train(make_stage(), tmp_path, "cpu", "fp32").iterations == STEPS
    assert equal(weights(tmp_path), weights(whole))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stop_of_the_whole_group_lets_the_loaders_finish(tmp_path, number, code):
    """As the terminal and SLURM send it: the processes that draw items get it, too."""
    process = start(["-c", WITH_LOADERS, str(tmp_path)])
    wait_until((tmp_path / "progress.json").is_file)
    os.killpg(process.pid, number)
    returned, said = stop(process, number)
    assert returned == code
    assert "Traceback" not in said
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] > 0


def test_stale_inputs_name_the_command(tmp_path, whole):
    for name in ("last.pt", "run.json", "weights.safetensors"):
        (tmp_path / name).write_bytes((whole / name).read_bytes())
    with pytest.raises(StateError) as error:
        train(make_stage(inputs="newer"), tmp_path, "cpu", "fp32")
    said = "run `tumorgen train vae --restart` (what was trained is replaced when the new training is finished)"
    assert error.value.faults[0].remedy == said
    assert hash_file(tmp_path / "weights.safetensors") == hash_file(whole / "weights.safetensors")


@pytest.mark.parametrize("checkpoints", [60.0, -1.0])
def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_state(tmp_path, monkeypatch, checkpoints):
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", checkpoints)

    def bad(number):
        made = item(number)
        return {**made, "y": made["y"] * np.float32(np.nan)} if number == 12 else made

    with pytest.raises(StateError, match=r"step \d+") as error:
        train(make_stage(bad), tmp_path, "cpu", "fp32")
    (fault,) = error.value.faults
    assert "'fit': nan" in fault.found
    assert tmp_path.name in fault.where
    assert not (tmp_path / "run.json").exists()
    if (tmp_path / "last.pt").exists():
        state = torch.load(tmp_path / "last.pt", weights_only=True)
        assert all(torch.isfinite(v).all() for v in state["models"].values())
        assert state["step"] == 6


def test_previews_and_finish_see_the_ema_weights(tmp_path):
    seen = []

    def preview(path):
        seen.append((path.name, stage.models["model"].training, stage.models["model"].weight.clone()))

    stage = make_stage(iterations=6, preview=preview, previews=3, finish=lambda: {"answer": 42.0})
    run = train(stage, tmp_path / "a", "cpu", "fp32")
    assert run.numbers == {"answer": 42.0}
    assert read_plain(tmp_path / "a" / "run.json", "")["numbers"] == {"answer": 42.0}
    assert [name for name, *_ in seen] == ["step_000002.png", "step_000004.png", "step_000006.png"]
    assert not any(training_mode for _, training_mode, _ in seen)
    assert torch.equal(seen[-1][2], weights(tmp_path / "a")["model.weight"])
    train(make_stage(iterations=6), tmp_path / "b", "cpu", "fp32")
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))  # previews change nothing


def test_the_ema_by_hand(tmp_path):
    """Decay is min(0.9, (1 + n) / (10 + n)) after step n, so early weights are forgotten."""
    raw = []

    class Watch(Fit):
        def forward(self, batch):
            raw.append(self.model.weight.detach().clone())
            return super().forward(batch)

    stage = make_stage(iterations=4)
    model = stage.models["model"]
    train(
        Stage(
            "vae",
            "toy",
            {"model": model},
            (Objective("fit", Watch(model), 0.05),),
            item,
            4,
            2,
            0.9,
            "inputs",
            previews=0,
        ),
        tmp_path,
        "cpu",
        "fp32",
    )
    last = torch.load(tmp_path / "last.pt", weights_only=True)["models"]["model.weight"]
    expected = raw[0]
    for step, value in enumerate([*raw[1:], last], 1):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(weights(tmp_path)["model.weight"], expected)


class Small(torch.nn.Module):
    """An objective on a GPU that has memory for `most` items."""

    def __init__(self, inner, most):
        super().__init__()
        self.inner, self.most, self.seen = inner, most, []

    def forward(self, batch):
        self.seen.append(len(batch["x"]))
        if len(batch["x"]) > self.most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return self.inner(batch)


def with_memory_for(most, batch=6):
    stage = make_stage(iterations=4, batch=batch)
    (objective,) = stage.objectives
    module = Small(objective.module, most)
    return replace(stage, objectives=(replace(objective, module=module),)), module


@pytest.mark.parametrize(("most", "parts"), [(3, [6, 3, 3]), (2, [6, 3, 2, 2, 2]), (1, [6, 3, 2, 1, 1, 1, 1, 1, 1])])
def test_a_batch_without_memory_is_computed_in_parts_with_the_same_mean(tmp_path, capsys, most, parts):
    train(make_stage(iterations=4, batch=6), tmp_path / "whole", "cpu", "fp32")
    stage, module = with_memory_for(most)
    train(stage, tmp_path / "parts", "cpu", "fp32")
    assert module.seen[: len(parts)] == parts
    assert set(module.seen[len(parts) :]) == {most}  # later steps begin with parts that fit
    told = " ".join(capsys.readouterr().err.split())
    assert f"from here on {most} of a batch's 6 items are computed at a time" in told
    whole, divided = (weights(tmp_path / name) for name in ("whole", "parts"))
    for key, value in whole.items():
        torch.testing.assert_close(divided[key], value, rtol=1e-5, atol=1e-6)
    rows = [log(tmp_path / name)[-1] for name in ("whole", "parts")]
    assert float(rows[1]["fit"]) == pytest.approx(float(rows[0]["fit"]), rel=1e-4)
    assert float(rows[1]["twice"]) == pytest.approx(2 * float(rows[1]["fit"]), rel=1e-4)


def test_a_single_item_without_memory_is_told(tmp_path):
    stage, _ = with_memory_for(0)
    with pytest.raises(DeviceError, match="The GPU's memory does not suffice"):
        train(stage, tmp_path, "cpu", "fp32")


def test_the_learning_rate():
    assert learning_rate_factor(0, 1000) == pytest.approx(0.01)
    assert learning_rate_factor(99, 1000) == pytest.approx(0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * 0.099)))
    assert learning_rate_factor(500, 1000) == pytest.approx(0.51)
    assert learning_rate_factor(1000, 1000) == pytest.approx(0.02)
    assert learning_rate_factor(0, 20) == pytest.approx(0.5)
    factors = [learning_rate_factor(s, 1000) for s in range(100, 1000)]
    assert factors == sorted(factors, reverse=True)


def test_loading_weights(whole, tmp_path):
    model = nn.Linear(3, 1)
    assert load_weights({"model": model}, whole) == hash_file(whole / "weights.safetensors")
    assert torch.equal(model.weight, weights(whole)["model.weight"])
    with pytest.raises(StateError, match=f"run `tumorgen train {tmp_path.name}`"):
        load_weights({"model": model}, tmp_path)
    with pytest.raises(StateError, match="do not fit"):
        load_weights({"model": nn.Linear(4, 1)}, whole)
    with pytest.raises(StateError, match="do not fit") as error:
        load_initial_weights({"model": nn.Linear(4, 1)}, whole / "weights.safetensors")
    said = "give weights of a plan with the same networks, or plan with their widths"
    assert error.value.faults[0].remedy == said
    load_initial_weights({"model": nn.Linear(3, 1)}, whole / "weights.safetensors")


class Narrow(nn.Module):
    """A convolution of an input narrower than its kernel; keeps the gradient of its first weights."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv3d(16, 16, 3, padding=1)
        self.gradient = None

    def forward(self, batch):
        loss = (self.conv(batch["x"]) * batch["y"]).sum()
        if self.gradient is None:
            torch.full((300_000,), float("nan"))  # leftovers in memory
            (self.gradient,) = torch.autograd.grad(loss, self.conv.weight, retain_graph=True)
        return loss, {}


def test_bf16_gradients_at_the_bottom_of_a_network_are_those_of_fp32(tmp_path):
    def narrow(number):
        return {
            name: np.random.default_rng([number, i]).standard_normal((16, 2, 2, 4)).astype(np.float32)
            for i, name in enumerate("xy")
        }

    found = []
    for precision in ("no", "bf16"):
        torch.manual_seed(0)
        module = Narrow()
        objectives = (Objective("fit", module, 0.05),)
        stage = Stage(
            "vae", "toy", {"model": module.conv}, objectives, narrow, 1, inputs_hash="", previews=0, ema=0.9, batch=2
        )
        train(stage, tmp_path / precision, "cpu", precision)
        found.append(module.gradient)
    assert (found[0] - found[1]).abs().max() < 0.02 * found[0].abs().max()


def test_bf16_trains_too(tmp_path):
    run = train(make_stage(), tmp_path, "cpu", "bf16")
    assert run.iterations == STEPS
    assert all(v.dtype == torch.float32 and torch.isfinite(v).all() for v in weights(tmp_path).values())


SCRIPT = """
import os, signal, sys, time
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from support.stages import make_stage
from tumorgen_cli.training import loop
loop.LOG_EVERY = 2
folder, batch, stopping = Path(sys.argv[1]), int(sys.argv[3]), sys.argv[4:] == ["stop"]
stage = replace(make_stage(batch=batch), finish=lambda: time.sleep(1) or {})

def item(number):
    if stopping and os.environ["RANK"] == "1" and number >= 4:  # again and again, as torchrun does
        os.kill(os.getpid(), signal.SIGTERM)
    return make_stage().item(number)

try:
    run = loop.train(replace(stage, item=item), folder, "cpu", "fp32")
    print(f"RUN {run is not None and run.processes}, record {(folder / 'run.json').is_file()}\\n", end="")
except KeyboardInterrupt:
    print(f"STOPPED with a checkpoint: {(folder / 'last.pt').is_file() or os.environ['RANK'] == '1'}\\n", end="")
"""


def test_a_remedy_names_the_section_of_the_plan_that_the_stage_reads(tmp_path):
    stage = make_stage(iterations=1, batch=3)
    for section, expected in (("", "methods.m.toy"), ("methods.tumorgen.flow", "methods.tumorgen.flow")):
        made = replace(stage, name="toy", section=section)
        with pytest.raises(StateError) as raised:
            loop._check_batch(made, tmp_path / "m" / "toy", 2)
        (fault,) = raised.value.faults
        assert fault.remedy == f"plan with --set {expected}.batch=2, or take another number of processes"
        loop._check_batch(replace(made, batch=2), tmp_path / "m" / "toy", 2)
        loop._check_batch(made, tmp_path / "m" / "toy", 3)
        with pytest.raises(StateError) as raised:
            loop._checked_numbers({"toy": torch.tensor(float("nan"))}, made, 1, tmp_path / "m" / "toy")
        assert f"--set {expected}.learning_rate=RATE" in raised.value.faults[0].remedy


def two_processes(folder, tmp_path, *arguments):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        str(tmp_path / "script.py"),
    ]
    here = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(here.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, str(folder), str(here), *arguments],
        capture_output=True,
        check=False,
        text=True,
        cwd=here.parent,
        env=environment,
        timeout=300,
    )


def test_two_processes_compute_what_one_computes(tmp_path, whole):
    """The second process also finds the record, although the first one writes it late: the next stage looks for it."""
    done = two_processes(tmp_path / "two", tmp_path, "2")
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("RUN")) == [
        "RUN 2, record True",
        "RUN False, record True",
    ]
    one, two = weights(whole), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for key in one:
        torch.testing.assert_close(two[key], one[key], atol=1e-5, rtol=0)


def test_all_processes_stop_where_one_is_asked_to(tmp_path):
    """Otherwise the others would wait for it, and the checkpoint would be lost."""
    done = two_processes(tmp_path / "two", tmp_path, "2", "stop")
    assert done.stdout.splitlines() == ["STOPPED with a checkpoint: True"] * 2, done.stderr
    assert 0 < torch.load(tmp_path / "two" / "last.pt", weights_only=True)["step"] < STEPS


@pytest.mark.slow
def test_a_batch_that_cannot_be_divided_among_the_processes(tmp_path):
    done = two_processes(tmp_path / "two", tmp_path, "3")
    assert done.returncode != 0
    assert "a multiple of 2 processes" in done.stderr
