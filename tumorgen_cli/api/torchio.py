"""Painting as a TorchIO transform: `from tumorgen_cli.api.torchio import PaintTumor`. Needs the extra `torchio`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tumorgen_cli.api.transforms import SEEDS, NoPlace, SampleImage, SamplePainter, check_key
from tumorgen_cli.system.errors import Fault, StateError

try:
    import torchio
except ImportError as error:
    _fault = Fault("tumorgen_cli.api.torchio", str(error), "the package torchio", "pip install 'torchio>=1.2'")
    raise StateError("A package is missing", [_fault]) from error

__all__ = ["PaintTumor"]


class PaintTumor(torchio.transforms.augmentation.RandomTransform):
    """Paint tumors into the image of a TorchIO subject, and mark them in its label map.

    The image keeps its type and geometry. Outside the painted boxes, every voxel stays as it was. A subject without a
    label map gets one, also where nothing was painted. Seeds come from torch's random numbers, of which every worker
    process has its own. The transform is not part of the subject's history.

    Put it after `ToCanonical`, before intensities are scaled and before random crops: places and units are judged on
    the whole scan.

    Args:
        image_key: The image, with the channels of the data set and in its units.
        label_key: Its label map, of one channel.
        p: How often a subject is painted into.
        region_key: Label map of where tumors may lie, not 0 there. None: in the body.
        label: The value of painted voxels in the label map.
        no_place: A subject in which no tumor came: `keep` it as it is, or `raise` the error.
        **options: Of `api.paint`, see `PaintTumord`.
    """

    def __init__(
        self,
        image_key: str = "image",
        label_key: str = "label",
        p: float = 0.5,
        *,
        region_key: str | None = None,
        label: int = 1,
        no_place: NoPlace = "keep",
        **options: Any,
    ) -> None:
        super().__init__(p=1)  # TorchIO skips a subject as a whole, and it would get no label map
        self.paint_probability = self.parse_probability(p)
        self.image_key, self.label_key, self.region_key = image_key, label_key, region_key
        self.painter = SamplePainter(label, no_place, {"device": "cpu"} | options)

    def apply_transform(self, subject: torchio.Subject) -> torchio.Subject:
        """Paint into a subject, or leave its image as it is.

        Raises:
            DataError: The subject cannot be painted.
        """
        check_key(subject, self.image_key, "image_key")
        painted, seed = torch.rand(1).item() < self.paint_probability, int(torch.randint(SEEDS, (1,)))
        image = subject.get_image(self.image_key)
        if self.label_key not in subject:
            empty = torch.zeros((1, *image.spatial_shape), dtype=torch.uint8)
            subject.add_image(torchio.LabelMap(tensor=empty, affine=image.affine), self.label_key)
        if not painted:
            return subject
        if self.region_key is not None:
            check_key(subject, self.region_key, "region_key")
        host, label = (_as_sample_image(subject, key) for key in (self.image_key, self.label_key))
        region = None if self.region_key is None else _as_sample_image(subject, self.region_key)
        with np.errstate(all="warn", under="ignore"):  # TorchIO makes errors of warnings of NumPy
            voxels, labels = self.painter.paint(host, label, region, seed)
        image.set_data(torch.from_numpy(np.ascontiguousarray(voxels)))
        subject.get_image(self.label_key).set_data(torch.from_numpy(labels))
        return subject


def _as_sample_image(subject: torchio.Subject, key: str) -> SampleImage:
    image = subject.get_image(key)
    return SampleImage(key, image.numpy(), image.affine)
