"""What the package says of itself in several files agrees: version, Pythons, nnU-Net, what the image copies."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import tumorgen_cli

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli", reason="Python 3.10 reads no TOML")

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PYTHONS = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {tumorgen_cli.__version__}\n" in citation
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0].startswith(f"[{tumorgen_cli.__version__}]")


def test_the_lowest_python_is_the_one_that_is_checked():
    lowest = PROJECT["project"]["requires-python"].removeprefix(">=")
    assert PYTHONS[0] == lowest
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{lowest.replace('.', '')}"


def test_the_oldest_nnunet_that_may_be_installed_was_tried():
    ((oldest, _),) = re.findall(r"Tried: nnunetv2 ([\d.]+) and ([\d.]+)", (ROOT / "docs" / "faq.md").read_text())
    (lowest,) = re.findall(r"nnunetv2>=([\d.]+)", " ".join(PROJECT["project"]["dependencies"]))
    assert oldest == f"{lowest}.0"


def test_the_image_has_all_that_the_package_is_built_from():
    text = (ROOT / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for name in line.split()[:-1]}
    build = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    folders = {*build["packages"], *build["force-include"]}
    assert copied == {"pyproject.toml", PROJECT["project"]["readme"], "LICENSE", *folders}
    assert all((ROOT / name).exists() for name in copied)
    assert re.findall(r"^ARG PYTHON=(.*)$", text, re.MULTILINE)[0] in PYTHONS
