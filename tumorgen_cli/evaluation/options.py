"""Options of scoring that travel together. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

#: feature networks of the distances, the default first
FeatureName = Literal["lite0", "filters", "inception"]
FEATURES: tuple[str, ...] = get_args(FeatureName)
#: what each network is
FEATURE_WORDS: dict[str, str] = {
    "lite0": "lite0: EfficientNet-Lite0, trained on photographs (ImageNet); not the FID",
    "filters": "filters: 66 hand-made texture statistics; not the FID",
    "inception": "inception: the standard network of the FID",
}


@dataclass(frozen=True)
class ScoreOptions:
    """What pairs are scored with.

    Attributes:
        judge: nnU-Net results folder, or `bundled`. None: the workspace's judge, else the bundled one if it knows such
            scans.
        features: Feature network of the distances between slices; only `inception` gives the FID.
        inception: File with the standard weights of the FID. None: they are downloaded.
    """

    judge: Path | None = None
    features: FeatureName = "lite0"
    inception: Path | None = None
