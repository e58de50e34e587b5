"""One nnU-Net training as a record: data, options, and the job that `nnunet.child` reads from job.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tumorgen_cli.data.dataset import Dataset
from tumorgen_cli.data.labels import Values, named_values, values_of
from tumorgen_cli.data.splits import Splits
from tumorgen_cli.geometry import Triple
from tumorgen_cli.system.devices import DeviceName, find_device, usable_cores
from tumorgen_cli.system.errors import DataError, Fault
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import hash_value

NAME = "Dataset900_Cases"
CONFIGURATION = "3d_fullres"
PLANS = "nnUNetPlans"
TRAINER = "OwnTrainer"
VARIABLES = ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
_PLAN = "run `tumorgen plan DATASET` again"
_WORKER_BYTES = 64 << 20  # images per preprocessing process: starting a process takes seconds
_MAX_WORKERS = 4  # nnU-Net's own number for preprocessing


@dataclass(frozen=True)
class TrainingCase:
    """The files of a case: one image per channel, and its label."""

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class TrainingData:
    """The cases that an nnU-Net learns from (`train`) and is scored on (`test`).

    `labels` maps names to values; the background is 0. `class_order` is `regions_class_order`, for regions.
    """

    dataset: str
    channel_names: tuple[str, ...]
    labels: dict[str, Values]
    tumor_name: str
    file_ending: str
    train: tuple[TrainingCase, ...]
    test: tuple[TrainingCase, ...]
    class_order: tuple[int, ...] = ()

    @property
    def tumor_label(self) -> Values:
        """The voxel value of the tumor, or several values."""
        values = named_values(self.labels, self.tumor_name)
        assert values is not None  # the plan has found them
        return values

    @property
    def ignored(self) -> int:
        """The value of voxels that are excluded from training and scoring; -1 if there is no such label."""
        return values_of(self.labels.get("ignore", -1))[0]


@dataclass(frozen=True)
class NetworkSize:
    """Upper limits of a network.

    Attributes:
        voxels: voxels of a patch.
        stages: resolution stages.
        first: features of the first stage.
        most: features of any stage.
    """

    voxels: int
    stages: int
    first: int
    most: int


#: On two cores with AMX a step on two patches of 40×64×40 voxels takes 0.26 s in bf16; 2,250 such steps gave DSC 0.75
#: on 8 held-out sarcoma PET cases. 2^17 voxels are a patch of 48×48×48 and a little; nnU-Net's own 32 to 320 features
#: take ten times as long.
CPU_SIZE = NetworkSize(voxels=2**17, stages=4, first=16, most=128)


@dataclass(frozen=True)
class TrainingOptions:
    """How an nnU-Net is trained.

    Attributes:
        minutes: how long all epochs take together; preprocessing and scoring are not counted.
        seed: seed of torch. Two trainings with the same seed still differ: nnU-Net's workers draw on their own.
        device: kind of device.
        precision: used on CPU only; on CUDA nnU-Net uses its own autocast.
        size: used on CPU only, where nnU-Net's plan is shrunk to it; None leaves the plan as it is.
        spacing_mm: spacing (x, y, z) to train at; None for nnU-Net's own choice, the median.
        times: length of the training as a multiple of `minutes`, or of the schedule that is given.
        initial: checkpoint whose weights the network starts from; None for random weights.
        segmentor: the network, one of `segmentors.Segmentor`.
    """

    minutes: float
    seed: int
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    size: NetworkSize | None = CPU_SIZE
    spacing_mm: Triple | None = None
    times: float = 1.0
    initial: Path | None = None
    segmentor: str = "nnunet"


@dataclass(frozen=True)
class Schedule:
    """The length of a training.

    It is chosen once, from the measured time of the first iterations. Resumed runs keep it.
    """

    epochs: int
    iterations: int
    seconds_per_iteration: float


@dataclass(frozen=True)
class ExtraCase:
    """The files of a training case that nnU-Net's plan does not depend on."""

    name: str
    images: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class TrainingJob:
    """Everything that the child process needs to know; `job.json`.

    Attributes:
        inputs_hash: changes with everything that the network learns from.
        prepared: folder with nnU-Net's raw and preprocessed data.
        prepared_hash: changes with everything that the preprocessed data depend on.
        device: kind of device.
        precision: see `TrainingOptions`.
        minutes: see `TrainingOptions`.
        seed: see `TrainingOptions`.
        size: see `TrainingOptions`; None on CUDA.
        spacing_mm: see `TrainingOptions`.
        processes: number of preprocessing processes.
        train: names of the training cases; a case that is drawn more often is repeated. Empty: the job only
            preprocesses.
        extra: the training cases that nnU-Net's plan does not depend on.
        schedule: None to fit a schedule to `minutes`.
        painting: path of the `Painting` file if tumors are painted while nnU-Net trains.
        times: see `TrainingOptions`; `schedule` holds the length already.
        initial: path of the checkpoint that the network starts from.
        aside: names of the cases that the network is validated on; its best weights by them are kept. Empty: none.
        segmentor: see `TrainingOptions`.
    """

    inputs_hash: str
    prepared: str
    prepared_hash: str
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    minutes: float
    seed: int
    size: NetworkSize | None
    spacing_mm: Triple | None
    processes: int
    train: tuple[str, ...]
    extra: tuple[ExtraCase, ...] = ()
    schedule: Schedule | None = None
    painting: str | None = None
    times: float = 1.0
    initial: str | None = None
    aside: tuple[str, ...] = ()
    segmentor: str = "nnunet"


