"""The scripts under examples/ work with this package as it is."""

import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import typer
from support.parsing import parse_fault

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "examples").glob("*.py"))
PAGES = [page for page in (ROOT / "docs").rglob("*.md") if page.parent.name not in ("results", "notes")]
CALLS = sorted({call for page in PAGES for call in re.findall(r"python examples/[^`\n]+", page.read_text())})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_help_of_each_example(script: Path, monkeypatch, capsys) -> None:
    """Python puts a script's folder on the path, `runpy` does not."""
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(script), run_name="__main__")
    assert end.value.code == 0
    assert "Usage" in capsys.readouterr().out


@pytest.mark.parametrize("call", CALLS)
def test_every_call_in_the_docs_parses(call: str, example) -> None:
    """The pages of results and notes keep the calls of their day."""
    script, *words = shlex.split(call.removeprefix("python examples/"))
    module = example(Path(script).stem)
    app = getattr(module, "app", None)
    if app is None:
        app = typer.Typer(add_completion=False)
        app.command()(module.main)
    said = parse_fault(typer.main.get_command(app), script, words)
    assert not said, f"{call}: {said}"


def test_pages_call_examples() -> None:
    assert len(CALLS) >= 10
