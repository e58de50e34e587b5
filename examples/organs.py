"""Can one tell the organ of an early tumor from the tumor alone, as in DiffTumor's Figure 2?

    python examples/organs.py -w WORK
    python examples/organs.py -w WORK --below 20 --families intensity,texture,shape

The data set has labels of several organs beside the tumor's, and is planned. Each real tumor below a diameter is
described by the features of the reader test; its organ is the most frequent one in the shell around it. Three kinds of
classifiers name the organ of held-out tumors. The table has their precision and recall, averaged over organs, with the
standard deviation over ten divisions of the patients, and what chance gives. Where they are near chance, tumors of one
organ may serve for another.

Differences from the paper: features are this project's, in place of PyRadiomics' 91, without the surroundings, which
show the organ. Networks and readers are left out: the paper's readers see crops, for which there is no command.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import typer
from origin import origin_and_command
from sklearn.ensemble import AdaBoostClassifier, RandomForestClassifier
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.impute import SimpleImputer
from sklearn.metrics import precision_score, recall_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from tumorgen_cli.data.labels import organ_labels
from tumorgen_cli.data.subsets import find_tumor_organs
from tumorgen_cli.evaluation.cases import TumorCase, Volumes, read_tumor, real_tumors
from tumorgen_cli.evaluation.measure import cache_folder, measure_case
from tumorgen_cli.geometry import ball_radius_mm
from tumorgen_cli.metrics.radiomics import Family, lesion_features
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console

FAMILIES = "intensity,texture,shape"
CLASSIFIERS: dict[str, Callable[[int], Any]] = {
    "SVM": lambda seed: SVC(class_weight="balanced", random_state=seed),
    "random forest": lambda seed: RandomForestClassifier(class_weight="balanced", random_state=seed),
    "AdaBoost": lambda seed: AdaBoostClassifier(random_state=seed),
}
FOLDS, REPEATS = 5, 10


@dataclass(frozen=True)
class Tumors:
    """Tumors to tell apart.

    Attributes:
        features: (N, F), nan where a feature is undefined.
        organs: the organ of each, (N,).
        patients: the case of each, (N,).
    """

    features: np.ndarray
    organs: np.ndarray
    patients: np.ndarray


def find_organ(plan: Plan, files: TumorCase, volumes: Volumes) -> str:
    """The name of the organ that one tumor lies in; empty if there is none around it."""
    organs = organ_labels(plan.labels, plan.tumor_label)
    tumor, others, grid = read_tumor(plan, files, volumes)
    labels, _ = volumes.labels
    own = int(labels.max()) + 1  # a value that no organ has
    alone = np.where(tumor, own, np.where(others, 0, labels))
    (found,) = find_tumor_organs(alone, own, tuple(organs.values()), grid.spacing_mm)
    return next((name for name, value in organs.items() if value == found), "")


def measure_tumors(workspace: Workspace, below_mm: float, families: Sequence[str]) -> Tumors:
    """Measure the real tumors of a workspace whose ball of equal volume has a smaller diameter."""
    plan = workspace.plan()
    listed = lesion_features([channel.name for channel in plan.channels])
    chosen = [number for number, feature in enumerate(listed) if feature.family in families]
    cases, rows = real_tumors(plan, workspace.fingerprint(), workspace.splits()), []
    cache = cache_folder(workspace.evaluation("any"))
    with console.progress("measuring", len(cases)) as tick:
        for number, files in enumerate(cases, 1):
            volumes = Volumes(files)
            found = measure_case(plan, files, cache, volumes)
            diameter = 2 * ball_radius_mm(1, (1.0, 1.0, 1000 * found.statistics.volume_ml)) if found.statistics else 0
            if 0 < diameter < below_mm and (organ := find_organ(plan, files, volumes)):
                rows.append((found.lesion[chosen], organ, files.scan))
            tick(number, files.case)
    features, organs, patients = zip(*rows, strict=True) if rows else ((), (), ())
    return Tumors(np.array(features), np.array(organs), np.array(patients))


def classify(tumors: Tumors, make: Callable[[int], Any], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of a classifier of held-out tumors, averaged over organs; of each division (R,)."""
    scores = []
    for repeat in range(REPEATS):
        named = np.empty_like(tumors.organs)
        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed + repeat)
        for train, test in splitter.split(tumors.features, tumors.organs, tumors.patients):
            model = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), make(seed + repeat))
            named[test] = model.fit(tumors.features[train], tumors.organs[train]).predict(tumors.features[test])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UndefinedMetricWarning)  # an organ that is never named has precision 0
            scores.append([score(tumors.organs, named, average="macro") for score in (precision_score, recall_score)])
    precision, recall = np.array(scores).T
    return precision, recall


def check(tumors: Tumors, below_mm: float) -> None:
    """Refuse what cannot be divided.

    Raises:
        typer.BadParameter: Fewer than two organs have tumors in as many patients as there are folds.
    """
    patients = {organ: len({*tumors.patients[tumors.organs == organ]}) for organ in sorted({*tumors.organs})}
    if sum(count >= FOLDS for count in patients.values()) < 2:
        told = ", ".join(f"{organ} {count}" for organ, count in patients.items()) or "none"
        expected = f"two organs or more with such tumors in {FOLDS} patients; patients now: {told}"
        raise typer.BadParameter(f"tumors under {below_mm:g} mm: {expected}", param_hint="--below")


def main(
    work: Annotated[Path, typer.Option("-w", "--work", help="A planned workspace of a data set with organ labels.")],
    below: Annotated[float, typer.Option(help="Only tumors of a smaller diameter, mm.")] = 20.0,
    families: Annotated[str, typer.Option(help=f"Features: {', '.join(get_args(Family))}.")] = FAMILIES,
    seed: Annotated[int, typer.Option(help="Seed of the divisions and classifiers.")] = 0,
) -> None:
    """Print how well classifiers name the organ of a tumor."""
    wanted = [name.strip() for name in families.split(",")]
    if unknown := {*wanted} - {*get_args(Family)}:
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: not among {', '.join(get_args(Family))}")
    tumors = measure_tumors(Workspace(work.resolve()), below, wanted)
    check(tumors, below)
    kept = [organ for organ in {*tumors.organs} if len({*tumors.patients[tumors.organs == organ]}) >= FOLDS]
    enough = np.isin(tumors.organs, kept)
    tumors = Tumors(tumors.features[enough], tumors.organs[enough], tumors.patients[enough])
    rows = []
    for name, make in CLASSIFIERS.items():
        precision, recall = classify(tumors, make, seed)
        rows.append((name, *(f"{100 * part.mean():.1f} ± {100 * part.std():.1f}" for part in (precision, recall))))
    rows.append(("chance", *[f"{100 / len(kept):.1f}"] * 2))
    counts = ", ".join(f"{organ} {count}" for organ, count in sorted(Counter(tumors.organs.tolist()).items()))
    console.table(f"Tumors under {below:g} mm: {counts}", ("classifier", "precision, %", "recall, %"), rows)
    print(origin_and_command())


if __name__ == "__main__":
    typer.run(main)
