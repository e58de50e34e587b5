"""The judge: a trained nnU-Net v2 that segments scans, to score synthetic pairs and to filter them.

Reads an nnU-Net results folder (`results_files.py`). Writes nothing. A results folder may come from anywhere, so a plan
may name only classes of nnU-Net's own architectures and of torch, and the judge is tried on a few voxels when it is
loaded. nnU-Net's environment variables are not needed.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tumorgen_cli.data.labels import named_values, values_of
from tumorgen_cli.geometry import Grid
from tumorgen_cli.judge.results_files import (
    OWN_JUDGE,
    REMEDY,
    find_checkpoints,
    find_configuration,
    positive_numbers,
    read_checkpoint,
    read_folder,
)
from tumorgen_cli.nnunet.results import results_root
from tumorgen_cli.system.devices import catch_out_of_memory
from tumorgen_cli.system.errors import DataError, Fault, StateError, TumorgenError
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import hash_value

if TYPE_CHECKING:
    import torch


_ITERATIONS_PER_EPOCH = 250  # of nnU-Net's trainers
_TRUSTED = ("dynamic_network_architectures.", "torch.nn.", "tumorgen_cli.models.segmentors.")


class Judge:
    """An ensemble of all folds of one nnU-Net, or a single fold if its folder is given.

    Attributes:
        folder: the given folder.
        hash: changes with the weights and with every setting that changes a prediction.
        labels: values by name; a region has several.
        tumor_labels: the values that count as tumor.
        channels: number of channels of a scan.
        iterations: training iterations of the fold that was trained least; 0 if unknown.
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
        plans, dataset = read_folder(root)
        paths = find_checkpoints(folder)
        checkpoints = [read_checkpoint(path) for path in paths]
        configuration = find_configuration(root, plans, checkpoints)
        self.folder = folder
        self.labels: dict[str, tuple[int, ...]] = {
            name: tuple(value) if isinstance(value, list) else (value,) for name, value in dataset["labels"].items()
        }
        self.tumor_labels = self._find_tumor(tumor_name)
        self.channels = len(dataset["channel_names"])
        self.iterations = min(_iterations(checkpoint) for checkpoint in checkpoints)
        content = [hash_value(plans), hash_value(dataset), *map(hash_file, paths)]
        self.hash = hash_value([*content, device.type, precision, mirroring, step_size])
        self._bf16 = precision == "bf16" and device.type == "cpu"
        with _quiet():
            from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

            self._predictor = nnUNetPredictor(step_size, use_mirroring=mirroring, device=device, allow_tqdm=False)
        _initialize(self._predictor, root, plans, dataset, configuration, checkpoints)
        with _explain(f"{root / 'plans.json'}: configurations.{configuration}", "settings that nnU-Net can use"):
            self._try_out()
        shape, spacing = plans["original_median_shape_after_transp"], plans["original_median_spacing_after_transp"]
        transposed = [float(n) * float(s) for n, s in zip(shape, spacing, strict=True)]
        x, y, z = (transposed[i] for i in reversed(plans["transpose_backward"]))
        self.usual_extent_mm = (x, y, z)

    def predict(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        """Segment a scan.

        Args:
            image: scan (C, X, Y, Z) in its own units.
            grid: the scan's grid.

        Returns:
            Labels (X, Y, Z) on the scan's grid, in the smallest of nnU-Net's types that holds them.

        Raises:
            DataError: the scan has other channels than the judge was trained on.
            StateError: nnU-Net cannot segment with this judge.
            DeviceError: the GPU has too little memory.
        """
        return self._run(image, grid)[0]

    def tumor(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        """Return the tumor mask (X, Y, Z) bool of a scan; see `predict`."""
        return np.isin(self.predict(image, grid), self.tumor_labels)

    def tumor_with_probability(self, image: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Return the tumor mask (X, Y, Z) bool and the tumor's probability (X, Y, Z) float32; see `predict`.

        The probability is the sum over the labels that count as tumor, or, of regions, that of the tumor's region; if
        no region is the tumor, the highest of its parts.
        """
        labels, probabilities = self._run(image, grid, probabilities=True)
        assert probabilities is not None
        own = probabilities[list(self._tumor_heads)]
        together = own.max(axis=0) if self._predictor.label_manager.has_regions else own.sum(axis=0)
        return np.isin(labels, self.tumor_labels), together

    @property
    def _tumor_heads(self) -> tuple[int, ...]:
        """The network's outputs that belong to the tumor."""
        manager = self._predictor.label_manager
        if not manager.has_regions:
            return self.tumor_labels
        regions = [tuple(r) if isinstance(r, (list, tuple)) else (r,) for r in manager.foreground_regions]
        tumor = {*self.tumor_labels}
        whole = tuple(number for number, region in enumerate(regions) if {*region} == tumor)
        return whole or tuple(number for number, region in enumerate(regions) if {*region} <= tumor)

    def _run(self, image: np.ndarray, grid: Grid, probabilities: bool = False) -> tuple[np.ndarray, np.ndarray | None]:
        """Segment a scan as `predict` does; with `probabilities` (heads, X, Y, Z) float32."""
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
        with (
            _explain(str(self.folder), "an nnU-Net that segments"),
            _quiet(),
            _keep_thread_count(),
            autocast,
            catch_out_of_memory("the judge"),
        ):
            found = self._predictor.predict_single_npy_array(
                data, {"spacing": spacing}, save_or_return_probabilities=probabilities
            )
        labels, shares = found if probabilities else (found, None)
        labels = np.ascontiguousarray(np.asarray(labels).transpose(2, 1, 0))
        return labels, None if shares is None else np.asarray(shares, np.float32).transpose(0, 3, 2, 1)

    def _try_out(self) -> None:
        """Let nnU-Net prepare a few voxels with the judge's plan, so that a malformed plan is found before any work.

        Raises:
            ValueError: patches, spacing or channels do not fit the network.
        """
        settings, manager = self._predictor.configuration_manager, self._predictor.plans_manager
        patch, spacing, schemes = settings.patch_size, settings.spacing, settings.normalization_schemes
        axes = len(patch)
        if not positive_numbers(list(patch), 2, 3) or not positive_numbers(list(spacing), axes):
            raise ValueError(f"a patch of {patch} voxels of {spacing} mm")
        if len(schemes) != self.channels or len(settings.use_mask_for_norm) != self.channels:
            raise ValueError(f"{len(schemes)} normalization_schemes, but {self.channels} channels in dataset.json")
        strides = settings.network_arch_init_kwargs.get("strides", [])
        coarsest = [math.prod(np.atleast_1d(s)[i % np.size(s)] for s in strides) for i in range(axes)]
        if any(n % step for n, step in zip(patch, coarsest, strict=True)):
            raise ValueError(f"a patch of {patch} voxels, but strides of {coarsest} in all")
        _ = settings.resampling_fn_probabilities
        with _quiet(), _keep_thread_count():
            steps = [float(s) for s in ([1.0] * (3 - axes) + list(spacing))]
            data, _, _ = settings.preprocessor_class(verbose=False).run_case_npy(
                np.ones((self.channels, 6, 6, 6), np.float32) * np.arange(6, dtype=np.float32),
                None,
                {"spacing": [2 * steps[i] for i in manager.transpose_backward]},
                manager,
                settings,
                self._predictor.dataset_json,
            )
        if not np.isfinite(np.asarray(data)).all():
            raise ValueError("normalization gives numbers that are not finite")

    def _find_tumor(self, name: str) -> tuple[int, ...]:
        """Return the values of the tumor label.

        Raises:
            DataError: there is no such label.
        """
        values = named_values(self.labels, name)
        if values not in (None, 0):
            return values_of(values)
        known = ", ".join(
            f"{label} = {'+'.join(map(str, values))}" for label, values in self.labels.items() if values != (0,)
        )
        fault = Fault(
            str(results_root(self.folder) / "dataset.json"), f"labels {known}", f"a label {name!r}", OWN_JUDGE
        )
        raise DataError("The judge does not know the tumor", [fault])


def _iterations(checkpoint: Mapping[str, Any]) -> int:
    """Return the training iterations of one of nnU-Net's checkpoints; 0 if it does not tell."""
    epochs = checkpoint.get("current_epoch")
    return epochs * _ITERATIONS_PER_EPOCH if isinstance(epochs, int) and epochs > 0 else 0


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

    where = f"{folder / 'plans.json'}: configurations.{configuration}.architecture"
    with _quiet(), _explain(where, "an architecture that nnU-Net can build"):
        manager = PlansManager(plans)
        network = _build_network(where, manager, dataset, configuration)
    weights = [dict(checkpoint["network_weights"]) for checkpoint in checkpoints]
    for state in reversed(weights):  # all are checked; those of the first fold stay loaded
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            fault = Fault(str(folder), reason, "the planned network", OWN_JUDGE)
            raise StateError("The judge's weights do not fit its plan", [fault]) from error
    first = checkpoints[0]
    axes = first.get("inference_allowed_mirroring_axes")
    if axes is not None and not (isinstance(axes, (list, tuple)) and set(axes) <= {0, 1, 2}):
        fault = Fault(f"{folder}: inference_allowed_mirroring_axes", f"{axes!r}"[:100], "axes of 0, 1 and 2", REMEDY)
        raise StateError("The judge's checkpoint cannot be used", [fault])
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


def _build_network(where: str, manager: Any, dataset: dict[str, Any], configuration: str) -> torch.nn.Module:
    """Build the network that nnU-Net's plan describes.

    Args:
        where: the field of the plan, for error messages.
        manager: nnU-Net's `PlansManager`.
        dataset: content of dataset.json.
        configuration: name of the configuration.

    Raises:
        StateError: the plan names foreign classes.
    """
    import torch
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    settings = manager.get_configuration(configuration)
    kwargs, imports = settings.network_arch_init_kwargs, settings.network_arch_init_kwargs_req_import
    names = [settings.network_arch_class_name, *(kwargs[key] for key in imports if kwargs[key] is not None)]
    foreign = [str(name) for name in names if not _is_layer(str(name))]
    if foreign:
        expected = "layers of dynamic_network_architectures and torch.nn"
        fault = Fault(where, ", ".join(foreign), expected, OWN_JUDGE)
        raise StateError("The judge's network is not nnU-Net's", [fault])
    inputs = determine_num_input_channels(manager, settings, dataset)
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn before they are replaced
        network: torch.nn.Module = get_network_from_plans(
            names[0], kwargs, imports, inputs, heads, allow_init=False, deep_supervision=False
        )
    return network


def _is_layer(name: str) -> bool:
    """Tell whether `name` is a layer class of a trusted package: a plan may name no other class."""
    import pydoc

    import torch

    found = pydoc.locate(name) if name.startswith(_TRUSTED) else None
    return isinstance(found, type) and issubclass(found, torch.nn.Module)


@contextlib.contextmanager
def _explain(where: str, expected: str) -> Iterator[None]:
    """Turn what nnU-Net raises on a judge that it cannot use into one error that says where.

    nnU-Net does not check its plans, so a malformed one can raise anything.
    """
    try:
        yield
    except TumorgenError:
        raise
    except Exception as error:  # nnU-Net checks no plan: a malformed one makes its code raise anything
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise StateError("The judge cannot be used", [Fault(where, found, expected, REMEDY)]) from error


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
