"""The tables of the papers that `papers.py` makes: their rows, what sets each apart, and the papers' own numbers.

    python examples/paper_tables.py

prints them. Figures are from TumorGen (2025), DiffTumor (CVPR 2024) and FreeTumor (2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import typer

from tumorgen_cli.system import console

FREE, DIFF = "methods.freetumor", "methods.difftumor"
_UNFILTERED = (f"{FREE}.filter.rule=threshold", f"{FREE}.filter.threshold=0")


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        name: Its name.
        paper: What the paper reports for it; empty for a row that is not in the paper.
        method: The method that paints.
        settings: Fields of the plan, as for `plan --set`.
        painting: Options of `synthesize`. `downstream` has none of them, so that such a row has no gain.
        live: Whether nnU-Net learns from patches that are painted while it trains.
        unlabeled: Whether methods learn from the healthy scans, too.
    """

    name: str
    paper: str
    method: str
    settings: tuple[str, ...] = ()
    painting: tuple[str, ...] = ()
    live: bool = False
    unlabeled: bool = True


@dataclass(frozen=True)
class Table:
    """A table of a paper.

    Attributes:
        title: What it is.
        reports: What its numbers are in the paper.
        hosts: Into what is painted: held-out cases, whose tumors are redrawn, or the healthy scans.
        rows: Its rows.
    """

    title: str
    reports: str
    hosts: Literal["test", "healthy"]
    rows: tuple[Row, ...]


def _early(timesteps: int, paper: str = "") -> Row:
    fields = (f"{DIFF}.models=early", f"{DIFF}.early.timesteps={timesteps}")
    return Row(f"T {timesteps}", paper, "difftumor", fields)


def _threshold(value: float, paper: str) -> Row:
    return Row(f"threshold {value}", paper, "freetumor", (_UNFILTERED[0], f"{FREE}.filter.threshold={value}"))


def _weight(value: float, paper: str) -> Row:
    return Row(f"weight {value}", paper, "freetumor", (f"{FREE}.gan.classifier_weight={value}",))


