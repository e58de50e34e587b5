"""The trainer's side of painting: starts the painter as a child process and reports on it in nnU-Net's log."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tumorgen_cli.nnunet.on_the_fly.dataset import PaintedDataset
from tumorgen_cli.nnunet.on_the_fly.settings import (
    FOLDER,
    JOB,
    LOG,
    NO_PROGRESS,
    PROGRESS,
    PainterJob,
    Painting,
    Progress,
    pool_of,
)
from tumorgen_cli.system.errors import Fault, StateError, abbreviate_list, say_count
from tumorgen_cli.system.json_records import hash_value, read_fields, read_record, to_plain, write_json

_LEAST_ENTRIES = 8  # entries that training waits for, unless the pool is smaller
_POLL_SECONDS = 0.5
_LOG_SECONDS = 60.0  # between two lines about a pool that is being filled
_LOCATION_BYTES = 10_000 * 4 * 8  # of one label, as nnU-Net stores them


class PainterProcess:
    """The painter and the pool of one training.

    Attributes:
        folder: folder of the painter, in the output folder of nnU-Net's fold.
        pool: the pool.
        data: nnU-Net's training data, which draws from the pool.
        job: what the painter is given.
        child: the painter's process, if this process has started it.
    """

    def __init__(self, trainer: Any, painting: Painting, dataset: Any) -> None:
        """Prepare the painter; nothing is started yet.

        Args:
            trainer: nnU-Net's trainer.
            painting: what to paint.
            dataset: nnU-Net's own training data.
        """
        self.folder = Path(trainer.output_folder) / FOLDER
        self.painting, self.pool, self.log = painting, pool_of(self.folder, painting), trainer.print_to_log_file
        oversampling = trainer.oversample_foreground_percent
        self.data = PaintedDataset(
            dataset, self.pool, painting.probability, painting.tumor, oversampling, painting.around
        )
        patch = trainer.configuration_manager.patch_size
        loaded = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()[2]
        # half a patch more than what the loader cuts, on each side
        shape = [int(a) + int(b) for a, b in zip(loaded, patch, strict=True)]
        plans, dataset_json = to_plain(trainer.plans_manager.plans), to_plain(trainer.dataset_json)
        configuration = trainer.configuration_name
        self.job = PainterJob(
            pool_hash=hash_value([painting.content_hash, plans, dataset_json, configuration, shape]),
            painting=painting,
            plans=plans,
            dataset=dataset_json,
            configuration=configuration,
            shape=tuple(shape) if len(shape) == 3 else (0, *shape),  # nnU-Net's 2D patches are slices of a volume
            least=min(_LEAST_ENTRIES, painting.pool),
            parent=os.getpid(),
        )
        self.child: subprocess.Popen[bytes] | None = None
        self._last_progress = NO_PROGRESS
        self.start_epoch()

    def start(self) -> None:
        """Start the painter. A pool of other settings is emptied first; the records of what was painted stay."""
        stale = self.folder / JOB
        found = read_fields(stale, f"delete {self.folder}") if stale.is_file() else None
        if found is not None and found.get("pool_hash") != self.job.pool_hash:
            self.log("TumorGen: the pool was painted with other settings: it is emptied")
            shutil.rmtree(self.pool.folder, ignore_errors=True)
        self._log_settings()
        self._spawn()

    def _log_settings(self) -> None:
        painting = self.painting
        weights = ", ".join(f"{name} {value}" for name, value in painting.weights.items()) or "none"
        self.log(
            f"TumorGen: {painting.method} (plan {painting.plan_hash}, weights {weights}) paints into "
            f"{say_count(len(painting.hosts), 'host')} ({abbreviate_list(painting.hosts)})"
        )
        voxels = math.prod(self.job.shape)  # 0 if an axis is as long as the tumor needs
        voxel_bytes, location_bytes = 4 * len(painting.channels) + 1, _LOCATION_BYTES * (len(painting.labels) - 1)
        # one more than the pool holds: an entry is written while the pool is full
        mib = 2 * (voxels * voxel_bytes + location_bytes) * (painting.pool + 1) / 2**20  # around a tumor and elsewhere
        size = "×".join(str(n) if n else "2 tumors" for n in self.job.shape)
        disk = f", at most {mib:.0f} MiB on disk" if voxels else ""
        around = (
            "as many of these show a tumor as of real patches"
            if painting.around is None
            else f"{painting.around:.0%} of these are cut around a tumor"
        )
        self.log(
            f"TumorGen: a training patch is painted with probability {painting.probability:g}; {around}; one is "
            f"mixed with another painted patch with probability {painting.mixup:g}; a pool of {painting.pool} entries "
            f"of {size} voxels{disk}, mapped, not held in memory; the painter is busy at most {painting.share:.0%} of "
            "the time"
        )

    def _spawn(self) -> None:
        write_json(self.folder / JOB, self.job)
        (self.folder / PROGRESS).unlink(missing_ok=True)
        self._last_progress = NO_PROGRESS
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        command = [sys.executable, "-m", "tumorgen_cli.synthesis.painter", str(self.folder)]
        with (self.folder / LOG).open("ab") as log:
            self.child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
            )

    def wait_until_ready(self) -> None:
        """Wait until the pool has enough entries to start with, and the painter is at work.

        The entries may be those of an earlier painter.

        Raises:
            StateError: the painter has stopped.
        """
        logged = -math.inf
        while (entries := len(self.pool.entries())) < self.job.least or not (self.folder / PROGRESS).is_file():
            if time.monotonic() - logged > _LOG_SECONDS:
                now = self._read_progress()
                awaited = (
                    f"the first {self.job.least} entries of the pool: {entries}"
                    if entries < self.job.least
                    else "the painter to be ready:"
                )
                given_up = f"; {now.given_up} pairs given up (the last: {now.reason})" if now.given_up else ""
                self.log(f"TumorGen: waiting for {awaited} after {now.seconds:.0f} s{given_up}")
                logged = time.monotonic()
            if self.child is not None and self.child.poll() is not None:
                remedy = "see this log for the cause; then start nnU-Net again, with --c"
                fault = Fault(str(self.folder / LOG), self._last_line(), "painted patches", remedy)
                raise StateError("The painter stopped", [fault])
            time.sleep(_POLL_SECONDS)

    def start_epoch(self) -> None:
        """Start to measure how long the iterations of an epoch wait for their data."""
        self._step_end, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def start_step(self) -> None:
        """Count an iteration; the time since the last one was spent waiting for data."""
        self._waited += time.perf_counter() - self._step_end
        self._steps += 1

    def end_step(self) -> None:
        """Note the end of an iteration."""
        self._step_end = time.perf_counter()

    def report_epoch(self) -> None:
        """Write a line about the epoch to nnU-Net's log; restart the painter if it has stopped."""
        if self.child is None:
            return
        before, now = self._last_progress, self._read_progress()
        real, painted = self.data.take_drawn()
        patches = real.patches + painted.patches
        seconds = now.seconds - before.seconds
        busy = (now.busy_seconds - before.busy_seconds) / seconds if seconds > 0 else 0.0
        lost = now.given_up - before.given_up
        given_up = f", {lost} given up (the last: {now.reason})" if lost > 0 else ""
        self.log(
            f"TumorGen: {len(self.pool.entries())} entries in the pool, {now.painted - before.painted} painted since "
            f"the last epoch{given_up}; the painter was busy {busy:.0%} of the time and held at most "
            f"{now.peak_memory_gib:.2f} GiB; {painted.patches / max(1, patches):.0%} of {patches} patches were painted"
            f", of these {painted}, of the real ones {real}; "
            f"an iteration waited {self._waited / max(1, self._steps):.4f} s for its data"
        )
        self._last_progress = now
        if self.child.poll() is not None:
            self.log(
                f"TumorGen: the painter stopped ({self._last_line()}) and is started again; until it paints, the pool "
                "does not change"
            )
            self._spawn()

    def stop(self) -> None:
        """End the painter; an unfinished entry is not in the pool."""
        if self.child is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended by itself
                os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait()

    def _read_progress(self) -> Progress:
        """Read what the painter has reported last."""
        path = self.folder / PROGRESS
        return read_record(Progress, path, "delete it") if path.is_file() else self._last_progress

    def _last_line(self) -> str:
        """Return the last line of the painter's log that is not empty."""
        lines = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "its log is empty")
