"""The demo: generated phantoms, and all stages on them.

The quick demo trains each stage for seconds only, so each starts from weights in `demo_weights/`, which
`examples/demo_weights.py` made from other phantoms.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from tumorgen_cli.data.phantom import DATASETS, PhantomOptions, Phantoms, write_phantoms
from tumorgen_cli.data.phantom.options import Modality, check_phantoms
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline.plan import check_owner
from tumorgen_cli.pipeline.run import RunReport, run_all
from tumorgen_cli.pipeline.train import StageOptions
from tumorgen_cli.planning.options import PlanOptions
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.system import console
from tumorgen_cli.system.claims import claim_folder
from tumorgen_cli.system.devices import DeviceName
from tumorgen_cli.system.errors import Fault, PlanError
from tumorgen_cli.system.locks import locked

METHOD = "tumorgen"
QUICK = "demo-quick"  # the preset whose networks the weights fit
_PRESETS: dict[Modality, str] = {"pet": "demo", "ct": "demo-ct"}


def run_demo(workspace: Workspace, phantoms: PhantomOptions, quick: bool, device: DeviceName, seed: int) -> RunReport:
    """Write phantoms into the workspace and run all stages on them. The same seed gives the same phantoms.

    Tumors are painted where the phantoms have room for them.

    Raises:
        PlanError: phantoms that cannot be drawn, or the quick demo for CT.
        StateError: the workspace belongs to another data set, or its folder of phantoms holds other files.
    """
    places = write_demo_phantoms(workspace, phantoms, quick, seed)
    if quick and not all((workspace.run(METHOD, stage) / "run.json").is_file() for stage in find_method(METHOD).stages):
        console.note("each stage starts from weights in the package, learned from other phantoms")
    if phantoms.modality == "ct":
        console.note("training is short: expect blurred nodules; the phantoms' pairs say nothing about patients")
    return run_all(
        workspace,
        str(places.dataset),
        HostOptions(places.healthy, roi=places.regions),
        SetOptions(8 if quick else 16, workspace.synthetic(f"{METHOD}_healthy"), seed),
        PlanOptions(preset=QUICK if quick else _PRESETS[phantoms.modality], seed=seed),
        device=device,
        training=StageOptions(quick_weights() if quick else {}),
    )


def write_demo_phantoms(workspace: Workspace, phantoms: PhantomOptions, quick: bool, seed: int) -> Phantoms:
    """Write the phantoms of a demo into the workspace, unless they are there.

    Raises:
        PlanError: phantoms that cannot be drawn, or the quick demo for CT.
        StateError: the workspace belongs to another data set, or its folder of phantoms holds other files.
    """
    check_phantoms(phantoms)
    if quick and phantoms.modality != "pet":
        expected = "pet: weights in the package fit it only"
        fault = Fault("--quick", f"--modality {phantoms.modality}", expected, "leave it out")
        raise PlanError("No quick demo", [fault])
    cases, healthy = (10, 2) if quick else (20, 4)
    cases = phantoms.cases if phantoms.cases is not None else cases
    healthy = phantoms.healthy if phantoms.healthy is not None else healthy
    console.headline("phantoms")
    root = workspace.root / "phantoms"
    places = Phantoms(root / DATASETS[phantoms.modality], root / "healthy", root / "regions")
    check_owner(workspace, places.dataset.absolute())
    crop = "" if phantoms.crop_mm is None else f"_{phantoms.crop_mm:g}mm"
    done = root / f"seed_{seed}_{phantoms.modality}_{cases}_{healthy}{crop}"
    with locked(workspace.root, "demo"), console.progress("writing phantoms", cases + healthy) as tick:
        claim_folder(root, "phantoms.json", {"command": "demo"}, lambda: True)
        if not done.is_file():
            for other in root.glob("seed_*"):  # phantoms of another seed or number, which are replaced
                other.unlink()
            write_phantoms(
                root, cases, healthy, seed, ticker=tick, modality=phantoms.modality, crop_mm=phantoms.crop_mm
            )
            done.touch()
    return places


def weights_folder() -> Path:
    """Where the first weights of the quick demo are; card.json there says what made them."""
    return Path(str(resources.files("tumorgen_cli.pipeline"))) / "demo_weights"


def quick_weights() -> dict[str, Path]:
    """The file that each stage of the quick demo starts from, by stage."""
    return {stage: weights_folder() / f"{stage}.safetensors" for stage in find_method(METHOD).stages}
