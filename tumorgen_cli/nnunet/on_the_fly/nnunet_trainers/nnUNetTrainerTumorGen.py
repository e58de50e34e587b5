"""The trainer that nnU-Net finds by `-tr nnUNetTrainerTumorGen` in the folder that nnUNet_extTrainer names: this one."""

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from tumorgen_cli.nnunet.on_the_fly.trainer import PaintingMixin


class nnUNetTrainerTumorGen(PaintingMixin, nnUNetTrainer):  # type: ignore[misc]
    """nnU-Net's own trainer, with new tumors painted into a share of its training patches."""
