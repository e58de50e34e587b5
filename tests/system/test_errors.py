"""Errors that the user can correct: the nearest names."""

import pytest

from tumorgen_cli.system.errors import did_you_mean

FIELDS = (
    "window.alpha",
    "window.shape",
    "paste.draws",
    "methods.difftumor.ddpm.copies",
    "methods.tumorgen.flow.copies",
    "methods.tumorgen.flow.coarse_weight",
    "methods.tumorgen.sampling.steps",
)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("window.alhpa", "did you mean window.alpha?"),
        ("steps", "did you mean methods.tumorgen.sampling.steps?"),
        ("Draws", "did you mean paste.draws?"),
        ("coppies", "did you mean methods.difftumor.ddpm.copies or methods.tumorgen.flow.copies?"),
        ("methods.tumorgan.flow.copies", "did you mean methods.tumorgen.flow.copies?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_nearest_names_are_suggested(name: str, asked: str) -> None:
    assert did_you_mean(name, FIELDS) == asked


def test_case_is_ignored_and_at_most_so_many_names_are_suggested() -> None:
    assert did_you_mean("COPYPASTE", ("syntumor", "copypaste")) == "did you mean copypaste?"
    assert did_you_mean("case", ("case_1", "case_2", "case_3"), most=2) == "did you mean case_1 or case_2?"
    assert did_you_mean("case", ()) == ""
