"""The trainer that nnU-Net finds by `-tr nnUNetTrainerTumorGen`, in this folder, which nnUNet_extTrainer names."""  # noqa: N999 - nnU-Net looks for a file of the class's name

from __future__ import annotations

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from tumorgen_cli.nnunet.on_the_fly.trainer import PaintingMixin


class nnUNetTrainerTumorGen(PaintingMixin, nnUNetTrainer):  # noqa: N801 - nnU-Net's own form of trainer names
    """nnU-Net's own trainer, with new tumors painted into some of its training patches."""
