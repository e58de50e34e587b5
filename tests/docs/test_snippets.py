"""What README and docs tell a reader to type exists: every command parses, every link leads somewhere, every Python block compiles."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from click.exceptions import ClickException, Exit

from tumorgen_cli.cli.main import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: results and notes keep the commands of their day
DATED = ("results", "notes")


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages, in order."""
    found = re.findall(r"^( *)```(\w+)[^\n]*\n(.*?)^\1```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [body for _, language, body in found if language in languages]


def commands(page: Path) -> list[list[str]]:
    """The words of every `tumorgen` call in a page's shell blocks; continued lines are joined."""
    calls = []
    for body in blocks(page, "bash", "console", "sh"):
        for line in body.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|;|\|", line.removeprefix("$ ").split("  #")[0]):
                words = shlex.split(part.replace("...", "").replace("…", ""), comments=True)
                if "tumorgen" in words[:1] or any(word.endswith("/tumorgen") for word in words[:1]):
                    calls.append(words[1:])
    return calls


def test_pages_show_commands():
    assert sum(len(commands(page)) for page in PAGES) > 30


@pytest.mark.parametrize("page", [p for p in PAGES if p.parent.name not in DATED], ids=lambda p: str(p.relative_to(ROOT)))
def test_every_command_parses(page):
    command = typer.main.get_command(app)
    for words in commands(page):
        try:
            context = command.make_context("tumorgen", list(words))
            while hasattr(context.command, "commands"):
                name, found, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
                context = found.make_context(name, rest, parent=context)
        except Exit:
            continue  # --help, --version
        except ClickException as error:
            pytest.fail(f"{page.name}: tumorgen {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    generated = {ROOT / "docs" / "reference" / name for name in ("commands.md", "plan.md")}
    for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", page.read_text()):
        path = (page.parent / target).resolve()
        assert path.exists() or path in generated, f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_python_blocks_compile(page):
    for body in blocks(page, "python"):
        compile(body, str(page), "exec")


def test_the_front_page_stays_one():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