def training_data(dataset: Dataset, splits: Splits) -> TrainingData:
    """Return the cases of a split with their files."""

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
        dataset.class_order,
    )


def check_data(data: TrainingData) -> None:
    """Check that nnU-Net can be trained on these cases.

    Raises:
        DataError: files are missing, cases are listed twice, both for training and held out, or do not fit the data
            set.
    """
    names = [case.name for case in data.train]
    both = sorted({*names} & {case.name for case in data.test})
    paths = [path for case in (*data.train, *data.test) for path in (*case.images, case.label)]
    faults = [
        Fault(str(path), "no such file", "a file of the case", "put it back") for path in paths if not path.is_file()
    ]
    faults += [Fault(name, "a training case and a held-out case", "one of the two", _PLAN) for name in both]
    faults += [
        Fault(name, "listed twice among the training cases", "once", "rename one of them")
        for name in {n for n in names if names.count(n) > 1}
    ]
    faults += [
        Fault(
            case.name,
            f"{len(case.images)} images",
            f"{len(data.channel_names)} ({', '.join(data.channel_names)})",
            "give an image for each channel",
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
        faults.append(Fault(data.dataset, "no training cases", "one or more", _PLAN))
    if faults:
        raise DataError("nnU-Net cannot be trained on these cases", faults)


def device_kind(device: DeviceName) -> Literal["cpu", "cuda"]:
    """Return the kind of the device that `device` names.

    Raises:
        DeviceError: there is no such device.
    """
    return "cuda" if find_device(device).type == "cuda" else "cpu"


def hash_cases(cases: Sequence[TrainingCase]) -> list[tuple[str, ...]]:
    """Return the name of each case and the hashes of its files."""
    return [(case.name, *map(hash_file, (*case.images, case.label))) for case in cases]


def make_job(
    data: TrainingData,
    prepared: Path,
    options: TrainingOptions,
    cases: Sequence[str] | None = None,
    extra: Sequence[TrainingCase] = (),
    aside: Sequence[str] = (),
) -> TrainingJob:
    """Make the job of one training.

    `inputs_hash` covers everything that the network learns from, but not the folders of the files.

    Args:
        data: the cases that nnU-Net's plan depends on.
        prepared: folder for nnU-Net's raw and preprocessed data; several trainings may share it.
        options: how to train.
        cases: names of the training cases, with repeats; None for every case of `data.train` once.
        extra: training cases that nnU-Net's plan does not depend on.
        aside: names of those of them that the network is validated on, and does not learn from.
    """
    cases = tuple(case.name for case in data.train) if cases is None else tuple(cases)
    size = options.size if options.device == "cpu" else None
    plan_inputs: list[object] = [data.channel_names, data.labels, data.file_ending, hash_cases(data.train)]
    plan_inputs += [data.class_order] if data.class_order else []
    own = [options.segmentor] if options.segmentor != "nnunet" else []
    prepared_hash = hash_value([*plan_inputs, options.device, size, options.spacing_mm, *own])
    inputs = [prepared_hash, options.precision, options.minutes, options.seed, cases, hash_cases(extra)]
    inputs += [options.times] if options.times != 1 else []
    inputs += [tuple(aside)] if aside else []
    inputs += [hash_file(options.initial)] if options.initial else []
    processes = sum(path.stat().st_size for case in (*data.train, *extra) for path in case.images) // _WORKER_BYTES
    return TrainingJob(
        inputs_hash=hash_value(inputs),
        prepared=str(prepared.resolve()),
        prepared_hash=prepared_hash,
        device=options.device,
        precision=options.precision,
        minutes=options.minutes,
        seed=options.seed,
        size=size,
        spacing_mm=options.spacing_mm,
        processes=max(1, min(processes, usable_cores(), _MAX_WORKERS)),
        train=cases,
        extra=tuple(
            ExtraCase(case.name, tuple(str(path.resolve()) for path in case.images), str(case.label.resolve()))
            for case in extra
        ),
        times=options.times,
        initial=str(options.initial.resolve()) if options.initial else None,
        aside=tuple(aside),
        segmentor=options.segmentor,
    )
