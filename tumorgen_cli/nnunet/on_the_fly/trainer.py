"""nnU-Net's trainer with new tumors in its training patches: what any trainer of nnU-Net needs to have besides.

`PaintingMixin` goes before the trainer's class. A child process, `painter`, keeps a bounded pool of painted patches fresh
while nnU-Net trains; nnU-Net's loaders take a case from the pool in place of the one they drew, with a given probability, and
crop and augment it as any other. Validation is never touched.

Reads what `nnunet_setup` wrote, named by TUMORGEN_PAINTING. Writes `tumorgen/` in the fold's output folder: painter.json,
painter.log, progress.json, provenance.jsonl, given_up.jsonl and the pool. Imports neither torch nor nnunetv2.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tumorgen_cli.data.volumes import READERS
from tumorgen_cli.nnunet.on_the_fly.pool import Pool
from tumorgen_cli.nnunet.on_the_fly.settings import (
    _NOTHING_YET,
    FOLDER,
    JOB,
    LOG,
    PROGRESS,
    SETUP,
    VARIABLE,
    PainterJob,
    Painting,
    Progress,
    pool_of,
)
from tumorgen_cli.system.errors import Fault, StateError, abbreviate_list
from tumorgen_cli.system.json_records import hash_value, read_plain, read_record, to_plain, write_json

_LEAST = 8  # entries that training waits for, unless the pool is smaller
_POLL_SECONDS = 0.5
_TOLD_SECONDS = 60.0  # between lines on a pool that fills
_LOCATION_BYTES = 10_000 * 4 * 8  # of a label, as nnU-Net keeps them


class PaintedDataset:
    """nnU-Net's training data, of which a case comes from the pool, with a given probability, in place of the one asked for.

    This much of nnU-Net's data sets is what its loader uses. `counts`: patches in all, and painted ones; loaders add to them
    from processes of their own.
    """

    def __init__(self, dataset: Any, pool: Pool, probability: float) -> None:
        self.dataset, self.pool, self.probability = dataset, pool, probability
        self.identifiers = dataset.identifiers
        self.counts = multiprocessing.Array("q", 2)

    def __getitem__(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        return self.load_case(identifier)

    def load_case(self, identifier: str) -> tuple[Any, Any, Any, dict[str, Any]]:
        """Image, labels, labels of an earlier stage (none), and what the loader asks of a case's properties."""
        chance = np.random.random  # nnU-Net seeds numpy's own generator in each of its loaders
        entry = self.pool.draw(chance) if chance() < self.probability else None
        with self.counts.get_lock():
            self.counts[0] += 1
            self.counts[1] += entry is not None
        if entry is None:
            return self.dataset.load_case(identifier)  # type: ignore[no-any-return]
        return entry.image, entry.labels, None, {"class_locations": entry.locations}


class PaintingMixin:
    """What makes a trainer of nnU-Net one that paints: `class Mine(PaintingMixin, nnUNetTrainer)`."""

    live: _Live | None = None  # as long as there is nothing to paint for

    def painting(self) -> Painting:
        """What to paint, from the file that TUMORGEN_PAINTING names.

        Raises:
            StateError: it names none.
        """
        if VARIABLE not in os.environ:
            raise StateError(
                "Nothing says what to paint",
                [Fault(VARIABLE, "not set", "the path of a file that nnunet-setup wrote", SETUP)],
            )
        return read_record(Painting, Path(os.environ[VARIABLE]), SETUP)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """nnU-Net's data sets, the one for training with the pool before it; the painter is at work, the pool not empty.

        Where no epoch is left (`--c` on a finished training, of which the validation is made again) nothing is painted or needed for it.

        Raises:
            StateError: what is painted does not fit the data, the configuration or the fold, or the painter failed.
        """
        train, validation = super().get_tr_and_val_datasets()  # type: ignore[misc]
        if self.current_epoch >= self.num_epochs:  # type: ignore[attr-defined]
            return train, validation
        painting = self.painting()
        seen = [] if self.fold == "all" else list(validation.identifiers)  # type: ignore[attr-defined]
        faults = _faults(painting, self, seen, [*train.identifiers, *validation.identifiers])
        if faults:
            raise StateError("nnU-Net cannot train on what is painted", faults)
        self.live = _Live(self, painting)
        data = self.live.data = PaintedDataset(train, self.live.pool, painting.probability)
        if self.local_rank == 0:  # type: ignore[attr-defined]
            self.live.start()
        if self.is_ddp:  # type: ignore[attr-defined]
            from torch.distributed import barrier

            barrier()  # a pool of something else is gone now
        self.live.wait()
        return data, validation

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()  # type: ignore[misc]
        self.live.epoch_begins()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        self.live.step_begins()
        made: dict[str, Any] = super().train_step(batch)  # type: ignore[misc]
        self.live.ended = time.perf_counter()
        return made

    def on_epoch_end(self) -> None:
        super().on_epoch_end()  # type: ignore[misc]
        self.live.report()

    def on_train_end(self) -> None:
        if self.live is not None:
            self.live.stop()
        super().on_train_end()  # type: ignore[misc]
        if self.live is not None:
            shutil.rmtree(
                self.live.pool.folder, ignore_errors=True
            )  # a resumed training would need it, a finished one does not


