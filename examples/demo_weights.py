"""Makes the weights that the stages of `tumorgen demo --quick` start from, by a longer training on other phantoms.

    python examples/demo_weights.py

Draws phantoms of the demo's kind with a seed of their own, plans them with the preset demo-quick and more iterations,
trains every stage, and writes the EMA weights (half precision) and card.json into --out. Run it again whenever the
networks of a stage change; after a kill it goes on where it was.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Optional

import torch
import typer
from safetensors.torch import load_file, save_file

from tumorgen_cli import __version__
from tumorgen_cli.data.phantom import DATASET, write_phantoms
from tumorgen_cli.pipeline.demo import METHOD, QUICK, quick_weights, weights_folder
from tumorgen_cli.pipeline.plan import plan_dataset
from tumorgen_cli.pipeline.preprocess import preprocess_dataset
from tumorgen_cli.pipeline.train import train_stages
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system import console
from tumorgen_cli.system.errors import Fault, StateError, TumorgenError
from tumorgen_cli.system.files import atomic
from tumorgen_cli.system.json_records import read_plain, write_json
from tumorgen_cli.system.locks import locked

SEED = 914_000_001  # the demo's is 0, or what a user types
CASES = 100
#: longer than in the demo, at rates for fresh weights; clip window and networks stay the preset's
LONGER = (
    "vae.iterations=2500",
    "vae.learning_rate=0.002",
    "vae.ema=0.998",
    "flow.iterations=3500",
    "flow.learning_rate=0.002",
    "flow.ema=0.998",
    "refiner.iterations=1200",
    "refiner.learning_rate=0.003",
    "refiner.ema=0.99",
)
#: left out: the field's condition and the spread of latents are measured in each workspace
LEFT_OUT = ("condition.", "vae.mean", "vae.std")
LARGEST_BYTES = 6 * 10**6


def main(
    out: Annotated[Optional[Path], typer.Option(help="Where the weights go. Default: into the package.")] = None,
    work: Annotated[Path, typer.Option(help="Where they are made.")] = Path("tumorgen_demo_weights"),
    cases: Annotated[int, typer.Option(help="Phantoms; every fifth is held out.", min=5)] = CASES,
    seed: int = SEED,
    date: Annotated[str, typer.Option(help="For the card.")] = "2026-11-30",
    note: Annotated[str, typer.Option(help="For the card: what the command does not tell.")] = "",
) -> None:
    """Trains the weights that come with the package for `tumorgen demo --quick`."""
    out = out or weights_folder()
    try:
        workspace = Workspace(work.resolve())
        train(workspace, cases, seed)
        write_weights(workspace, out)
        write_json(out / "card.json", card(workspace, out, cases, seed, date, note))
    except TumorgenError as error:
        console.show_error(error)
        raise typer.Exit(1) from None


def train(workspace: Workspace, cases: int, seed: int) -> None:
    """Draws the phantoms and trains every stage on them, as far as that is not done."""
    folder = workspace.root / "phantoms"
    done = folder / f"seed_{seed}_{cases}"
    with locked(workspace.root, "phantoms"), console.progress("writing phantoms", cases) as tick:
        if not done.is_file():
            write_phantoms(folder, cases, 0, seed, ticker=tick)
            done.touch()
    settings = tuple(f"methods.{METHOD}.{setting}" for setting in LONGER)
    plan_dataset(workspace, str(folder / DATASET), PlanOptions(preset=QUICK, settings=settings, seed=seed), "cpu")
    preprocess_dataset(workspace)
    train_stages(workspace, METHOD, "all", device="cpu")


def write_weights(workspace: Workspace, out: Path) -> None:
    """Writes the EMA weights of every trained stage in half precision.

    Raises:
        StateError: they are too large to come along.
    """
    total = 0
    for stage, shipped in quick_weights().items():
        state = load_file(workspace.run(METHOD, stage) / "weights.safetensors")
        kept = {key: value.to(torch.float16) for key, value in state.items() if not key.startswith(LEFT_OUT)}
        with atomic(out / shipped.name) as temporary:
            save_file(kept, str(temporary))
        total += (out / shipped.name).stat().st_size
    console.note(f"{total / 1e6:.1f} MB in {out}")
    if total > LARGEST_BYTES:
        expected = f"{LARGEST_BYTES / 1e6:g} MB or less"
        fault = Fault(str(out), f"{total / 1e6:.1f} MB", expected, "narrow the networks")
        raise StateError("The weights are too large", [fault])


def card(workspace: Workspace, out: Path, cases: int, seed: int, date: str, note: str) -> dict[str, Any]:
    """What the weights in `out` are, what made them, and what they reached on held-out phantoms."""
    runs = {stage: read_plain(workspace.run(METHOD, stage) / "run.json", "train it again") for stage in quick_weights()}
    splits = workspace.splits()
    return {
        "what": "first weights of the stages of `tumorgen demo --quick`: EMA weights in half precision",
        "data": f"learned from {len(splits.train)} generated phantoms alone; no patient data",
        "held_out_phantoms": len(splits.test),
        "license": "Apache-2.0, as the package",
        "use": "the demo alone: they have seen no scan of a person",
        "command": f"python examples/demo_weights.py --cases {cases} --seed {seed}",
        "preset": QUICK,
        "settings": list(LONGER),
        "seed": seed,
        "date": date,
        "note": note,
        "versions": {"tumorgen": __version__, **{name: version(name) for name in ("torch", "monai")}},
        "precision": workspace.plan().precision,
        "seconds": {stage: run["seconds"] for stage, run in runs.items()},
        "held_out": {stage: run["numbers"] for stage, run in runs.items() if run["numbers"]},
        "files": {shipped.name: _file(out / shipped.name) for shipped in quick_weights().values()},
    }


def _file(path: Path) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}


if __name__ == "__main__":
    typer.run(main)
