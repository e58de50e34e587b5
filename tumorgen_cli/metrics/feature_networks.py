"""Feature networks: images in, one vector each out, for the distances in `slice_distances`.

`hand_made` needs nothing. `lite0` needs two small packages that bring their weights. `inception` needs the standard FID
weights, downloaded once or given as a file. Only distances in `inception`'s features may be called FID. Reads weights;
writes torch's download cache only.
"""

from __future__ import annotations

import math
import urllib.error
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import hash_value

if TYPE_CHECKING:
    import torch


#: (N, H, W) slices in [0, 1] -> (N, D) features
Features = Callable[[np.ndarray], np.ndarray]
_INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
_RELEASE = "https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights"
_BATCH = 16
_SIGMAS = (0.7, 1.5, 3.0)  # pixels
_ANGLES = np.arange(4) * math.pi / 4
_PERCENTILES = (5, 25, 50, 75, 95, 99)
_FLOOR = 1e-3  # in the [0, 1] range: fainter structure counts as constant


@dataclass(frozen=True)
class Network:
    """A feature network.

    Attributes:
        name: Its name in tables and files.
        is_fid: Whether a Fréchet distance in its features may be called FID.
        hash: Changes with the weights and with the preprocessing.
        features: Maps slices (N, H, W) in [0, 1] to features (N, D).
    """

    name: str
    is_fid: bool
    hash: str
    features: Features


def hand_made() -> Network:
    """Return `filters` as a network: 66 texture statistics; nothing is learned and nothing is loaded."""
    return Network("filters", False, hash_value(["filters", _SIGMAS, _ANGLES, _PERCENTILES, _FLOOR]), filters)


def inception(device: torch.device, weights: Path | None) -> Network:
    """Return the FID network: 2,048 pooled features of TensorFlow's Inception of 2015-12-05.

    Slices are rounded to 8 bits, repeated to three channels and resized to 299 × 299 as TensorFlow 1 did, by
    torch-fidelity. The checksum of the weights is checked in every case.

    Args:
        device: Where the network runs.
        weights: The standard file, under either of its names (pt_inception- or
            weights-inception-2015-12-05-6726825d.pth). None: the file in torch's download cache; it is downloaded first
            where it is missing.

    Raises:
        StateError: torch-fidelity is missing, the file cannot be downloaded, or it is another file.

    Source: Heusel et al. 2017; torch-fidelity, feature-extractor "inception-v3-compat", layer "2048".
    """
    import torch

    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except ImportError as error:
        raise _missing_package("torch-fidelity", "tumorgen[fid]", error) from error
    path = weights or Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[-1]
    if weights is None and not path.is_file():
        _download(URL_INCEPTION_V3, path)
    _check_file(path)
    # torch-fidelity unpickles any object: a file that holds more than tensors is refused here
    torch.load(path, map_location="cpu", weights_only=True)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)).to(
        device
    )

    def forward(images: torch.Tensor) -> torch.Tensor:
        gray = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        return network(gray[:, None].expand(-1, 3, -1, -1))[0]

    preparation = "8 bits, gray as RGB, TensorFlow 1 bilinear to 299"
    return Network(
        "inception", True, hash_value(["inception", _INCEPTION_SHA256, preparation]), _batched(forward, device)
    )


def lite0(device: torch.device) -> Network:
    """Return EfficientNet-Lite0, trained on ImageNet: pooled features of its last layer (1,280). No download; not FID.

    Slices are repeated to three channels, resized to 224 × 224 (bicubic) and scaled as in its training.

    Raises:
        StateError: A package is missing, or its weights are not the expected ones.
    """
    from tumorgen_cli.models.efficientnet import SHA256, lite0_input, lite0_model

    model = lite0_model().to(device)

    def forward(images: torch.Tensor) -> torch.Tensor:
        return model.extract_features(lite0_input(images)).mean(dim=(2, 3))

    preparation = "gray as RGB, bicubic to 224, (255 x - 127) / 128, last layer"
    return Network("lite0", False, hash_value(["lite0", SHA256, preparation]), _batched(forward, device))


