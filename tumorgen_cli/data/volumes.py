"""Read, write and resample scans; only this module imports SimpleITK. Arrays are (X, Y, Z), geometry is a `Grid`.

A scan is a file, or a folder with the slices of one DICOM series (`data.dicom`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tumorgen_cli.data import dicom, headers, nifti
from tumorgen_cli.data.slabs import PACKER, Slabs, pack, planes_at_once, reverse_axes, unpacked
from tumorgen_cli.data.suv import suv_factor
from tumorgen_cli.geometry import Grid, Shape, Triple, as_triple, cast_to_dtype, describe_edges
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import DataError, Fault, abbreviate_list, say_count
from tumorgen_cli.system.files import atomic, file_version, hash_file, write_parts

if TYPE_CHECKING:
    from nibabel.nifti1 import Nifti1Header
    from SimpleITK import Image

READERS = (
    "SimpleITKIO",
    "NibabelIO",
)  # nnU-Net's readers that give the array as (Z, Y, X); others reorder or rescale it
#: nnU-Net's readers that read the voxels of a file as they are read here; the last one turns their axes
SAME_VOXELS = (*READERS, "NibabelIOWithReorient")
#: what has to be done with 2D images
STACK = "stack the slices of each scan into one 3D volume: tumorgen learns and paints 3D tumors"
_SKEWED_DEGREES = 0.5  # less is rounding
_ORDERS = {"nearest": "sitkNearestNeighbor", "linear": "sitkLinear", "cubic": "sitkBSpline"}


def _sitk() -> Any:
    """SimpleITK, imported at its first use: training reads preprocessed cases and needs none of it."""
    # axes that are not quite perpendicular are read as the nearest perpendicular ones, as nnU-Net does through nibabel
    os.environ.setdefault("ITK_NIFTI_SFORM_PERMISSIVE", "1")
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK


def file_fault(path: Path) -> Fault | None:
    """Find why a path is no file that can be opened: nothing there, a link to nothing, a folder, a pipe."""
    if path.is_symlink() and not path.exists():
        remedy = "fetch its content (for example `datalad get`), correct the link, or remove the image and the label"
        return Fault(str(path), f"a link to nothing ({path.readlink()})", "a file", remedy)
    if path.is_file():
        return None
    if not path.exists():
        return Fault(str(path), "no such file", "a whole NIfTI (or other SimpleITK) volume", nifti.COPY_AGAIN)
    return _folder_fault(path)


def _folder_fault(path: Path) -> Fault:
    found = "a folder" if path.is_dir() else "a pipe or device"
    return Fault(str(path), found, "a file", "put the scan there as a file, or remove it")


def read_grid(path: Path) -> Grid:
    """Read the geometry of a scan from its header, or from the headers of its slices; voxels are not read.

    Raises:
        DataError: the file is missing, unreadable, shorter than its header says, or not a 3D scalar volume.
    """
    return _read_geometry(path)[1]


def read_volume(path: Path) -> tuple[np.ndarray, Grid]:
    """Read the voxels (X, Y, Z) of a scan in the file's data type, and its geometry; every byte is checked.

    Slices of a DICOM series are rescaled, each by its own slope and intercept, to int16, int32 or float32. Those of PET
    in Bq/ml or counts become SUV by body weight, in float32.

    Raises:
        DataError: the file is missing, unreadable, truncated or damaged, or not a 3D scalar volume.
    """
    if path.is_dir():
        series = read_series(path)
        return reverse_axes(_stack_slices(series.files, series.factor)), series.grid
    header, grid = _read_geometry(path)
    if header is not None and nifti.has_plain_voxels(header):
        return _read_planes(path, header, grid.shape), grid
    with _readable(path):
        if header is None:
            headers.check_voxels(path)
        else:
            nifti.check_voxels(path, header)
        image = _sitk().ReadImage(str(path))
    return reverse_axes(_sitk().GetArrayViewFromImage(image)), grid


def _read_planes(path: Path, header: Nifti1Header, shape: Shape) -> np.ndarray:
    """Read the voxels (X, Y, Z) of a NIfTI file some planes at a time: memory holds the scan once."""
    dtype = header.get_data_dtype().newbyteorder("=")
    planes = planes_at_once(dtype)
    try:
        array = np.empty(shape, dtype)
    except MemoryError as error:
        raise nifti.damaged(path, error) from error
    for number, piece in enumerate(nifti.read_voxels(path, header, planes * shape[0] * shape[1])):
        part = piece.astype(dtype, copy=False).reshape(-1, shape[1], shape[0])
        reverse_axes(part, array[:, :, number * planes : (number + 1) * planes])
    return array


def read_series(folder: Path) -> dicom.Series:
    """Read the tags of the DICOM series in a folder. They are kept as long as its files are the same.

    Raises:
        DataError: the folder holds no DICOM file, files that are no single volume (`dicom.arrange`), or PET that cannot
            be read as SUV (`suv.suv_factor`).
    """
    return _read_series_once(folder, file_version(folder))


@functools.lru_cache(maxsize=1 << 12)
def _read_series_once(folder: Path, _version: tuple[int, int, int] | None) -> dicom.Series:
    files = dicom.list_slices(folder)
    if not files:
        raise DataError("A file cannot be read", [_folder_fault(folder)])
    series = dicom.arrange(folder, [_read_tags(path) for path in files])
    return replace(series, factor=suv_factor(folder, series.files)) if series.modality == "PT" else series


def _read_tags(path: Path) -> dicom.Slice:
    reader = _sitk().ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    with _readable(path):
        reader.ReadImageInformation()
    tags = {tag: reader.GetMetaData(tag) for tag in dicom.TAGS if reader.HasMetaDataKey(tag)}
    return dicom.Slice(path, tags, reader.GetSize())


def _stack_slices(paths: Sequence[Path], factor: float) -> np.ndarray:
    """Read slices times a factor as one array (Z, Y, X). ITK's reader would cut all to the data type of the first."""
    slices = []
    for path in paths:
        with _readable(path):
            array = _sitk().GetArrayFromImage(_sitk().ReadImage(str(path), imageIO="GDCMImageIO"))
        slices.append(array.reshape(array.shape[-2:]).astype(np.float32 if array.dtype.kind == "f" else np.int32))
    if factor != 1 or any(each.dtype.kind == "f" for each in slices):
        return np.stack([(each * factor).astype(np.float32) for each in slices])
    short = np.iinfo(np.int16)
    fits = all(short.min <= each.min() and each.max() <= short.max for each in slices)
    return np.stack([each.astype(np.int16) for each in slices] if fits else slices)


