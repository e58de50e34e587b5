"""Remedies that general commands print work when they are followed; every printed command is one that exists."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from pathlib import Path

import pytest
from support.command_line import call, check_words, told
from support.workspaces import TOY

import tumorgen_cli
from tumorgen_cli.cli import options
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import PlanError

PACKAGE = Path(tumorgen_cli.__file__).parent
#: `tumorgen COMMAND`, with its own options; placeholders are in capitals, fields of f-strings are x
COMMAND = re.compile(r"`tumorgen (\w[^`]*)`")
SETTINGS = [part for setting in TOY for part in ("--set", setting)]
QUICK = ("--device", "cpu", "--memory", 8, "--workers", 0, *SETTINGS)


def strings_of(path: Path):
    """The texts in a file, docstrings left out; fields of f-strings become x."""
    tree = ast.parse(path.read_text())
    nodes = [node for node in ast.walk(tree) if hasattr(node, "body") and isinstance(node.body, list)]
    documented = {id(node.body[0].value) for node in nodes if node.body and isinstance(node.body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node.value


def printed_commands():
    found = {
        (path, words) for path in PACKAGE.rglob("*.py") for text in strings_of(path) for words in COMMAND.findall(text)
    }
    return sorted((str(path.relative_to(PACKAGE)), words) for path, words in found)


def test_commands_are_printed():
    assert len(printed_commands()) > 20


@pytest.mark.parametrize(("file", "words"), printed_commands(), ids=str)
def test_a_printed_command_exists_and_knows_its_options(file, words):
    names = shlex.split(words)
    if names[0] != "x":  # a field: the command that was given
        check_words(names)


def printed_settings():
    """The fields in `--set FIELD=`; what stands for a name in them becomes x."""
    found = {
        re.sub(r"METHOD|STAGE|\bN\b", "x", field)
        for path in PACKAGE.rglob("*.py")
        for text in strings_of(path)
        for field in re.findall(r"--set '?([\w.]+)=", text)
    }
    return sorted(found - {"x"})


def test_printed_settings_are_fields_of_the_plan(workspace):
    fields = {decision.field for decision in workspace.plan().decisions}
    assert len(printed_settings()) > 5
    for field in printed_settings():
        parts = [r"\w+(\.\w+)*" if part == "x" else re.escape(part) for part in field.split(".")]  # x: a section, too
        pattern = re.compile(r"\.".join(parts))
        assert any(pattern.fullmatch(known) for known in fields), field


def remedies(result):
    return re.findall(r"remedy:\s+(.*)", result.stderr)


def follow(result, **placeholders):
    """Run the first command that a remedy names; placeholders are replaced."""
    words = next(found[1] for remedy in remedies(result) if (found := COMMAND.search(remedy)))
    return [placeholders.get(word, word) for word in shlex.split(words)]


@pytest.fixture
def work(workspace, tmp_path):
    """A copy of the planned and preprocessed workspace."""
    shutil.copytree(workspace.root, tmp_path / "my work")
    return tmp_path / "my work"


def paint(work, phantoms, *more):
    hosts = ("--healthy", phantoms.healthy, "-n", 1, "--method", "syntumor", "--box", "10,10,10,24,24,22")
    return ("synthesize", *hosts, "--device", "cpu", "-w", work, *more)


def test_from_no_plan_to_painting(phantoms, tmp_path):
    """Each refusal names the command that leads on, with the workspace."""
    work = tmp_path / "new work"
    command = paint(work, phantoms, "--out", tmp_path / "set")
    call(*follow(call(*command, code=1), DATASET=phantoms.dataset), *QUICK)
    call(*follow(call(*command, code=1)), "--workers", 0)
    call(*command)
    assert (tmp_path / "set" / "dataset.json").is_file()


@pytest.mark.parametrize(
    "command",
    [
        ("preprocess",),
        ("train", "vea"),
        ("synthesize",),
        ("synthesize", "--healthy", "none", "--judge", "none"),
        ("filter", "none"),
        ("evaluate", "none"),
        ("compare", "--methods", "copypast"),
        ("downstream", "--arms", "nothing"),
        ("nnunet-setup", "--judge", "none"),
        ("reader-study", "make", "none"),
    ],
    ids=" ".join,
)
def test_without_a_workspace_every_command_says_so_first_and_leaves_no_folder(command, tmp_path):
    refused = call(*command, "-w", tmp_path / "none", code=1)
    assert "There is no plan" in refused.stderr
    assert follow(refused)[:2] == ["plan", "DATASET"]
    assert list(tmp_path.iterdir()) == []


def test_a_refused_plan_leaves_no_folder(phantoms, tmp_path):
    shutil.copytree(phantoms.dataset, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "labelsTr")
    before = sorted(tmp_path.iterdir())
    call("plan", tmp_path / "data", "-w", tmp_path / "work", *QUICK, code=1)
    call("plan", phantoms.dataset, "-w", tmp_path / "work", *QUICK, "--set", "windw.alpha=1", code=1)
    assert sorted(tmp_path.iterdir()) == before


def test_a_refused_set_leaves_no_folder(work, phantoms, tmp_path):
    out = tmp_path / "set"
    call(*paint(work, phantoms, "--out", out, "--box", "900,900,900,910,910,910"), code=1)
    call(*paint(work, phantoms, "--out", out, "--judge", tmp_path / "none", "--until-pass", 2), code=1)
    assert not out.exists()


def test_an_earlier_stage_is_named(work):
    refused = call("train", "flow", "-w", work, "--device", "cpu", code=1)
    assert remedies(refused) == [f"run `tumorgen train vae -w '{work}'` (with --restart if the plan has changed)"]
    assert follow(refused)[:2] == ["train", "vae"]
    assert follow(refused)[-2:] == ["-w", str(work)]


def test_options_are_left_out_or_added_as_told(work, phantoms, tmp_path):
    refused = call(*paint(work, phantoms, "--cases", "test"), code=1)
    assert remedies(refused) == ["leave one out"]
    refused = call("synthesize", "--cases", "test", "--judge", "bundled", "-w", work, code=1)
    assert remedies(refused) == ["add --until-pass N, or leave it out"]
    call(*paint(work, phantoms, "--judge", "bundled", "--until-pass", 1, "--keep", 0, "--out", tmp_path / "a"))
    call(*paint(work, phantoms, "--out", tmp_path / "b"))


def test_examples_in_remedies_are_accepted(work, phantoms):
    (remedy,) = remedies(call(*paint(work, phantoms, "--box", "1,2"), code=1))
    assert options.parse_box(remedy.split("--box ")[1]) is not None
    (remedy,) = remedies(call(*paint(work, phantoms, "--shard", "9"), code=1))
    shards = re.findall(r"--shard (\S+/\d+)", remedy)
    assert [options.parse_shard(shard) for shard in shards] == [(1, 8), (8, 8)]
    (remedy,) = remedies(call(*paint(work, phantoms, "--box", "9,9,9,1,1,1"), code=1))
    assert remedy == "swap the corners"
    assert options.parse_box("1,1,1,9,9,9") is not None
    with pytest.raises(PlanError):
        options.parse_box("9,9,9,1,1,1")


def test_another_set_needs_another_folder(work, phantoms, tmp_path):
    call(*paint(work, phantoms, "--out", tmp_path / "a"))
    refused = call(*paint(work, phantoms, "--out", tmp_path / "a", "--seed", 5), code=1)
    assert "choose another folder with --out" in told(refused)
    call(*paint(work, phantoms, "--out", tmp_path / "b", "--seed", 5))


def test_the_seed_is_the_plans(work, phantoms):
    refused = call("train", "vae", "--seed", 3, "-w", work, "--device", "cpu", code=1)
    assert "plan again with --seed 3" in told(refused)
    call("plan", phantoms.dataset, "-w", work, *QUICK, "--seed", 3)
    assert Workspace(work).plan().seed == 3


def test_a_link_for_a_lock_is_deleted_as_told(work, tmp_path):
    (tmp_path / "diary").write_text("dear diary")
    (work / ".lock").unlink(missing_ok=True)
    (work / ".lock").symlink_to(tmp_path / "diary")
    assert remedies(call("preprocess", "-w", work, "--workers", 0, code=1)) == ["delete the link"]
    (work / ".lock").unlink()
    call("preprocess", "-w", work, "--workers", 0)
    assert (tmp_path / "diary").read_text() == "dear diary"


def test_a_preset_is_copied_as_told(tmp_path):
    refused = call("presets", "--copy", tmp_path / "mine.yaml", code=1)
    assert remedies(refused) == ["run `tumorgen presets NAME --copy FILE`"]
    words = follow(refused, NAME="demo", FILE=tmp_path / "mine.yaml")
    call(*words)
    assert remedies(call(*words, code=1)) == ["choose another name; nothing was written"]
    call(*words[:-1], tmp_path / "yours.yaml")
    assert (tmp_path / "yours.yaml").read_text() == (tmp_path / "mine.yaml").read_text()


def test_a_misspelled_name_is_corrected_as_told(work, phantoms, tmp_path):
    refused = call("compare", "--methods", "copypast", "--cases", "test", "-w", work, code=1)
    assert remedies(refused) == ["did you mean copypaste?"]
    refused = call("plan", phantoms.dataset, "-w", work, *QUICK, "--set", "paste.drws=3", code=1)
    assert "did you mean paste.draws?" in told(refused)
    call("plan", phantoms.dataset, "-w", work, *QUICK, "--set", "paste.draws=3")