def filters(images: np.ndarray) -> np.ndarray:
    """Compute texture statistics (N, 66) of slices (N, H, W) in [0, 1] with Gaussian derivatives at three scales.

    Per scale: mean and spread of the first and second derivatives along four directions and of the Laplacian (all as
    logarithms, so that a factor counts the same at every strength), and of the blurred image. Then percentiles of the
    image. Directions are combinations of separable filters, so that further directions cost little.

    Source: Freeman and Adelson 1991, steerable filters. Deviation: these features are hand-made, not learned.
    """
    images = images.astype(np.float64, copy=False)
    parts = [np.percentile(images, _PERCENTILES, axis=(1, 2)).T]
    for sigma in _SIGMAS:
        parts += _responses(images, sigma)
    return np.concatenate(parts, axis=1)


def _responses(images: np.ndarray, sigma: float) -> list[np.ndarray]:
    def derivative(rows: int, columns: int) -> np.ndarray:
        # times sigma per order: responses of all scales become comparable
        smooth = ndimage.gaussian_filter(images, (0, sigma, sigma), order=(0, rows, columns), mode="reflect")
        return np.asarray(smooth * sigma ** (rows + columns))

    blurred, r, c = derivative(0, 0), derivative(1, 0), derivative(0, 1)
    rr, cc, rc = derivative(2, 0), derivative(0, 2), derivative(1, 1)
    steered = [math.cos(t) * c + math.sin(t) * r for t in _ANGLES]
    steered += [math.cos(t) ** 2 * cc + 2 * math.cos(t) * math.sin(t) * rc + math.sin(t) ** 2 * rr for t in _ANGLES]
    return [_strength(response) for response in (*steered, rr + cc)] + [_mean_and_spread(blurred)]


def _strength(response: np.ndarray) -> np.ndarray:
    return np.log(np.stack([np.abs(response).mean(axis=(1, 2)), response.std(axis=(1, 2))], axis=1) + _FLOOR)


def _mean_and_spread(images: np.ndarray) -> np.ndarray:
    return np.stack([images.mean(axis=(1, 2)), images.std(axis=(1, 2))], axis=1)


def _batched(forward: Callable[[torch.Tensor], torch.Tensor], device: torch.device) -> Features:
    """Return `forward` for arrays of any length: in batches on `device`, without gradients, with (N, D) float32 out."""

    def features(images: np.ndarray) -> np.ndarray:
        import torch

        if images.ndim != 3 or not len(images):
            raise ValueError(f"images of shape {images.shape}, expected (N, H, W) and at least one image")
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), _BATCH):
                batch = np.ascontiguousarray(images[start : start + _BATCH], np.float32)
                found.append(forward(torch.from_numpy(batch).to(device)).float().cpu().numpy())
        return np.concatenate(found)

    return features


def _download(url: str, path: Path) -> None:
    import torch

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=_INCEPTION_SHA256, progress=False)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        remedy = (
            f"download the file from {_RELEASE} on a machine with a network and give its path, "
            "or use lite0 (which is not FID)"
        )
        raise StateError("The FID weights cannot be downloaded", [Fault(url, str(error), str(path), remedy)]) from error


def _check_file(path: Path) -> None:
    """Check that a file holds the FID weights.

    Raises:
        StateError: The file is missing or has another content.
    """
    found = hash_file(path) if path.is_file() else "no such file"
    if found != _INCEPTION_SHA256[:16]:
        remedy = f"download it again; the FID weights are at {_RELEASE}"
        raise StateError(
            "The FID weights cannot be used",
            [Fault(str(path), found, f"a file of SHA-256 {_INCEPTION_SHA256[:16]}…", remedy)],
        )


def _missing_package(name: str, install: str, error: ImportError) -> StateError:
    fault = Fault("features", str(error), f"the package {name}", f"pip install '{install}'")
    return StateError("A package is missing", [fault])
