"""Makes the judge that comes with tumorgen: a small nnU-Net for FDG-PET, trained on sarcoma patients and on phantoms.

    python examples/bundled_judge.py Dataset501_STSPET --minutes 25

Reads an nnU-Net raw dataset of FDG-PET of soft-tissue sarcoma (TCIA Soft-tissue-Sarcoma, prepared by the IBSI). Every fifth
case in sorted order is held out. Phantoms are added so that the judge also scores `tumorgen demo`; the real cases alone
decide the spacing. Writes an nnU-Net results folder with MODEL_CARD.md and judge.json into --out. Run it again after a
kill and it goes on where it was.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import typer

from tumorgen_cli.data.dataset import find_dataset, read_dataset
from tumorgen_cli.data.phantom import DATASET, write_phantoms
from tumorgen_cli.geometry import Triple
from tumorgen_cli.judge.card import LIMITS, JudgeRecord, copy_judge, model_card
from tumorgen_cli.judge.train import train_judge
from tumorgen_cli.nnunet.job import TrainingCase, TrainingData, TrainingOptions, device_kind, training_data
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, StateError, TumorgenError
from tumorgen_cli.system.files import write_text
from tumorgen_cli.system.locks import locked

OUT = Path(__file__).resolve().parent.parent / "tumorgen_cli" / "bundled_judge"
LARGEST_BYTES = 25 * 10**6
#: of `tumorgen demo`'s and of `tumorgen demo --quick`'s size: each of the five kinds of tumor twice and once. A third of all
#: cases: patients stay the most
LEARNED = {"demo": 10, "quick": 5}
HELD_OUT = {"demo": 5, "quick": 5}
LEARNED_SEED, HELD_OUT_SEED = 913_000_001, 913_000_002  # the demo's is 0, or what a user types

DATA = """\
FDG-PET (SUV) of {patients} patients with soft-tissue sarcoma, cropped 5 cm around the tumor; the label is the gross tumor volume.
{train} were trained on, every fifth in sorted order was held out.

* Source: Vallières, M., Freeman, C. R., Skamene, S. R., & El Naqa, I. (2015). Soft-tissue-Sarcoma [Data set]. The Cancer Imaging Archive.
  <https://doi.org/10.7937/K9/TCIA.2015.7GO2GSKS>. Published with: Vallières et al., Phys. Med. Biol. 60 (2015) 5471–5496.
