"""The folder that `nnUNet_extTrainer` names: nnU-Net searches it for the trainer of `-tr`."""
