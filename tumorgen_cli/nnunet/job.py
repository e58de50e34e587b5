"""An nnU-Net training as a record: data, folds, size, schedule; what `child` is given as job.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.geometry import Triple
from tumorgen_cli.system.devices import usable_cores
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import hash_value

NAME = "Dataset900_Cases"
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
TRAINER = "OwnTrainer"
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_WORKER_BYTES = 64 << 20  # of images for each process that prepares them: starting one takes seconds
_MOST_WORKERS = 4  # nnU-Net's own number for preprocessing


@dataclass(frozen=True)
class TrainingCase:
    """A case by its files: one image per channel, and its label."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class TrainingData:
    """What an nnU-Net learns from (`train`) and is scored on (`test`). `labels` maps names to values, background to 0."""

    dataset: str
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    tumor_name: str
    file_ending: str
    train: tuple[TrainingCase, ...]
    test: tuple[TrainingCase, ...]

    @property
    def ignored(self) -> int:
        """The value of voxels that are neither learnt from nor scored; -1 where there are none."""
        return self.labels.get("ignore", -1)


@dataclass(frozen=True)
class Size:
    """What a network may cost: voxels of a patch, resolution stages, features of the first stage and of any."""

    voxels: int
    stages: int
    first: int
    most: int


#: On two cores with AMX a step on two patches of 40×64×40 voxels takes 0.26 s in bf16; 2,250 such steps gave DSC 0.75 on 8
#: held-out sarcoma PET cases. 2^17 voxels are a patch of 48×48×48 and a little; nnU-Net's own 32 to 320 features take ten
#: times as long.
CPU_SIZE = Size(voxels=2**17, stages=4, first=16, most=128)


@dataclass(frozen=True)
class Schedule:
    """How long is trained: chosen once, from the time the first iterations took; resumed runs keep to it."""

    epochs: int
    iterations: int
    seconds_per_iteration: float


@dataclass(frozen=True)
class Extra:
    """A case to learn from that nnU-Net does not plan from, by its files."""

    name: str
    images: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class TrainingJob:
    """What the child is told.

    `prepared`: the folder of what is prepared. `train`: the cases to learn from, as often each as it is to be drawn; without
    any, all is only prepared. `extra`: those of them that nnU-Net does not plan from. `schedule`: None to fit one to the minutes.
    `painting`: the file that says what is painted meanwhile, if anything is (see `live`).
    """

    inputs_hash: str
    prepared: str
    prepared_hash: str
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    minutes: float
    seed: int
    size: Size | None
    spacing_mm: Triple | None
    processes: int
    train: tuple[str, ...]
    extra: tuple[Extra, ...] = ()
    schedule: Schedule | None = None
    painting: str | None = None


def training_data(dataset: Dataset, splits: Splits) -> TrainingData:
    """The cases of a split, by their files."""

    def cases(names: Sequence[str]) -> tuple[TrainingCase, ...]:
        return tuple(TrainingCase(name, dataset.image_files(name), dataset.label_file(name)) for name in names)

    return TrainingData(
        dataset.name,
        dataset.channel_names,
        dataset.labels,
        dataset.tumor_name,
        dataset.file_ending,
        cases(splits.train),
        cases(splits.test),
    )


def check_data(data: TrainingData) -> None:
    """Raises:
    DataError: files are missing, or a case is to be learned from and held out.
    """
    names = [case.name for case in data.train]
    both = sorted({*names} & {case.name for case in data.test})
    paths = [path for case in (*data.train, *data.test) for path in (*case.images, case.label)]
    faults = [
        Fault(str(path), "no such file", "a file of the case", "put it back") for path in paths if not path.is_file()
    ]
    faults += [Fault(name, "to be learned from and held out", "one of both", "correct the splits") for name in both]
    faults += [
        Fault(name, "twice among the training cases", "once", "rename one of them")
        for name in {n for n in names if names.count(n) > 1}
    ]
    faults += [
        Fault(
            case.name,
            f"{len(case.images)} images",
            f"{len(data.channel_names)} ({', '.join(data.channel_names)})",
            "give every channel",
        )
        for case in (*data.train, *data.test)
        if len(case.images) != len(data.channel_names)
    ]
    faults += [
        Fault(
            str(path),
            path.name,
            f"a name that ends in {data.file_ending}",
            "convert it: nnU-Net reads one format per data set",
        )
        for case in data.train
        for path in (*case.images, case.label)
        if not path.name.endswith(data.file_ending)
    ]
    if not names:
        faults.append(Fault(data.dataset, "no training cases", "one or more", "correct the splits"))
    if faults:
        raise DataError("nnU-Net cannot be trained on these cases", faults)


def hash_cases(cases: Sequence[TrainingCase]) -> list[tuple[str, ...]]:
    """The name and the files' hashes of each case."""
    return [(case.name, *map(hash_file, (*case.images, case.label))) for case in cases]


def make_job(
    data: TrainingData,
    prepared: Path,
    device: Literal["cpu", "cuda"],
    precision: Literal["fp32", "bf16"],
    minutes: float,
    seed: int,
    size: Size | None,
    spacing_mm: Triple | None,
    cases: Sequence[str] | None = None,
    extra: Sequence[TrainingCase] = (),
) -> TrainingJob:
    """The job of a training on `cases` (every training case once, if None); see TrainingJob. `size` counts on CPU only.

    All that it learns from is part of `inputs_hash`, where files lie is not.
    """
    cases = tuple(case.name for case in data.train) if cases is None else tuple(cases)
    size = size if device == "cpu" else None
    hashed = hash_value(
        [data.channel_names, data.labels, data.file_ending, hash_cases(data.train), device, size, spacing_mm]
    )
    inputs = hash_value([hashed, precision, minutes, seed, cases, hash_cases(extra)])
    processes = sum(path.stat().st_size for case in (*data.train, *extra) for path in case.images) // _WORKER_BYTES
    processes = max(1, min(processes, usable_cores(), _MOST_WORKERS))
    found = tuple(
        Extra(case.name, tuple(str(path.resolve()) for path in case.images), str(case.label.resolve()))
        for case in extra
    )
    return TrainingJob(
        inputs,
        str(prepared.resolve()),
        hashed,
        device,
        precision,
        minutes,
        seed,
        size,
        spacing_mm,
        processes,
        cases,
        found,
    )
