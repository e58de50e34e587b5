"""The mixin that lets any trainer of nnU-Net paint new tumors into its training patches.

`PaintingMixin` stands before the trainer's class. A child process, the painter, keeps a bounded pool of painted patches
fresh while nnU-Net trains. With a given probability nnU-Net's loaders take a case from the pool instead of the one that
they drew, and crop and augment it like any other. Validation does not change.

Reads the file that `tumorgen nnunet-setup` wrote, named by TUMORGEN_PAINTING. Writes `tumorgen/` in the fold's output
folder: painter.json, painter.log, progress.json, provenance.jsonl, given_up.jsonl and the pool. Imports neither torch
nor nnunetv2.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tumorgen_cli.nnunet.on_the_fly.checks import painting_faults
from tumorgen_cli.nnunet.on_the_fly.painter_process import PainterProcess
from tumorgen_cli.nnunet.on_the_fly.settings import SETUP, VARIABLE, Painting
from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.json_records import read_record

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer as _Trainer
else:
    _Trainer = object  # the class that it is mixed with is the trainer


class PaintingMixin(_Trainer):
    """Makes a trainer of nnU-Net paint: `class MyTrainer(PaintingMixin, nnUNetTrainer)`.

    Attributes:
        painter: the painter; None while there is nothing to paint for.
    """

    painter: PainterProcess | None = None

    def painting(self) -> Painting:
        """Read what to paint from the file that TUMORGEN_PAINTING names.

        Raises:
            StateError: the variable is not set, or the file is missing.
        """
        if VARIABLE not in os.environ:
            fault = Fault(VARIABLE, "not set", "the path of a file that nnunet-setup wrote", SETUP)
            raise StateError("Nothing says what to paint", [fault])
        return read_record(Painting, Path(os.environ[VARIABLE]), SETUP)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Start the painter, wait for its first entries, and return nnU-Net's data sets with painted training patches.

        If no epoch is left (`--c` on a finished training, whose validation is repeated), nothing is painted.

        Raises:
            StateError: what is painted does not fit the data, the configuration or the fold, or the painter failed.
        """
        train, validation = super().get_tr_and_val_datasets()
        if self.current_epoch >= self.num_epochs:
            return train, validation
        painting = self.painting()
        validated = [] if self.fold == "all" else list(validation.identifiers)
        faults = painting_faults(painting, self, validated, [*train.identifiers, *validation.identifiers])
        if faults:
            raise StateError("nnU-Net cannot train on what is painted", faults)
        self.painter = PainterProcess(self, painting, train)
        if self.local_rank == 0:
            self.painter.start()
        if self.is_ddp:
            from torch.distributed import barrier

            barrier()  # after it, a pool of other settings has been emptied
        self.painter.wait_until_ready()
        return self.painter.data, validation

    def on_train_epoch_start(self) -> None:
        """Start to measure the epoch."""
        super().on_train_epoch_start()
        if self.painter is not None:
            self.painter.start_epoch()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Train on one batch and measure how long it waited for its data."""
        if self.painter is None:
            result: dict[str, Any] = super().train_step(batch)
            return result
        self.painter.start_step()
        result = super().train_step(batch)
        self.painter.end_step()
        return result

    def on_epoch_end(self) -> None:
        """Report on the epoch in nnU-Net's log."""
        super().on_epoch_end()
        if self.painter is not None:
            self.painter.report_epoch()

    def on_train_end(self) -> None:
        """Stop the painter and delete the pool, which only a resumed training would need."""
        if self.painter is not None:
            self.painter.stop()
        super().on_train_end()
        if self.painter is not None:
            shutil.rmtree(self.painter.pool.folder, ignore_errors=True)
