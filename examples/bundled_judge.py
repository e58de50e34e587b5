"""Make the judge that comes with tumorgen: a small nnU-Net for FDG-PET, trained on sarcoma patients and on phantoms.

    python examples/bundled_judge.py Dataset501_STSPET --minutes 25

Reads an nnU-Net raw data set of FDG-PET of soft-tissue sarcoma (TCIA Soft-tissue-Sarcoma, prepared by the IBSI). Every
fifth case in sorted order is held out. Phantoms are added so that the judge also works on `tumorgen demo`. Only the
real cases decide the spacing. Writes an nnU-Net results folder with MODEL_CARD.md and judge.json into --out. If the
script is stopped, run it again: it continues.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from tumorgen_cli.data.dataset import find_dataset, read_dataset
from tumorgen_cli.data.phantom import DATASET, write_phantoms
from tumorgen_cli.data.volumes import read_grid
from tumorgen_cli.geometry import Triple
from tumorgen_cli.judge.card import LIMITS, JudgeRecord, model_card
from tumorgen_cli.judge.domain import make_domain
from tumorgen_cli.judge.train import train_judge
from tumorgen_cli.nnunet.job import TrainingCase, TrainingData, TrainingOptions, device_kind, training_data
from tumorgen_cli.nnunet.results import FINAL
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, StateError, TumorgenError
from tumorgen_cli.system.files import atomic, write_text
from tumorgen_cli.system.json_records import write_json
from tumorgen_cli.system.locks import locked

OUT = Path(__file__).resolve().parent.parent / "tumorgen_cli" / "judge" / "bundled"
#: what makes up a judge, without the training's log and dataset_fingerprint.json
FILES = ("plans.json", "dataset.json", f"fold_all/{FINAL}", "MODEL_CARD.md", "judge.json")
LARGEST_BYTES = 25 * 10**6
#: Phantoms to train on, of the size in `tumorgen demo` and in `tumorgen demo --quick`: each of the five kinds of tumor
#: twice and once. They are a third of all training cases, so that most cases are patients.
LEARNED = {"demo": 10, "quick": 5}
#: Phantoms to score the judge on.
HELD_OUT = {"demo": 5, "quick": 5}
LEARNED_SEED, HELD_OUT_SEED = 913_000_001, 913_000_002  # not the demo's seed, which is 0 by default

DATA = """\
FDG-PET (SUV) of {patients} patients with soft-tissue sarcoma, cropped 5 cm around the tumor; the label is the gross
tumor volume. {train} were trained on, every fifth in sorted order was held out.

* Source: Vallières, M., Freeman, C. R., Skamene, S. R., & El Naqa, I. (2015). Soft-tissue-Sarcoma [Data set]. The
  Cancer Imaging Archive. <https://doi.org/10.7937/K9/TCIA.2015.7GO2GSKS>. Published with: Vallières et al., Phys. Med.
  Biol. 60 (2015) 5471–5496.
* Prepared by the Image Biomarker Standardisation Initiative (IBSI): converted, in SUV, cropped. Changed here: resampled
  and normalized by nnU-Net.
* License of the data: CC BY 3.0, <https://creativecommons.org/licenses/by/3.0/>. The authors of the data endorse
  neither this model nor its use.
* Also {phantoms} computed phantoms of `tumorgen demo`, without any patient's data. On {held_out} other phantoms, which
  are not in the table below, the mean DSC is {dice} and the mean NSD {surface_dice}."""

BOUNDS = (
    (
        "Anything but FDG-PET in SUV, cropped around soft-tissue sarcomas, and the demo's phantoms: brain, heart, "
        "bladder and kidneys are bright in whole-body PET, and the judge marks them as tumors or not at random."
    ),
    (
        "Comparing with published segmentation results: the training takes minutes, few patients are held out, and a "
        "longer training was dropped because its scores on them were worse."
    ),
    "Redistribution without naming the data's authors (above).",
)


def main(
    dataset: Annotated[
        str, typer.Argument(help="Path of the nnU-Net raw data set, or its id or name under $nnUNet_raw.")
    ],
    minutes: Annotated[
        float, typer.Option(help="Minutes of training; preparing and scoring take two more.", min=0.001)
    ] = 25.0,
    out: Annotated[Path, typer.Option(help="Folder of the finished judge.")] = OUT,
    work: Annotated[Path, typer.Option(help="Workspace of the training.")] = Path("tumorgen_bundled_judge"),
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    device: DeviceName = "auto",
    restart: Annotated[bool, typer.Option("--restart", help="Train again from the start.")] = False,
) -> None:
    """Train the judge that comes with tumorgen."""
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
    device: DeviceName,
    restart: bool,
) -> JudgeRecord:
    """Train the judge, copy it to `out` and return its record.

    Raises:
        StateError: the judge is too large to be part of the package.
    """
    workspace = Workspace(work.resolve())
    plan = plan_dataset(workspace, dataset, device=device)
    splits = workspace.splits()
    data = with_phantoms(
        training_data(read_dataset(find_dataset(dataset), plan.tumor_name), splits), workspace.root / "phantoms"
    )
    spacing = real_spacing(workspace)
    options = TrainingOptions(minutes, seed, device_kind(device), plan.precision, spacing_mm=spacing)
    domain = make_domain(workspace.fingerprint().of(splits.train), [read_grid(case.images[0]) for case in data.train])
    record = train_judge(data, workspace.judge, options, plan.tolerance_mm, plan.fingerprint_hash, domain, restart)
    if not np.allclose(record.spacing_mm, spacing, rtol=1e-3):
        raise RuntimeError(f"nnU-Net trained at {record.spacing_mm} mm, not at the {spacing} mm of the real data")
    command = f"python examples/bundled_judge.py {data.dataset} --minutes {minutes:g} --seed {seed}"
    write_text(workspace.judge / "MODEL_CARD.md", card(record, command))
    for name in FILES:
        with atomic(out / name) as temporary:
            shutil.copyfile(workspace.judge / name, temporary)
    write_json(out / "judge.json", patients_of(record))  # its scores are those on real cases
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
    """Return the data with phantoms after the real cases, both in training and in scoring."""
    learned = [
        case for kind, count in LEARNED.items() for case in phantoms(folder, "Phantom", kind, count, LEARNED_SEED)
    ]
    held_out = [
        case for kind, count in HELD_OUT.items() for case in phantoms(folder, "PhantomTest", kind, count, HELD_OUT_SEED)
    ]
    return dataclasses.replace(data, train=(*data.train, *learned), test=(*data.test, *held_out))


def phantoms(folder: Path, name: str, kind: str, count: int, seed: int) -> list[TrainingCase]:
    """Return `count` phantoms whose names begin with `name`; write them if they do not exist."""
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
    """Return the median spacing (x, y, z) of the real training cases: nnU-Net's choice for them without phantoms."""
    train = workspace.splits().train
    x, y, z = np.median([case.grid.spacing_mm for case in workspace.fingerprint().cases if case.case in train], axis=0)
    return float(x), float(y), float(z)


def is_phantom(case: str) -> bool:
    """Return whether a case's name is that of a phantom."""
    return case.startswith("Phantom")


def patients_of(record: JudgeRecord) -> JudgeRecord:
    """Return the record with the scores of the patients only."""
    return dataclasses.replace(record, held_out=tuple(s for s in record.held_out if not is_phantom(s.case)))


def card(record: JudgeRecord, command: str) -> str:
    """Return the model card; its table has the patients only."""
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