def _read_geometry(path: Path) -> tuple[Nifti1Header | None, Grid]:
    """Read and check the header of a file: that of a NIfTI file, None for other formats; and the geometry.

    Commands ask for the headers of the same hosts several times, so they are kept as long as the file is the same.
    """
    if path.is_dir():
        return None, read_series(path).grid
    fault = file_fault(path)
    if fault is not None:
        raise DataError("A file cannot be read", [fault])
    return _read_geometry_once(path, file_version(path))


@functools.lru_cache(maxsize=1 << 15)
def _read_geometry_once(path: Path, _version: tuple[int, int, int] | None) -> tuple[Nifti1Header | None, Grid]:
    header = None
    with _readable(path):
        if nifti.is_nifti(path):
            header = nifti.read_header(path)
            nifti.check_length(path, header)
        else:
            headers.check_single_file(path)
        reader = _sitk().ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
    size = reader.GetSize()
    if len(size) != 3 or min(size) < 2 or reader.GetNumberOfComponents() != 1:
        parts = reader.GetNumberOfComponents()
        found = f"size {'×'.join(map(str, size))}" + (f", {parts} components a voxel" if parts > 1 else "")
        flat = parts == 1 and sum(count > 1 for count in size) < 3
        remedy = STACK if flat else "write one 3D file per channel and time point"
        fault = Fault(str(path), found + ", a 2D image" * flat, "a 3D scalar volume", remedy)
        raise DataError("A file is not a 3D volume", [fault])
    grid = Grid(size, reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    if not np.isfinite([*grid.spacing_mm, *grid.origin_mm, *grid.direction]).all() or min(grid.spacing_mm) <= 0:
        fault = Fault(str(path), describe_grid(grid), "a geometry of finite numbers", nifti.COPY_AGAIN)
        raise DataError("A file has no geometry", [fault])
    return header, grid


def warn_of_skewed(paths: Iterable[Path]) -> None:
    """Warn of readable scans whose axes are clearly not perpendicular, as after a tilt of the gantry."""
    skewed = {}
    for path in paths:
        with contextlib.suppress(DataError, OSError):
            degrees = nifti.skew_degrees(nifti.read_header(path)) if nifti.is_nifti(path) and path.is_file() else 0.0
            if degrees > _SKEWED_DEGREES:
                skewed[path.name] = degrees
    if skewed:
        console.warn(
            f"axes up to {max(skewed.values()):.1f}° off perpendicular in {say_count(len(skewed), 'scan')} "
            f"({abbreviate_list([*skewed])}), read as if they were perpendicular, as nnU-Net reads them: "
            "resample such scans if shapes in mm matter"
        )


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turn what SimpleITK and the system say of a file that they cannot read into a `DataError`."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        said = [line.split("ERROR:")[-1].strip() for line in str(error).splitlines() if line.strip()]
        reason = said[-1] if isinstance(error, RuntimeError) else error.strerror
        found = f"{path.stat().st_size} bytes that cannot be read ({reason})"
        expected = "a whole NIfTI (or other SimpleITK) volume"
        raise DataError("A file cannot be read", [Fault(str(path), found, expected, nifti.COPY_AGAIN)]) from error


def read_image(paths: tuple[Path, ...]) -> tuple[np.ndarray, Grid]:
    """Read the channels of a scan as (C, X, Y, Z), and the geometry of the first channel.

    The data type is one that can hold the types of all channels.

    Raises:
        DataError: a file is unreadable or not 3D, or channels differ in geometry.
    """
    return stack_channels(paths, [read_volume(path) for path in paths])


def stack_channels(paths: Sequence[Path], volumes: Sequence[tuple[np.ndarray, Grid]]) -> tuple[np.ndarray, Grid]:
    """Stack volumes that were read before, as `read_image` does.

    Args:
        paths: The files of the volumes, for error messages.
        volumes: Voxels and geometry of each channel.

    Raises:
        DataError: channels differ in geometry.
    """
    grid = volumes[0][1]
    faults = [
        Fault(str(path), describe_grid(other), describe_grid(grid), f"resample it onto {paths[0].name}")
        for path, (_, other) in zip(paths, volumes, strict=True)
        if not same_geometry(grid, other)
    ]
    if faults:
        raise DataError("Channels of one scan differ in geometry", faults)
    return volumes[0][0][None] if len(volumes) == 1 else np.stack([array for array, _ in volumes]), grid


def hash_voxels(array: np.ndarray) -> str:
    """The first 16 hex digits of the SHA-256 of voxels as float32.

    The hash stays the same when a scan is written again with another compression or in another data type.
    """
    digest = hashlib.sha256()
    for plane in array:  # one by one: scans as float32 may need twice their memory
        digest.update(np.ascontiguousarray(plane, np.float32).data)
    return digest.hexdigest()[:16]


def write_volume(
    path: Path,
    array: np.ndarray,
    grid: Grid,
    like: Path | None = None,
    base: Slabs | None = None,
    about: str = "",
) -> str:
    """Write voxels (X, Y, Z) with their geometry; the file is verified before it has its name.

    Args:
        path: The file.
        array: The voxels; bool is written as uint8.
        grid: The geometry.
        like: A scan on this grid. If both files are NIfTI, its matrices and codes are written: SimpleITK reads one of
            qform and sform, and other programs may read the other.
        base: The slabs of a similar volume, of the same shape and data type. A packed NIfTI file takes over the packed
            slabs in which the volumes are equal. The file has the data type of `base`; without it, the array's.
        about: What the volume is, for its own header: `descrip` of NIfTI, at most 79 ASCII characters.

    Returns:
        The hash of the file (`hash_file`).

    Raises:
        StateError: the file cannot be written whole.
    """
    array = array.astype(np.uint8 if array.dtype == bool else array.dtype.newbyteorder("="), copy=False)
    dtype = array.dtype if base is None else base.dtype
    if nifti.is_nifti(path):
        header = nifti.read_header(like) if like is not None and nifti.is_nifti(like) else None
        start = nifti.encode_start(array.shape, dtype, grid, header, about)
        packed = path.name.endswith(".gz")
        return write_parts(path, pack(start, array, dtype, base) if packed else unpacked(start, array, dtype))
    data = cast_to_dtype(array, dtype)
    with atomic(path) as temporary:
        try:
            image = _to_sitk(data, grid)
            if about:
                image.SetMetaData("descrip", about)
            _sitk().WriteImage(image, str(temporary), useCompression=True)
            written, found = read_volume(temporary)
        except (RuntimeError, DataError) as error:
            temporary.write_bytes(bytes(data.nbytes))  # says why, if the disk or a limit is too small
            raise OSError(errno.EIO, f"the volume could not be written whole: {error}") from error
        if not (np.array_equal(written, data, equal_nan=data.dtype.kind == "f") and same_geometry(found, grid)):
            raise OSError(errno.EIO, "what is on disk is not what was written")
        return hash_file(temporary)


def writer_of(ending: str) -> str:
    """Name the library that packs the voxels of files with this ending, and its version; empty if none does."""
    if ending == ".nii.gz":
        return PACKER
    return "" if ending == ".nii" else f"SimpleITK {_sitk().Version_VersionString()}"


def resample(array: np.ndarray, grid: Grid, onto: Grid, order: str) -> np.ndarray:
    """Resample an array (X, Y, Z) to another grid; outside the source, the nearest voxel of the source is used.

    Args:
        array: Voxels on `grid`.
        grid: The grid of the array.
        onto: The grid of the result.
        order: `nearest`, `linear` or `cubic`. Cubic is a B-spline, clipped to the range of the source so that it never
            overshoots.
    """
    if grid == onto:
        return array.copy()
    source = _to_sitk(array if order == "nearest" else array.astype(np.float32, copy=False), grid)
    target = _sitk().ResampleImageFilter()
    target.SetSize(onto.shape)
    target.SetOutputSpacing(onto.spacing_mm)
    target.SetOutputOrigin(onto.origin_mm)
    target.SetOutputDirection(onto.direction)
    target.SetInterpolator(getattr(_sitk(), _ORDERS[order]))
    target.UseNearestNeighborExtrapolatorOn()
    result = _sitk().GetArrayFromImage(target.Execute(source)).transpose(2, 1, 0)
    if order == "cubic":
        result = np.clip(result, array.min(), array.max())
    return np.ascontiguousarray(result)


def working_grid(grid: Grid, spacing_mm: Triple) -> Grid:
    """The grid that covers the same extent at another spacing; voxel counts are rounded and at least 1."""
    shape = as_triple(max(1, round(e / s)) for e, s in zip(grid.extent_mm, spacing_mm, strict=True))
    return grid.subgrid((0.0, 0.0, 0.0), spacing_mm, shape)


def same_geometry(a: Grid, b: Grid) -> bool:
    """Whether two grids have the same shape, and the same spacing, origin and direction up to rounding in headers."""
    return (
        a.shape == b.shape
        and np.allclose(a.spacing_mm, b.spacing_mm, rtol=1e-3)
        and np.allclose(a.origin_mm, b.origin_mm, atol=1e-2 + 1e-2 * max(a.spacing_mm))
        and np.allclose(a.direction, b.direction, atol=1e-3)
    )


def describe_grid(grid: Grid) -> str:
    """Describe shape, spacing and origin of a grid in one line."""
    spacing = describe_edges(grid.spacing_mm, ".4g")
    return (
        f"{'×'.join(map(str, grid.shape))} voxels of {spacing} mm, origin {tuple(round(o, 2) for o in grid.origin_mm)}"
    )


def from_sitk(image: Image) -> tuple[np.ndarray, Grid]:
    """The voxels (C, X, Y, Z) of a SimpleITK image, one channel per component, and its geometry.

    Raises:
        DataError: the image is not 3D.
    """
    if image.GetDimension() != 3:
        fault = Fault(
            "image",
            f"{image.GetDimension()} dimensions",
            "a 3D image",
            "give one 3D scan, with one or several channels",
        )
        raise DataError("An image is not a 3D volume", [fault])
    grid = Grid(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())
    array = _sitk().GetArrayViewFromImage(image)  # (Z, Y, X), or (Z, Y, X, C)
    if image.GetNumberOfComponentsPerPixel() == 1:
        return reverse_axes(array.reshape(array.shape[:3]))[None], grid
    return np.stack([reverse_axes(array[..., channel]) for channel in range(array.shape[3])]), grid


def to_sitk(channels: np.ndarray, grid: Grid) -> Image:
    """A SimpleITK image of voxels (C, X, Y, Z); with several channels, one component per channel."""
    images = [_to_sitk(channel, grid) for channel in channels]
    return images[0] if len(images) == 1 else _sitk().Compose(images)


def _to_sitk(array: np.ndarray, grid: Grid) -> Image:
    data = array.astype(np.uint8) if array.dtype == bool else array
    image = _sitk().GetImageFromArray(reverse_axes(data))
    image.SetSpacing(grid.spacing_mm)
    image.SetOrigin(grid.origin_mm)
    image.SetDirection(grid.direction)
    return image