class _Live:
    """The painter and the pool of one training, and what its log says of them."""

    data: PaintedDataset

    def __init__(self, trainer: Any, painting: Painting) -> None:
        self.folder = Path(trainer.output_folder) / FOLDER
        self.painting, self.pool, self.log = painting, pool_of(self.folder, painting), trainer.print_to_log_file
        patch = trainer.configuration_manager.patch_size
        start = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[2]
        shape = [
            int(a) + int(b) for a, b in zip(start, patch, strict=True)
        ]  # half a patch beyond what the loader cuts, on each side
        plans, dataset = to_plain(trainer.plans_manager.plans), to_plain(trainer.dataset_json)
        configuration = trainer.configuration_name
        identity = hash_value([painting.content_hash, plans, dataset, configuration, shape])
        whole = tuple(shape) if len(shape) == 3 else (0, *shape)  # nnU-Net's 2D patches are slices of a volume
        self.job = PainterJob(
            identity, painting, plans, dataset, configuration, whole, min(_LEAST, painting.pool), os.getpid()
        )
        self.child: subprocess.Popen[bytes] | None = None
        self.before = _NOTHING_YET
        self.epoch_begins()

    def start(self) -> None:
        """Starts the painter; a pool of something else is emptied first, the records of what was learnt from it stay."""
        painting, stale = self.painting, self.folder / JOB
        if stale.is_file() and read_plain(stale, "delete its folder").get("pool_hash") != self.job.pool_hash:
            self.log("TumorGen: the pool was painted with other settings: it is emptied")
            shutil.rmtree(self.pool.folder, ignore_errors=True)
        weights = ", ".join(f"{name} {value}" for name, value in painting.weights.items()) or "none"
        voxels = "×".join(str(n) if n else "2 tumors" for n in self.job.shape)
        voxel, places = 4 * len(painting.channels) + 1, _LOCATION_BYTES * (len(painting.labels) - 1)
        size = (
            (math.prod(self.job.shape) * voxel + places) * (painting.pool + 1) / 2**20
        )  # one is written while the pool is full
        room = f", at most {size:.0f} MiB on disk" if math.prod(self.job.shape) else ""
        self.log(
            f"TumorGen: {painting.method} (plan {painting.plan_hash}, weights {weights}) paints into {len(painting.hosts)} hosts "
            f"({abbreviate_list(painting.hosts)})"
        )
        self.log(
            f"TumorGen: a training patch is painted with probability {painting.probability:g}, mixed up with another with {painting.mixup:g}; "
            f"a pool of {painting.pool} entries of {voxels} voxels{room}, mapped, not held in memory; "
            f"the painter is busy at most {painting.share:.0%} of the time"
        )
        self._spawn()

    def _spawn(self) -> None:
        write_json(self.folder / JOB, self.job)
        (self.folder / PROGRESS).unlink(missing_ok=True)
        self.before = _NOTHING_YET
        own = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "tumorgen_cli.synthesis.painter", str(self.folder)]
        with (self.folder / LOG).open("ab") as log:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=own, start_new_session=True
            )

    def wait(self) -> None:
        """Returns once there are entries enough to begin with and the painter is at work, though an earlier one's may be enough.

        Raises:
            StateError: the painter ended before.
        """
        told = -math.inf
        while (entries := len(self.pool.entries())) < self.job.least or not (self.folder / PROGRESS).is_file():
            if time.monotonic() - told > _TOLD_SECONDS:
                now = self._progress()
                lost = f"; {now.given_up} pairs given up (the last: {now.reason})" if now.given_up else ""
                awaited = (
                    f"the first {self.job.least} entries of the pool: {entries}"
                    if entries < self.job.least
                    else "the painter to be ready:"
                )
                self.log(f"TumorGen: waiting for {awaited} after {now.seconds:.0f} s{lost}")
                told = time.monotonic()
            if self.child is not None and self.child.poll() is not None:
                fault = Fault(
                    str(self.folder / LOG),
                    self._last_line(),
                    "painted patches",
                    "see the log and mend it, then start nnU-Net again",
                )
                raise StateError("The painter stopped", [fault])
            time.sleep(_POLL_SECONDS)

    def epoch_begins(self) -> None:
        self.ended, self.waited, self.steps = time.perf_counter(), 0.0, 0

    def step_begins(self) -> None:
        self.waited += time.perf_counter() - self.ended
        self.steps += 1

    def report(self) -> None:
        """A line in nnU-Net's log on the epoch; a painter that has stopped is started again."""
        if self.child is None:
            return
        old, now = self.before, self._progress()
        with self.data.counts.get_lock():
            patches, painted = self.data.counts
            self.data.counts[:] = [0, 0]
        spent = now.seconds - old.seconds
        busy = (now.busy_seconds - old.busy_seconds) / spent if spent > 0 else 0.0
        lost = (
            f", {now.given_up - old.given_up} given up (the last: {now.reason})" if now.given_up > old.given_up else ""
        )
        self.log(
            f"TumorGen: {len(self.pool.entries())} entries in the pool, {now.painted - old.painted} painted since the last epoch{lost}; "
            f"the painter was busy {busy:.0%} of the time and held at most {now.peak_memory_gib:.2f} GiB; "
            f"{painted / max(1, patches):.0%} of {patches} patches were painted; "
            f"an iteration waited {self.waited / max(1, self.steps):.4f} s for its data"
        )
        self.before = now
        if self.child.poll() is not None:
            self.log(
                f"TumorGen: the painter stopped ({self._last_line()}) and is started again; until then the pool stays as it is"
            )
            self._spawn()

    def stop(self) -> None:
        """Ends the painter; what it was at is not in the pool."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended by itself
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def _progress(self) -> Progress:
        """What the painter has told last."""
        path = self.folder / PROGRESS
        return read_record(Progress, path, "delete it") if path.is_file() else self.before

    def _last_line(self) -> str:
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "no word in its log")


def _faults(painting: Painting, trainer: Any, validation: Sequence[str], known: Sequence[str]) -> list[Fault]:
    """What keeps a trainer from learning from what is painted; `validation`: the cases that must be new to the method, by whose names
    this is told; `known`: all cases of the fold."""
    faults, other = [], "use a workspace of this data set"
    if trainer.is_cascaded:
        faults.append(
            Fault(
                trainer.configuration_name,
                "a cascade's second stage",
                "a configuration of its own",
                "train 3d_fullres or 3d_lowres",
            )
        )
    reader = trainer.plans_manager.plans["image_reader_writer"]
    if reader not in READERS:
        faults.append(
            Fault(
                "image_reader_writer of nnU-Net's plans",
                reader,
                f"one of {', '.join(READERS)}",
                "plan with NIfTI files",
            )
        )
    dataset = trainer.dataset_json
    channels = [str(name).lower() for name in (dataset.get("channel_names") or dataset["modality"]).values()]
    if channels != [name.lower() for name in painting.channels]:
        faults.append(
            Fault("channel_names of nnU-Net's data set", ", ".join(channels), ", ".join(painting.channels), other)
        )
    if dataset["labels"] != painting.labels:
        faults.append(Fault("labels of nnU-Net's data set", str(dataset["labels"]), str(painting.labels), other))
    written = Path(trainer.preprocessed_dataset_folder_base) / "splits_final.json"
    if (
        trainer.fold != "all"
        and written.is_file()
        and trainer.fold >= (count := len(read_plain(written, "write it anew")))
    ):
        found = f"only {count} in {written}: nnU-Net draws this one from all cases, synthetic ones too"
        faults.append(Fault(f"fold {trainer.fold}", found, "a fold of that file", f"train a fold below {count}"))
    split = Path(painting.work) / "nnunet" / "splits_final.json"
    remedy = f"put {split} into nnU-Net's preprocessed data set and train the fold that nnunet-setup told, or plan a workspace on this one (--fold)"
    for names, found in ((painting.learnt_from, "learnt from"), (painting.hosts, "painted into")):
        both = sorted({*names} & {*validation})
        if both:
            where = f"fold {trainer.fold}"
            faults.append(
                Fault(
                    where,
                    f"{len(both)} validation cases that {painting.method} has {found} ({abbreviate_list(both)})",
                    "none",
                    remedy,
                )
            )
    segmented = (Path(trainer.preprocessed_dataset_folder_base) / "gt_segmentations").glob(
        "*"
    )  # all cases, in whatever fold
    strangers = sorted(
        {*painting.learnt_from} - {*known, *(path.name.removesuffix(dataset["file_ending"]) for path in segmented)}
    )
    if strangers:
        found = (
            f"{len(strangers)} cases that {painting.method} has learnt from are not there by name ({abbreviate_list(strangers)})"
        )
        expected = "the workspace's cases by their names, which tell what may validate"
        faults.append(Fault("cases of nnU-Net's data set", found, expected, other))
    return faults
