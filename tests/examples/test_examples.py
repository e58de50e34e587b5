"""The scripts under examples/ are written against this package as it is."""

import runpy
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_every_name_that_an_example_imports_exists(script: Path) -> None:
    assert runpy.run_path(str(script), run_name="example")["__doc__"]
