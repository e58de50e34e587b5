"""The demo: phantoms, and the whole pipeline on them under a preset made for two CPU cores."""

from __future__ import annotations

from tumorgen_cli import console
from tumorgen_cli.devices import DeviceName
from tumorgen_cli.files import locked
from tumorgen_cli.phantom import write_phantoms
from tumorgen_cli.pipeline import RunReport, run_all
from tumorgen_cli.workspace import Workspace


def run_demo(workspace: Workspace, quick: bool, device: DeviceName, seed: int) -> RunReport:
    """Writes the phantoms into the workspace (the same seed, the same files) and runs `run` on them."""
    console.headline("phantoms")
    cases, healthy = (10, 2) if quick else (20, 4)
    places_root = workspace.root / "phantoms"
    done = places_root / f"seed_{seed}_{cases}"
    with locked(workspace.root, "demo"), console.progress("writing phantoms", cases + healthy) as tick:
        if not done.is_file():
            write_phantoms(places_root, cases, healthy, seed, small=quick, ticker=tick)
            done.touch()
    dataset, hosts = places_root / "Dataset999_PhantomPET", places_root / "healthy"
    return run_all(workspace, str(dataset), hosts, 8 if quick else 16, preset="demo-quick" if quick else "demo", device=device, seed=seed)
