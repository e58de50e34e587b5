"""The judge: a trained nnU-Net v2 that segments scans, to score synthetic pairs and to filter them.

Reads an nnU-Net results folder (plans.json, dataset.json, fold_*/checkpoint_final.pth). Writes nothing. Checkpoints are
read without unpickling code, and a plan may name classes of nnU-Net's own architectures and of torch only: a results
folder may come from anywhere. nnU-Net's environment variables are not needed.
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
    """All folds of one nnU-Net as one ensemble, or one of them, if its folder is given.

    `hash` changes with the weights and with every setting that changes a prediction. `labels` maps names to values (a
    region to several). `tumor_labels` are the values that count as tumor. `usual_extent_mm` are the edges (x, y, z) of the
    median scan that it was trained on.
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
        """Loads the ensemble. `precision` bf16 holds on CPU only; CUDA has nnU-Net's own autocast.

        Raises:
            StateError: everything that is missing from the folder or does not fit together.
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
        _fill(self._predictor, root, plans, dataset, configuration, checkpoints)
        shape, spacing = plans["original_median_shape_after_transp"], plans["original_median_spacing_after_transp"]
        turned = [float(n) * float(s) for n, s in zip(shape, spacing, strict=True)]
        x, y, z = (turned[i] for i in reversed(plans["transpose_backward"]))
        self.usual_extent_mm = (x, y, z)

    def predict(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        """Labels (X, Y, Z) uint8 of a scan (C, X, Y, Z) in its own units, on its own grid.

        Raises:
            DataError: the scan has other channels than the judge was trained on. DeviceError: the GPU's memory does not suffice.
        """
        import torch

        if image.ndim != 4 or len(image) != self.channels or image.shape[1:] != grid.shape:
            fault = Fault(
                "scan",
                f"an array of shape {image.shape}",
                f"({self.channels}, {', '.join(map(str, grid.shape))})",
                "take a judge that was trained on the same channels, in the same order",
            )
            raise DataError("The scan does not fit the judge", [fault])
        data = np.ascontiguousarray(image.transpose(0, 3, 2, 1), np.float32)  # nnU-Net's order, for the spacing too
        spacing = [float(s) for s in reversed(grid.spacing_mm)]
        autocast = torch.autocast("cpu", torch.bfloat16) if self._bf16 else contextlib.nullcontext()
        with _quiet(), _threads_kept(), autocast, catch_out_of_memory("the judge"):
            labels = self._predictor.predict_single_npy_array(data, {"spacing": spacing})
        return np.ascontiguousarray(np.asarray(labels).transpose(2, 1, 0)).astype(np.uint8)

    def tumor(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        """Tumor mask (X, Y, Z) bool of a scan; see `predict`."""
        return np.isin(self.predict(image, grid), self.tumor_labels)

    def _find_tumor(self, name: str) -> tuple[int, ...]:
        if name in self.labels and self.labels[name] != (0,):
            return self.labels[name]
        known = ", ".join(
            f"{label} = {'+'.join(map(str, values))}" for label, values in self.labels.items() if values != (0,)
        )
        remedy = "take a judge trained on this data set's labels, or name its tumor label"
        fault = Fault(str(results_root(self.folder) / "dataset.json"), f"labels {known}", f"a label {name!r}", remedy)
        raise DataError("The judge does not know the tumor", [fault])


def _read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
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
            "train a judge on NIfTI files, by the default reader",
        )
        raise StateError("The judge cannot be used", [fault])
    return found[0], found[1]


def _checkpoint_files(folder: Path) -> list[Path]:
    paths = [folder / FINAL] if folder != results_root(folder) else sorted(folder.glob(f"fold_*/{FINAL}"))
    if paths:
        return paths
    others = sorted(str(path.relative_to(folder)) for path in folder.glob("fold_*/*.pth"))
    found = f"only {', '.join(others)}" if others else "no checkpoint"
    remedy = "let the training end (its checkpoint_latest.pth is not the final one)" if others else _REMEDY
    raise StateError("The judge has no weights", [Fault(str(folder), found, "fold_*/checkpoint_final.pth", remedy)])


def _read_checkpoint(path: Path) -> dict[str, Any]:
    import torch

    # nnU-Net logs its losses as numpy numbers: these, and no other type, are let in besides torch's own
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
    """The configuration the checkpoints name, else the last part of the folder's name."""
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


def _fill(
    predictor: Any,
    folder: Path,
    plans: dict[str, Any],
    dataset: dict[str, Any],
    configuration: str,
    checkpoints: Sequence[Mapping[str, Any]],
) -> None:
    """Builds the network from nnU-Net's own plan and hands it, with all folds' weights, to the predictor.

    Raises:
        StateError: the plan names foreign classes, or the weights do not fit the network.
    """
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    with _quiet(), torch.random.fork_rng(devices=[]):  # fresh weights are drawn before they are replaced
        manager = PlansManager(plans)
        settings = manager.get_configuration(configuration)
        kwargs, imports = settings.network_arch_init_kwargs, settings.network_arch_init_kwargs_req_import
        names = [settings.network_arch_class_name, *(kwargs[key] for key in imports if kwargs[key] is not None)]
        where = f"{folder / 'plans.json'}: configurations.{configuration}.architecture"
        foreign = [str(name) for name in names if not _is_layer(str(name))]
        if foreign:
            fault = Fault(
                where, ", ".join(foreign), "layers of dynamic_network_architectures and torch.nn", "use another judge"
            )
            raise StateError("The judge's network is not nnU-Net's", [fault])
        inputs = determine_num_input_channels(manager, settings, dataset)
        heads = manager.get_label_manager(dataset).num_segmentation_heads
        try:
            network = get_network_from_plans(
                names[0], kwargs, imports, inputs, heads, allow_init=False, deep_supervision=False
            )
        except (AssertionError, KeyError, TypeError, ValueError, IndexError) as error:
            fault = Fault(
                where, f"{type(error).__name__}: {error}"[:300], "an architecture that nnU-Net can build", _REMEDY
            )
            raise StateError("The judge's network cannot be built", [fault]) from error
    weights = [dict(checkpoint["network_weights"]) for checkpoint in checkpoints]
    for state in reversed(weights):  # the first fold's stays in
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            remedy = "use a judge of a trainer that keeps the planned architecture"
            raise StateError(
                "The judge's weights do not fit its plan", [Fault(str(folder), reason, "the planned network", remedy)]
            ) from error
    first = checkpoints[0]
    axes = first.get("inference_allowed_mirroring_axes")
    with _quiet():
        predictor.manual_initialization(
            network,
            manager,
            settings,
            weights,
            dataset,
            str(first.get("trainer_name", "nnUNetTrainer")),
            tuple(axes) if axes is not None else None,
        )


def _is_layer(name: str) -> bool:
    """Whether `name` is a class of layers from a package that is trusted: a plan may not reach for anything else there."""
    import pydoc

    import torch

    found = pydoc.locate(name) if name.startswith(_TRUSTED) else None
    return isinstance(found, type) and issubclass(found, torch.nn.Module)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps nnU-Net's prints and warnings to itself."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    """nnU-Net sets torch's thread count and, when it fails, leaves it so."""
    import torch

    count = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(count)
