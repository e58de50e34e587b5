"""The judge: a trained nnU-Net v2 that segments scans, to score synthetic pairs and to filter them.

Reads an nnU-Net results folder (plans.json, dataset.json, fold_*/checkpoint_final.pth). Writes nothing. A results
folder may come from anywhere, so checkpoints are read without running pickled code, and a plan may name only classes of
nnU-Net's own architectures and of torch. nnU-Net's environment variables are not needed.
"""

from __future__ import annotations

import contextlib
import io
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tumorgen_cli.data.volumes import READERS
from tumorgen_cli.geometry import Grid
from tumorgen_cli.nnunet.results import FINAL, results_root
from tumorgen_cli.system.devices import catch_out_of_memory
from tumorgen_cli.system.errors import DataError, Fault, StateError
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import hash_value, read_plain

if TYPE_CHECKING:
    import torch


_REMEDY = "give a results folder such as Dataset501_X/nnUNetTrainer__nnUNetPlans__3d_fullres"
_TRUSTED = ("dynamic_network_architectures.", "torch.nn.")


class Judge:
    """An ensemble of all folds of one nnU-Net, or a single fold if its folder is given.

    Attributes:
        folder: the given folder.
        hash: changes with the weights and with every setting that changes a prediction.
        labels: values by name; a region has several.
        tumor_labels: the values that count as tumor.
        channels: number of channels of a scan.
        usual_extent_mm: edge lengths (x, y, z) of the median training scan.
    """

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        tumor_name: str,
        precision: Literal["fp32", "bf16"] = "fp32",
        mirroring: bool = False,
        step_size: float = 0.5,
    ) -> None:
        """Load the ensemble.

        Args:
            folder: nnU-Net's results folder, or one of its folds.
            device: device of the network.
            tumor_name: name of the tumor label.
            precision: used on CPU only; on CUDA nnU-Net uses its own autocast.
            mirroring: average predictions over mirrored images.
            step_size: step between two patches, as a share of the patch size.

        Raises:
            StateError: files of the folder are missing or do not fit together; all faults are listed.
            DataError: the judge does not know `tumor_name`.
        """
        root = results_root(folder)
        plans, dataset = _read_folder(root)
        paths = _checkpoint_files(folder)
        checkpoints = [_read_checkpoint(path) for path in paths]
        configuration = _configuration(root, plans, checkpoints)
        self.folder = folder
        self.labels: dict[str, tuple[int, ...]] = {
            name: tuple(value) if isinstance(value, (list, tuple)) else (int(value),)
            for name, value in dataset["labels"].items()
        }
        self.tumor_labels = self._find_tumor(tumor_name)
        self.channels = len(dataset["channel_names"])
        content = [hash_value(plans), hash_value(dataset), *map(hash_file, paths)]
        self.hash = hash_value([*content, device.type, precision, mirroring, step_size])
        self._bf16 = precision == "bf16" and device.type == "cpu"
        with _quiet():
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            self._predictor = nnUNetPredictor(step_size, use_mirroring=mirroring, device=device, allow_tqdm=False)
        _initialize(self._predictor, root, plans, dataset, configuration, checkpoints)
        shape, spacing = plans["original_median_shape_after_transp"], plans["original_median_spacing_after_transp"]
        transposed = [float(n) * float(s) for n, s in zip(shape, spacing, strict=True)]
        x, y, z = (transposed[i] for i in reversed(plans["transpose_backward"]))
        self.usual_extent_mm = (x, y, z)

    @property
    def encoder(self) -> torch.nn.Module:
        """The encoder of the network, which returns the feature maps of its stages; weights of one fold."""
        encoder: torch.nn.Module = self._predictor.network.encoder
        return encoder

    @property
    def axis_order(self) -> tuple[int, ...]:
        """The order in which the network gets the axes (z, y, x) of a scan: nnU-Net's `transpose_forward`."""
        return tuple(self._predictor.plans_manager.transpose_forward)

    def predict(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        """Segment a scan.

        Args:
            image: scan (C, X, Y, Z) in its own units.
            grid: the scan's grid.

        Returns:
            Labels (X, Y, Z) uint8 on the scan's grid.

        Raises:
            DataError: the scan has other channels than the judge was trained on.
            DeviceError: the GPU has too little memory.
        """
        import torch

        if image.ndim != 4 or len(image) != self.channels or image.shape[1:] != grid.shape:
            fault = Fault(
                "scan",
                f"an array of shape {image.shape}",
                f"({self.channels}, {', '.join(map(str, grid.shape))})",
                "use a judge that was trained on the same channels, in the same order",
            )
            raise DataError("The scan does not fit the judge", [fault])
        data = np.ascontiguousarray(image.transpose(0, 3, 2, 1), np.float32)  # nnU-Net's order, for the spacing too
        spacing = [float(s) for s in reversed(grid.spacing_mm)]
        autocast = torch.autocast("cpu", torch.bfloat16) if self._bf16 else contextlib.nullcontext()
        with _quiet(), _keep_thread_count(), autocast, catch_out_of_memory("the judge"):
            labels = self._predictor.predict_single_npy_array(data, {"spacing": spacing})
        return np.ascontiguousarray(np.asarray(labels).transpose(2, 1, 0)).astype(np.uint8)

    def tumor(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        """Return the tumor mask (X, Y, Z) bool of a scan; see `predict`."""
        return np.isin(self.predict(image, grid), self.tumor_labels)

    def _find_tumor(self, name: str) -> tuple[int, ...]:
        """Return the values of the tumor label.

        Raises:
            DataError: there is no such label.
        """
        if name in self.labels and self.labels[name] != (0,):
            return self.labels[name]
        known = ", ".join(
            f"{label} = {'+'.join(map(str, values))}" for label, values in self.labels.items() if values != (0,)
        )
        remedy = "use a judge that was trained on this data set's labels, or name its tumor label"
        fault = Fault(str(results_root(self.folder) / "dataset.json"), f"labels {known}", f"a label {name!r}", remedy)
        raise DataError("The judge does not know the tumor", [fault])


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read plans.json and dataset.json of a results folder.

    Raises:
        StateError: a file or a field is missing, or the data are not NIfTI files.
    """
    faults: list[Fault] = []
    found: list[dict[str, Any]] = []
    extent = ("transpose_backward", "original_median_shape_after_transp", "original_median_spacing_after_transp")
    needed = {
        "plans.json": ("configurations", "transpose_forward", *extent),
        "dataset.json": ("labels", "channel_names"),
    }
    for name, keys in needed.items():
        try:
            content = read_plain(folder / name, _REMEDY)
        except StateError as error:
            faults += error.faults
            continue
        if name == "dataset.json" and isinstance(content, dict) and "modality" in content:
            content = {"channel_names": content["modality"], **content}
        missing = [key for key in keys if not isinstance(content, dict) or key not in content]
        if missing:
            faults.append(Fault(str(folder / name), f"no {' and no '.join(missing)}", f"nnU-Net's {name}", _REMEDY))
        found.append(content)
    if faults:
        raise StateError("The judge cannot be read", faults)
    reader = found[0].get("image_reader_writer", READERS[0])
    if reader not in READERS:
        expected = f"one of {', '.join(READERS)}"
        fault = Fault(
            f"{folder / 'plans.json'}: image_reader_writer",
            reader,
            expected,
            "train a judge on NIfTI files, with the default reader",
        )
        raise StateError("The judge cannot be used", [fault])
    return found[0], found[1]


def _checkpoint_files(folder: Path) -> list[Path]:
    """Return the final checkpoints of all folds, or of the given fold.

    Raises:
        StateError: there are none.
    """
    paths = [folder / FINAL] if folder != results_root(folder) else sorted(folder.glob(f"fold_*/{FINAL}"))
    if paths:
        return paths
    others = sorted(str(path.relative_to(folder)) for path in folder.glob("fold_*/*.pth"))
    found = f"only {', '.join(others)}" if others else "no checkpoint"
    remedy = "let the training end (its checkpoint_latest.pth is not the final one)" if others else _REMEDY
    raise StateError("The judge has no weights", [Fault(str(folder), found, "fold_*/checkpoint_final.pth", remedy)])


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint without running pickled code.

    Raises:
        StateError: the file is damaged, holds other objects than tensors and plain values, or is not a checkpoint of
            nnU-Net v2.
    """
    import torch

    # nnU-Net logs its losses as numpy numbers: only these types are allowed besides torch's own
    scalar = np.float64(0).__reduce__()[0]
    harmless: list[Any] = [
        np.dtype,
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
    ]
    harmless += [type(np.dtype(kind)) for kind in (np.float16, np.float32, np.float64, np.int32, np.int64, np.bool_)]
    try:
        with torch.serialization.safe_globals(harmless):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        fault = Fault(
            str(path),
            reason,
            "a whole checkpoint of tensors and plain values",
            "copy it again, or train the judge again",
        )
        raise StateError("A checkpoint cannot be read", [fault]) from error
    if not isinstance(content, Mapping) or not isinstance(content.get("network_weights"), Mapping):
        fault = Fault(str(path), "no network_weights", "a checkpoint of nnU-Net v2", _REMEDY)
        raise StateError("A checkpoint is of another kind", [fault])
    return dict(content)


def _configuration(folder: Path, plans: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]) -> str:
    """Return the configuration that the checkpoints name, or else the last part of the folder's name.

    Raises:
        StateError: the folds differ, or the plan has no such configuration.
    """
    named = {
        str((c.get("init_args") or {}).get("configuration", folder.resolve().name.split("__")[-1])) for c in checkpoints
    }
    known = [name for name in plans["configurations"] if name != "3d_cascade_fullres"]
    if len(named) == 1 and named <= set(known):
        return named.pop()
    fault = Fault(
        str(folder), f"configuration {', '.join(sorted(named))}", f"one of {', '.join(known)}, for all folds", _REMEDY
    )
    raise StateError("The judge's configuration cannot be used", [fault])


def _initialize(
    predictor: Any,
    folder: Path,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    configuration: str,
    checkpoints: Sequence[Mapping[str, Any]],
) -> None:
    """Build the network from nnU-Net's plan and give it, with the weights of all folds, to the predictor.

    Raises:
        StateError: the plan names foreign classes, or the weights do not fit the network.
    """
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    with _quiet():
        manager = PlansManager(plans)
        network = _build_network(folder, manager, dataset, configuration)
    weights = [dict(checkpoint["network_weights"]) for checkpoint in checkpoints]
    for state in reversed(weights):  # all are checked; those of the first fold stay loaded
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            remedy = "use a judge of a trainer that keeps the planned architecture"
            fault = Fault(str(folder), reason, "the planned network", remedy)
            raise StateError("The judge's weights do not fit its plan", [fault]) from error
    first = checkpoints[0]
    axes = first.get("inference_allowed_mirroring_axes")
    with _quiet():
        predictor.manual_initialization(
            network,
            manager,
            manager.get_configuration(configuration),
            weights,
            dataset,
            str(first.get("trainer_name", "nnUNetTrainer")),
            tuple(axes) if axes is not None else None,
        )


def _build_network(folder: Path, manager: Any, dataset: dict[str, Any], configuration: str) -> torch.nn.Module:
    """Build the network that nnU-Net's plan describes.

    Args:
        folder: the results folder, for error messages.
        manager: nnU-Net's `PlansManager`.
        dataset: content of dataset.json.
        configuration: name of the configuration.

    Raises:
        StateError: the plan names foreign classes, or describes a network that cannot be built.
    """
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    settings = manager.get_configuration(configuration)
    kwargs, imports = settings.network_arch_init_kwargs, settings.network_arch_init_kwargs_req_import
    names = [settings.network_arch_class_name, *(kwargs[key] for key in imports if kwargs[key] is not None)]
    where = f"{folder / 'plans.json'}: configurations.{configuration}.architecture"
    foreign = [str(name) for name in names if not _is_layer(str(name))]
    if foreign:
        expected = "layers of dynamic_network_architectures and torch.nn"
        fault = Fault(where, ", ".join(foreign), expected, "use another judge")
        raise StateError("The judge's network is not nnU-Net's", [fault])
    inputs = determine_num_input_channels(manager, settings, dataset)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    try:
        with torch.random.fork_rng(devices=[]):  # fresh weights are drawn before they are replaced
            network: torch.nn.Module = get_network_from_plans(
                names[0], kwargs, imports, inputs, heads, allow_init=False, deep_supervision=False
            )
    except (AssertionError, KeyError, TypeError, ValueError, IndexError) as error:
        found = f"{type(error).__name__}: {error}"[:300]
        fault = Fault(where, found, "an architecture that nnU-Net can build", _REMEDY)
        raise StateError("The judge's network cannot be built", [fault]) from error
    return network


def _is_layer(name: str) -> bool:
    """Tell whether `name` is a layer class of a trusted package: a plan may name no other class."""
    import pydoc

    import torch

    found = pydoc.locate(name) if name.startswith(_TRUSTED) else None
    return isinstance(found, type) and issubclass(found, torch.nn.Module)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress nnU-Net's prints and warnings."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _keep_thread_count() -> Iterator[None]:
    """Restore torch's thread count: nnU-Net changes it and, if it fails, does not restore it."""
    import torch

    count = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(count)