_LATER = (f"{DIFF}.models=later",)
_DSC = "DSC in % of a segmentor, mean of liver, pancreas and kidney tumors"
TABLES = {
    "tumorgen-3": Table(
        "TumorGen, Table 3: sampling",
        "FID on Hecktor; seconds a sample on the authors' machine",
        "test",
        (
            Row("DiffTumor DDPM-50", "66.8; 1.226 s", "difftumor", _LATER, ("--steps", "50", "--solver", "ddpm")),
            Row("DiffTumor DDIM-50", "68.3; 1.133 s", "difftumor", _LATER, ("--steps", "50", "--solver", "ddim")),
            Row("DiffTumor T 4", "", "difftumor", (f"{DIFF}.models=early", f"{DIFF}.early.timesteps=4")),
            Row("TumorGen RFM-50", "52.0; 1.061 s", "tumorgen", (), ("--steps", "50", "--solver", "euler")),
            Row("TumorGen RFM-10", "55.9; 0.218 s", "tumorgen", (), ("--steps", "10", "--solver", "euler")),
        ),
    ),
    "difftumor-6": Table(
        "DiffTumor, Figure 6: diffusion steps T",
        "the text names T = 1, which fails, and T = 4, which is chosen",
        "test",
        (_early(1, "fails"), _early(2), _early(4, "0.2 s a tumor"), _early(10), _early(50), _early(200)),
    ),
    "difftumor-forms": Table(
        "DiffTumor: forms in which its paper, its code and this project differ",
        "no table",
        "test",
        (
            Row("as planned", "", "difftumor"),
            Row("condition of the paper", "", "difftumor", (f"{DIFF}.ddpm.condition=latents",)),
            Row("scaled by the codebook", "", "difftumor", (f"{DIFF}.ddpm.scale=codebook",)),
            Row("no blending", "", "difftumor", (f"{DIFF}.sampling.blend=false",)),
            Row("attention by softmax", "", "difftumor", (f"{DIFF}.ddpm.attention=softmax",)),
            Row("one model, T 200", "", "difftumor", _LATER),
            Row("TumorGen's autoencoder", "", "difftumor", (f"{DIFF}.autoencoder=tumorgen",)),
            Row("masks of training tumors", "", "difftumor", (f"{DIFF}.mask.prior=training",)),
        ),
    ),
    "freetumor-forms": Table(
        "FreeTumor: forms in which its paper, its code and this project differ",
        "no table",
        "healthy",
        (
            Row("as planned", "", "freetumor"),
            Row("equation 1", "", "freetumor", (f"{FREE}.gan.form=equation",)),
            Row("the generator sees the mask", "", "freetumor", (f"{FREE}.gan.mask_channel=true",)),
            Row("masks of training tumors", "", "freetumor", (f"{FREE}.mask.prior=training",)),
        ),
    ),
    "freetumor-2": Table(
        "FreeTumor, Table 2: share P of the masks that a segmentor finds",
        "P in %",
        "healthy",
        (
            Row("SynTumor", "43.7", "syntumor"),
            Row("DiffTumor", "67.0", "difftumor"),
            Row("FreeTumor, labeled scans alone", "79.5 (0.9k scans)", "freetumor", _UNFILTERED, unlabeled=False),
            Row("FreeTumor, healthy scans too", "82.2 (11k scans)", "freetumor", _UNFILTERED),
        ),
    ),
    "freetumor-3": Table(
        "FreeTumor, Table 3: losses, and a diffusion model in place of the generator",
        f"{_DSC}, 2.2k scans",
        "healthy",
        (
            Row("without L_cls", "74.0 (this row or the next)", "freetumor", (f"{FREE}.gan.classifier_weight=0",)),
            Row("without L_seg", "", "freetumor", (f"{FREE}.gan.segmentor_weight=0",)),
            Row("both", "74.4", "freetumor"),
            Row("DiffTumor", "70.5", "difftumor"),
            Row(
                "DiffTumor, filtered",
                "72.8",
                "difftumor",
                painting=("--until-pass", "5", "--keep", "0.7", "--p-alone"),
            ),
        ),
    ),
    "freetumor-4": Table(
        "FreeTumor, Tables 4 and 13: the filter",
        f"{_DSC}, 2.2k scans",
        "healthy",
        (
            Row("no filter", "72.3", "freetumor", _UNFILTERED),
            _threshold(0.5, "73.5"),
            _threshold(0.7, "74.4"),
            _threshold(0.9, "74.0"),
            Row("adaptive", "73.3", "freetumor", (f"{FREE}.filter.rule=adaptive",)),
        ),
    ),
    "freetumor-5": Table(
        "FreeTumor, Table 5: scans that are painted into, seen while learning to paint or not",
        f"{_DSC}, 11k scans painted into",
        "healthy",
        (
            Row("not seen", "73.8 (0.9k scans seen)", "freetumor", unlabeled=False),
            Row("seen", "76.8 (11k scans seen)", "freetumor"),
        ),
    ),
    "freetumor-12": Table(
        "FreeTumor, Table 12: λ_cls",
        _DSC,
        "healthy",
        (_weight(1.0, "76.5"), _weight(0.5, "76.6"), _weight(0.2, "76.8"), _weight(0.1, "76.8")),
    ),
    "freetumor-14": Table(
        "FreeTumor, Table 14: painting before or while a segmentor learns (only --minutes tells the last row apart)",
        f"{_DSC}, 2.2k / 11k scans",
        "healthy",
        (
            Row("before, one draw", "72.0 / 73.3", "freetumor", (f"{FREE}.filter.tries=1", "paste.draws=1")),
            Row("before, drawn until it passes", "73.7 / 76.6", "freetumor"),
            Row("meanwhile", "74.4 / 76.8", "freetumor", live=True),
        ),
    ),
}


def main() -> None:
    """Print every table with its rows."""
    for name, table in TABLES.items():
        rows = [
            (
                row.name,
                row.paper,
                row.method,
                " ".join([*row.settings, *row.painting]),
                "yes" if row.unlabeled else "no",
            )
            for row in table.rows
        ]
        columns = ("row", "paper", "method", "settings", "learns from healthy scans")
        console.table(f"{name}: {table.title}", columns, rows)
        console.note(f"paper: {table.reports}")


if __name__ == "__main__":
    typer.run(main)