* Prepared by the Image Biomarker Standardisation Initiative (IBSI): converted, in SUV, cropped. Changed here: resampled and normalised by nnU-Net.
* Licence of the data: CC BY 3.0, <https://creativecommons.org/licenses/by/3.0/>. The authors of the data endorse neither this model nor its use.
* And {phantoms} computed phantoms of `tumorgen demo`, without any patient's data. On {held_out} other phantoms (not in the table below) the mean
  DSC is {dice}, the mean NSD {surface_dice}."""

BOUNDS = (
    "Anything but FDG-PET in SUV, cropped around soft-tissue sarcomas, and the demo's phantoms: brain, heart, bladder and kidneys, bright in "
    "whole-body PET, are taken for tumors or not, at random.",
    "Comparing with published segmentation results: the training is minutes long, few patients are held out, and a longer "
    "training was dropped because it did worse on them.",
    "Redistribution without naming the data's authors (above).",
)


def main(
    dataset: Annotated[
        str, typer.Argument(help="Path of the nnU-Net raw data set, or its id or name under $nnUNet_raw.")
    ],
    minutes: Annotated[float, typer.Option(help="Of training; preparing and scoring take two more.", min=0.001)] = 25.0,
    out: Annotated[Path, typer.Option(help="Where the judge goes.")] = OUT,
    work: Annotated[Path, typer.Option(help="Where it is made.")] = Path("tumorgen_bundled_judge"),
    seed: int = 0,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    restart: Annotated[bool, typer.Option("--restart", help="Train anew.")] = False,
) -> None:
    """Trains the judge that comes with tumorgen."""
    try:
        record = make(dataset, minutes, out, work, seed, device, restart)
    except TumorgenError as error:
        console.show_error(error)
        raise typer.Exit(1) from None
    rows = [(score.case, score.dice, score.surface_dice, score.seconds) for score in record.held_out]
    console.table(f"Held-out cases ({out})", ("case", "DSC", f"NSD at {record.tolerance_mm} mm", "seconds"), rows)
    console.note(
        f"patients: mean DSC {patients_of(record).mean_dice:.3f}, NSD {patients_of(record).mean_surface_dice:.3f}"
    )


def make(
    dataset: str,
    minutes: float,
    out: Path,
    work: Path,
    seed: int,
    device: Literal["auto", "cpu", "cuda"],
    restart: bool,
) -> JudgeRecord:
    """The record of the judge in `out`.

    Raises:
        StateError: the judge is too large to be shipped.
    """
    workspace = Workspace(work.resolve())
    plan = plan_dataset(workspace, dataset, device=device)
    splits = workspace.splits()
    data = with_phantoms(
        training_data(read_dataset(find_dataset(dataset), plan.tumor_name), splits), workspace.root / "phantoms"
    )
    spacing = real_spacing(workspace)
    options = TrainingOptions(minutes, seed, device_kind(device), plan.precision, spacing_mm=spacing)
    record = train_judge(data, workspace.judge, options, plan.tolerance_mm, plan.fingerprint_hash, restart)
    if not np.allclose(record.spacing_mm, spacing, rtol=1e-3):
        raise RuntimeError(f"nnU-Net trained at {record.spacing_mm} mm, not at the {spacing} mm of the real data")
    command = f"python examples/bundled_judge.py {data.dataset} --minutes {minutes:g} --seed {seed}"
    write_text(workspace.judge / "MODEL_CARD.md", card(record, command))
    copy_judge(workspace.judge, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    if size > LARGEST_BYTES:
        fault = Fault(
            str(out),
            f"{size / 1e6:.1f} MB",
            f"{LARGEST_BYTES / 1e6:g} MB or less",
            "train with --device cpu, which makes it small",
        )
        raise StateError("The judge is too large", [fault])
    return record


def with_phantoms(data: TrainingData, folder: Path) -> TrainingData:
    """The real cases, then the phantoms to learn from and those to be scored on."""
    learned = [
        case for kind, count in LEARNED.items() for case in phantoms(folder, "Phantom", kind, count, LEARNED_SEED)
    ]
    held_out = [
        case for kind, count in HELD_OUT.items() for case in phantoms(folder, "PhantomTest", kind, count, HELD_OUT_SEED)
    ]
    return dataclasses.replace(data, train=(*data.train, *learned), test=(*data.test, *held_out))


def phantoms(folder: Path, name: str, kind: str, count: int, seed: int) -> list[TrainingCase]:
    """`count` phantoms, written if they are not there; `name` begins each one's name."""
    folder = folder / f"{name}_{kind}"
    done = folder / f"seed_{seed}_{count}"
    with locked(folder, "phantoms"):
        if not done.is_file():
            write_phantoms(folder, count, 0, seed, small=kind == "quick")
            done.touch()
    dataset = read_dataset(folder / DATASET)
    return [
        TrainingCase(f"{name}_{kind}_{number:03d}", dataset.image_files(case), dataset.label_file(case))
        for number, case in enumerate(dataset.cases)
    ]


def real_spacing(workspace: Workspace) -> Triple:
    """Median spacing (x, y, z) of the real training cases: what nnU-Net would choose, were there no phantoms."""
    train = workspace.splits().train
    x, y, z = np.median([case.grid.spacing_mm for case in workspace.fingerprint().cases if case.case in train], axis=0)
    return float(x), float(y), float(z)


def is_phantom(case: str) -> bool:
    return case.startswith("Phantom")


def patients_of(record: JudgeRecord) -> JudgeRecord:
    """The record with the patients' scores alone."""
    return dataclasses.replace(record, held_out=tuple(s for s in record.held_out if not is_phantom(s.case)))


def card(record: JudgeRecord, command: str) -> str:
    """The model card; its table is of patients alone."""
    patients, computed = patients_of(record), [s for s in record.held_out if is_phantom(s.case)]
    alone = dataclasses.replace(record, held_out=tuple(computed))
    learned = sum(LEARNED.values())
    text = DATA.format(
        patients=len(record.cases) - learned + len(patients.held_out),
        train=len(record.cases) - learned,
        phantoms=learned,
        held_out=len(computed),
        dice=_number(alone.mean_dice),
        surface_dice=_number(alone.mean_surface_dice),
    )
    return model_card(patients, "The judge that comes with tumorgen", text, command, (*BOUNDS, *LIMITS))


def _number(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    typer.run(main)
