"""Painting as a random transform in the training of others: `PaintTumord` for MONAI; `api.torchio` has TorchIO's.

Both call `api.paint`. They are no names of `api` itself, because importing them imports torch:

    from tumorgen_cli.api.transforms import PaintTumord
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from monai.data.meta_tensor import MetaTensor
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.utils.type_conversion import convert_data_type, convert_to_dst_type

from tumorgen_cli.api.memory import paint
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, NoPlaceError

__all__ = ["PaintTumord"]

SEEDS = 2**31  # seeds are drawn below it: MONAI and TorchIO both can
NoPlace = Literal["keep", "raise"]
_NIFTI_TYPES = {"float16": np.float32, "int64": np.int32}  # what nibabel does not take, and what holds it


@dataclass(frozen=True)
class SampleImage:
    """An image of a sample, channel first.

    Attributes:
        key: Its key in the sample.
        voxels: (C, X, Y, Z).
        affine: From voxels to mm, x to the right, y to the front, z up (4, 4). None: it has no geometry.
    """

    key: Hashable
    voxels: np.ndarray
    affine: np.ndarray | None = None


@dataclass(frozen=True)
class SamplePainter:
    """Paints into a sample's image and label, for any library.

    Attributes:
        label: The value of painted voxels in the label.
        no_place: Whether a sample in which no tumor came stays as it is, or the error is raised.
        options: Of `api.paint`.
    """

    label: int
    no_place: NoPlace
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        inspect.signature(paint).bind(None, region=None, seed=0, **self.options)  # a misspelled one fails here

    def paint(
        self, image: SampleImage, label: SampleImage | None, region: SampleImage | None, seed: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Paint tumors.

        Args:
            image: The image to paint into.
            label: Its label, (1, X, Y, Z). None: a new one.
            region: Where tumors may lie, not 0 there, (1, X, Y, Z). None: as `api.paint` does.
            seed: Of the pair.

        Returns:
            The image and the label, in the shapes and data types that were given; a new label is uint8.

        Raises:
            DataError: An image, label or region that cannot be used, or no tumor with `no_place="raise"`.
        """
        shape = (1, *image.voxels.shape[1:])
        labels = np.zeros(shape, np.uint8) if label is None else label.voxels
        if faults := [*_channel_faults(image), *_geometry_faults(image, label), *_geometry_faults(image, region)]:
            raise DataError("A sample cannot be painted", faults)
        air = all(channel.min() == channel.max() for channel in image.voxels)
        if air and self.no_place == "keep":
            return image.voxels, labels
        try:
            painted, mask = self._paint(image, None if region is None else region.voxels[0], seed)
        except NoPlaceError:
            if self.no_place == "raise":
                raise
            return image.voxels, labels
        return painted.astype(image.voxels.dtype), np.where(mask[None], self.label, labels).astype(labels.dtype)

    def _paint(self, image: SampleImage, region: np.ndarray | None, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The painted image (C, X, Y, Z) and its mask (X, Y, Z) bool."""
        voxels = image.voxels.astype(_NIFTI_TYPES.get(image.voxels.dtype.name, image.voxels.dtype), copy=False)
        with console.hush():  # what is doubtful about a scan would be told again in every epoch
            if image.affine is None:
                pair = paint(voxels, region=region, seed=seed, **self.options)
                return pair.image, pair.mask
            import nibabel

            host = nibabel.Nifti1Image(np.moveaxis(voxels, 0, -1), image.affine)
            pair = paint(host, region=region, seed=seed, **self.options)
        return np.moveaxis(np.asanyarray(pair.image.dataobj), -1, 0), np.asanyarray(pair.mask.dataobj) > 0


def check_key(sample: Mapping[Any, Any], key: Hashable, option: str) -> None:
    """Check that a sample has an image.

    Raises:
        DataError: It has not.
    """
    if key not in sample:
        found = f"the keys {', '.join(map(str, sample))}"
        raise DataError("A sample has no such image", [Fault(f"sample[{key!r}]", found, "an image", f"set {option}=")])


def _channel_faults(image: SampleImage) -> list[Fault]:
    if image.voxels.ndim == 4:
        return []
    remedy = "put EnsureChannelFirstd before this transform"
    return [Fault(f"sample[{image.key!r}]", f"shape {image.voxels.shape}", "(C, X, Y, Z)", remedy)]


def _geometry_faults(image: SampleImage, other: SampleImage | None) -> list[Fault]:
    """The fault of a label or region that does not lie on the image's grid."""
    if other is None:
        return []
    expected = (1, *image.voxels.shape[1:])
    found = f"shape {other.voxels.shape}"
    if other.voxels.shape == expected:
        affines = image.affine, other.affine
        if affines[0] is None or affines[1] is None or np.allclose(affines[0], affines[1], atol=1e-3):
            return []
        found = "another affine than the image's"
    remedy = "give image, label and region the same crops and resampling, and make labels one-hot after this transform"
    return [Fault(f"sample[{other.key!r}]", found, f"shape {expected}, and the image's affine", remedy)]


class PaintTumord(RandomizableTransform, MapTransform):
    """Paint tumors into the image of a MONAI sample, and mark them in its label.

    Images are channel first: MetaTensors with their affine, or plain arrays and tensors with `spacing_mm`. What comes
    back is of the same kind, type and geometry. Outside the painted boxes, every voxel stays as it was. A sample
    without a label gets one, also where nothing was painted.

    Put it after loading and `Orientationd`, before intensities are scaled and before random crops: places and units are
    judged on the whole scan. `set_random_state` seeds it; MONAI's `DataLoader` gives every worker a seed of its own.

    Args:
        image_key: The image, with the channels of the data set and in its units.
        label_key: Its label, (1, X, Y, Z).
        prob: How often a sample is painted into.
        region_key: Mask (1, X, Y, Z) of where tumors may lie, not 0 there. None: in the body.
        label: The value of painted voxels in the label.
        no_place: A sample in which no tumor came, for example a crop of air: `keep` it as it is, or `raise` the error.
        spacing_mm: Voxel edges x, y, z in mm, of samples that are no MetaTensors.
        **options: Of `api.paint`: `model` or `work`, `method`, `sampling`, `tumors`, `anywhere`, `trust_units`,
            `device`. The device is `cpu` unless given, as worker processes that are forked cannot use a GPU.

    Example:
        >>> from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged
        >>> from tumorgen_cli.api.transforms import PaintTumord
        >>> paint = PaintTumord(method="syntumor", work="tumorgen_demo", prob=1.0)
        >>> chain = Compose([LoadImaged("image"), EnsureChannelFirstd("image"), paint]).set_random_state(1)
        >>> sample = chain({"image": "tumorgen_demo/phantoms/healthy/Healthy_000_0000.nii.gz"})
        >>> sample["label"].shape == sample["image"].shape, bool(sample["label"].any())
        (True, True)
    """

    def __init__(
        self,
        image_key: Hashable = "image",
        label_key: Hashable = "label",
        prob: float = 0.5,
        *,
        region_key: Hashable | None = None,
        label: int = 1,
        no_place: NoPlace = "keep",
        spacing_mm: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        MapTransform.__init__(self, [image_key, label_key], allow_missing_keys=True)
        RandomizableTransform.__init__(self, prob)
        self.image_key, self.label_key, self.region_key = image_key, label_key, region_key
        self.spacing_mm = spacing_mm
        self.painter = SamplePainter(label, no_place, {"device": "cpu"} | options)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Paint into a sample, or leave it as it is.

        Raises:
            DataError: The sample cannot be painted.
        """
        sample = dict(data)
        check_key(sample, self.image_key, "image_key")
        self.randomize(None)
        seed = int(self.R.randint(SEEDS)) if self._do_transform else None
        image = sample[self.image_key]
        host = _as_sample_image(self.image_key, image)
        given = sample.get(self.label_key)
        if seed is None and given is not None:
            return sample
        if seed is None:
            new = np.zeros((1, *host.voxels.shape[1:]), np.uint8)
            return sample | {self.label_key: _like(new, image)}
        region = None
        if self.region_key is not None:
            check_key(sample, self.region_key, "region_key")
            region = _as_sample_image(self.region_key, sample[self.region_key])
        label = None if given is None else _as_sample_image(self.label_key, given)
        painter = self.painter
        if host.affine is None:
            painter = SamplePainter(painter.label, painter.no_place, painter.options | {"spacing_mm": self.spacing_mm})
        painted, labels = painter.paint(host, label, region, seed)
        marked = _like(labels, image) if given is None else _like(labels, given)
        return sample | {self.image_key: _like(painted, image), self.label_key: marked}


def _as_sample_image(key: Hashable, image: Any) -> SampleImage:
    voxels = convert_data_type(image, np.ndarray)[0]
    affine = image.affine.detach().cpu().numpy() if isinstance(image, MetaTensor) else None
    return SampleImage(key, voxels, affine)


def _like(voxels: np.ndarray, image: Any) -> Any:
    """Voxels as an image of the same kind, device and geometry; their data type stays."""
    return convert_to_dst_type(voxels, image, dtype=voxels.dtype)[0]
