"""Who follows a training: the moments that are told, and what an error of a watcher does."""

import pytest
from support.stages import STEPS, item, make_stage

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.training import loop
from tumorgen_cli.training.checkpoints import read_log
from tumorgen_cli.training.loop import train
from tumorgen_cli.training.watch import following

CONTINUES = "the training continues without this logger or page"


@pytest.fixture
def always(monkeypatch):
    """A checkpoint after every step."""
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", -1.0)


def followed(folder, *watchers, items=item):
    with following(watchers) as tell:
        train(make_stage(items), folder, "cpu", "fp32", tell=tell)


def killed_at(step):
    def items(number):
        if number == 2 * step:
            raise RuntimeError("killed")
        return item(number)

    return items


def test_a_training_is_told_at_its_beginning_each_checkpoint_and_its_end(tmp_path, always):
    seen, logged = [], []

    def watch(moment):
        seen.append((moment.stage, moment.step, moment.iterations, moment.state))
        logged.append([row["step"] for row in read_log(moment.folder)])

    followed(tmp_path, watch)
    steps = [("vae", step, STEPS, "running") for step in range(STEPS + 1)]
    assert seen == [*steps, ("vae", STEPS, STEPS, "finished")]
    assert logged == [[]] * 10 + [[10.0]] * 4 + [[10.0, STEPS]] * 2, "as of the last checkpoint"
    assert (tmp_path / "run.json").is_file()


def test_a_killed_and_a_resumed_training_are_told_as_such(tmp_path, always):
    seen = []

    def watch(moment):
        seen.append((moment.step, moment.state))

    with pytest.raises(RuntimeError, match="killed"):
        followed(tmp_path, watch, items=killed_at(3))
    assert seen == [(0, "running"), (1, "running"), (2, "running"), (3, "running"), (3, "stopped")]
    seen.clear()
    followed(tmp_path, watch)
    assert (seen[0], seen[-1]) == ((3, "running"), (STEPS, "finished"))


def test_an_error_at_the_beginning_stops_before_anything_is_trained(tmp_path):
    seen = []

    def refuse(moment):
        raise StateError("closed", [Fault("a", "b", "c", "d")])

    def watch(moment):
        seen.append(moment.state)

    with pytest.raises(StateError, match="closed"):
        followed(tmp_path, refuse, watch, items=lambda number: pytest.fail("it was trained"))
    assert not (tmp_path / "last.pt").exists()
    assert seen == ["stopped"]


def test_a_watcher_that_fails_later_is_left_out_and_the_training_goes_on(tmp_path, always, capsys):
    calls, seen = [], []

    def breaks(moment):
        calls.append(moment.step)
        if moment.step == 2:
            raise ConnectionError("the network is down")

    followed(tmp_path, breaks, lambda moment: seen.append(moment.step))
    assert calls == [0, 1, 2]
    assert seen == [*range(STEPS + 1), STEPS]
    said = " ".join(capsys.readouterr().err.split())
    assert said.count(f"warning: toy: {CONTINUES}: ConnectionError: the network is down") == 1
