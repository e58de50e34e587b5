"""What is known to be too weak about trained weights; said wherever they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tumorgen_cli.methods.base import Method
from tumorgen_cli.training.checkpoints import read_run

LEAST_TRAINED = 0.5  # of the planned steps; weights of a shorter training give a warning
_MOST_SHIFT = 0.02  # of the clip window; a larger shift of the tumors' brightness gives a warning


def find_shortfalls(method: Method, stages: Sequence[str] | None = None) -> tuple[str, ...]:
    """Describe what makes the weights of a method's finished stages too weak to rely on, a sentence each.

    That is a training shorter than half of the steps that the plan gives the stage, and an autoencoder that blurs or
    changes brightness.

    Args:
        method: The method.
        stages: Some of its stages. None: all.
    """
    found = []
    for stage in method.stages if stages is None else stages:
        if not (method.folder(stage) / "run.json").is_file():  # it is off, or part of an earlier stage
            continue
        run, planned = read_run(method.folder(stage)), method.planned_iterations(stage)
        if run.iterations < LEAST_TRAINED * planned:
            share = f"{run.iterations} of {planned} planned steps ({run.iterations / planned:.0%})"
            found.append(f"{stage} was trained for {share}: its tumors say nothing yet; train it to its end")
        found += [f"{stage} {text}" for text in _autoencoder_shortfalls(run.numbers, method.settings(stage))]
    return tuple(found)


def _autoencoder_shortfalls(numbers: Mapping[str, float], settings: object) -> list[str]:
    """What is wrong with an autoencoder, from its numbers on held-out cases; empty for other networks."""
    least, psnr, shift = getattr(settings, "least_psnr", None), numbers.get("psnr"), numbers.get("tumor_shift", 0.0)
    if least is None or psnr is None:
        return []
    on = f"on {numbers.get('cases', 0):.0f} held-out cases"
    found = []
    if psnr < least:
        found.append(f"has PSNR {psnr:.2f} dB {on}, below {least:g} dB: tumors look blurred; train it longer or wider")
    if abs(shift) > _MOST_SHIFT:
        text = f"shifts tumors by {shift:+.1%} of the clip window {on}, beyond {_MOST_SHIFT:.0%}"
        found.append(f"{text}: they look too bright or too dark; train it longer")
    return found
