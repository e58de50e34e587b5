"""What README and docs tell a reader to type works: commands parse or run, links lead somewhere, Python blocks run."""

from __future__ import annotations

import itertools
import re
import shlex
import sys
import types
from pathlib import Path

import pytest
import typer
from support.command_line import call
from support.parsing import parse_fault
from support.workspaces import TOY

from tumorgen_cli.cli.main import app
from tumorgen_cli.cli.options import arm_names, method_names
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.planning.fields import check_overrides, plan_fields
from tumorgen_cli.planning.presets import read_overrides

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: results and notes keep the commands of their day
DATED = ("results", "notes")
#: pages whose tables have whole calls; elsewhere the text names parts of calls
WHOLE_CALLS = ("coverage.md",)
FIELDS = plan_fields(1, {name: find_method(name).section for name in METHODS})
EXAMPLE = "methods.brighten."  # a method that a page writes
SETTING = r"(methods|paste|window|channels)(\.\w+)+=(?!N$)\S+"  # N: a number of the reader's


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages, in order."""
    found = re.findall(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [body for _, language, body in found if language in languages]


def inline(page: Path) -> list[str]:
    """The code in a page's running text and tables."""
    text = re.sub(r"^( *)```.*?^\1```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def commands(page: Path) -> list[list[str]]:
    """The words of every `tumorgen` call in a page's shell blocks, and in whole calls in tables; lines are joined."""
    calls, whole = [], inline(page) if page.name in WHOLE_CALLS else []
    for body in (*blocks(page, "bash", "console", "sh"), *whole):
        for line in body.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.removeprefix("$ ").split("  #")[0]):
                words = shlex.split(part.replace("...", "").replace("…", ""), comments=True)
                if "tumorgen" in words[:1] or any(word.endswith("/tumorgen") for word in words[:1]):
                    calls.append(words[1:])
    return calls


def test_pages_show_commands():
    assert sum(len(commands(page)) for page in PAGES) > 30


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.parent.name not in DATED], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_command_parses(page):
    command = typer.main.get_command(app)
    for words in commands(page):
        said = parse_fault(command, "tumorgen", words, may_exit=True)
        assert not said, f"{page.name}: tumorgen {shlex.join(words)}: {said}"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.parent.name not in DATED], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_method_and_arm_exists(page):
    """Those after `--method`, `--methods` and `--arms`."""
    for words in commands(page):
        for option, text in itertools.pairwise(words):
            if option in ("--method", "--methods"):
                method_names(option, text, [])
            elif option == "--arms":
                arm_names(text, True, [])


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p.parent.name not in DATED], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_setting_is_a_field_of_a_plan(page):
    """Those after `--set`, and code of the form `methods.name.section.field=value`."""
    found = [words[at + 1] for words in commands(page) for at, word in enumerate(words[:-1]) if word == "--set"]
    found += [code for code in inline(page) if re.fullmatch(SETTING, code)]
    overrides = read_overrides(None, [setting for setting in found if setting and EXAMPLE not in setting])
    check_overrides(overrides, FIELDS)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    generated = {ROOT / "docs" / "reference" / name for name in ("commands.md", "plan.md")}
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text()):
        path = (page.parent / target).resolve()
        assert path.exists() or path in generated, f"{page.name} links to {target}"


@pytest.fixture
def reader(demo_folder, monkeypatch):
    """A reader in the demo's folder, without nnU-Net's variables."""
    monkeypatch.chdir(demo_folder)
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "bash") and p.parent != ROOT], ids=lambda p: p.stem)
def test_the_commands_of_a_page_run(page, reader):
    """Blocks of `bash` run in order in the demo's workspace; the demo itself has tests of its own."""
    for body in blocks(page, "bash"):
        for line in body.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["tumorgen"] and words[1] != "demo":
                call(*words[1:])


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python") and p.parent != ROOT], ids=lambda p: p.stem)
def test_the_python_of_a_page_runs(page, reader, monkeypatch):
    """All blocks of a page in one module, as a reader would paste them."""
    module = types.ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look their module up
    for body in blocks(page, "python"):
        exec(compile(body, str(page), "exec"), module.__dict__)


def test_the_front_pages_commands_run(reader, phantoms):
    """The five commands on your own data, with a plan that trains for seconds."""
    front = ROOT / "README.md"
    names = {"DATASET": phantoms.dataset, "DIR": phantoms.healthy, "SET": "tumorgen_healthy", "40": 2}
    settings = [part for setting in TOY for part in ("--set", setting)]
    body = next(body for body in blocks(front, "console") if "tumorgen plan" in body)
    done = []
    for line in body.splitlines():
        for part in line.removeprefix("$ ").split("#")[0].split("&&"):
            words = [str(names.get(word, word)) for word in shlex.split(part)][1:]
            call(*words, *(settings if words[0] == "plan" else []))
            done.append(words[0])
    assert done == ["plan", "preprocess", "train", "synthesize", "evaluate", "merge"]


@pytest.mark.filterwarnings("ignore:.*held-out cases:UserWarning")  # of networks trained for four steps
def test_the_front_pages_python_runs(reader):
    """One scan in memory, as the front page shows it."""
    (body,) = blocks(ROOT / "README.md", "python")
    exec(compile(body, "README.md", "exec"), {"__name__": "page"})


def test_the_front_page_stays_one():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
