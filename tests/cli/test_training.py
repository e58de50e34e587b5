"""train."""

import json

from support.command_line import call, told


def test_a_stage_that_is_done_is_said_to_be(trained):
    result = call("train", "all", "-w", trained.root, "--device", "cpu", "--json")
    assert json.loads(result.stdout) == []
    assert told(result).count("already trained") == 3


def test_options_that_a_stage_does_not_have(workspace):
    judge = ("train", "judge", "-w", workspace.root)
    assert "--method" in told(call(*judge, "--method", "tumorgen", code=1))
    assert "--iterations" in told(call(*judge, "--iterations", 3, code=1))
    assert "--minutes" in told(call("train", "vae", "-w", workspace.root, "--minutes", 3, code=1))
