"""Rows of segmentors on test scans, without any segmentor."""

from tumorgen_cli.evaluation.scan_scores import ScanScore
from tumorgen_cli.metrics.lesions import FalsePositive, LesionScore


def lesion(mm=8.0, score=0.9, dsc=0.5):
    """A lesion that was found with a score, or missed (score None)."""
    return LesionScore(mm, score is not None, score is not None, score, 0.0 if score is None else dsc)


def row(scan, arm="real", subset=0, seed=0, dsc=0.5, lesions=(), spurious=(), **other):
    """A row; `spurious` are the scores of the false positives, other fields by name."""
    values = {
        "cases": 8,
        "hosts": None,
        "painting": 0,
        "patient": scan,
        "healthy": dsc is None,
        "nsd": dsc,
        "iterations": 1000,
        "plateau_iterations": None,
    } | other
    false_positives = tuple(FalsePositive(5.0, score) for score in spurious)
    return ScanScore(
        arm=arm,
        subset=subset,
        seed=seed,
        scan=scan,
        dsc=dsc,
        lesions=tuple(lesions),
        false_positives=false_positives,
        **values,
    )
