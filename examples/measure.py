"""Figures that no command prints, for a trained workspace.

python examples/measure.py identity SET [SET ...]       # voxels changed outside the boxes; masks inside them
python examples/measure.py reconstructions -w WORK --judge DIR   # the judge on held-out cases and on their VAE reconstructions
python examples/measure.py sizes -w WORK                # how brightness in the VAE's reconstructions depends on a patch's size
python examples/measure.py halo -w WORK                 # how far a box decoded with its halo is from the decode of the whole window
python examples/measure.py context -w WORK              # what DiffTumor draws beside what a mask leaves of the tumor, and without it
python examples/measure.py speed -w WORK --healthy DIR  # seconds a pair at 4, 10 and 50 steps: network alone, file to file
python examples/measure.py rivals -w WORK --healthy DIR # the same for sampling methods in turn
python examples/measure.py networks -w WORK             # their networks alone, untrained, and DiffTumor's in its published sizes
python examples/measure.py scoring -w WORK SET          # seconds to score a set, and for the same measures from MONAI on whole volumes
python examples/measure.py stages -w WORK               # wall time and peak memory of every command and stage
python examples/measure.py joint -w WORK                # seconds of a step of the flow alone, and with the refiner in it
python examples/measure.py live DatasetNNN_Name         # seconds of nnU-Net's iteration with and without painting (two lines of
                                                        # `tumorgen nnunet-setup` and nnUNet_preprocessed in the environment)
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from tumorgen_cli.data.volumes import read_image, read_volume
from tumorgen_cli.evaluation.cases import read_case, synthetic_cases
from tumorgen_cli.geometry import Box, Grid, cut, cut_mask, place_window, tight_box
from tumorgen_cli.judge.model import Judge
from tumorgen_cli.judge.verdict import judge_pair, predict_around
from tumorgen_cli.methods.base import Method, Request, Sampling
from tumorgen_cli.methods.difftumor import nearest_mask
from tumorgen_cli.methods.latent import autoencoder as ae
from tumorgen_cli.methods.latent.cache import find_candidates
from tumorgen_cli.methods.latent.canvas import open_canvas
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.metrics.overlap import dice
from tumorgen_cli.models.diffusion_unet import PlaneUNet
from tumorgen_cli.models.vae import DOWNSAMPLING
from tumorgen_cli.pipeline.synthesize import synthesize_pairs
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scale, unscale
from tumorgen_cli.preprocessing.windows import cut_tumor_window
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.synthesis.scan import read_scan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.synthesis.window import cut_window, lay_window
from tumorgen_cli.system.devices import find_device, usable_cores
from tumorgen_cli.training.loop import seconds_per_step
from tumorgen_cli.tumors.removal import remove_tumors

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Work = Annotated[Path, typer.Option("-w", "--work")]


@app.command()
def identity(sets: list[Path], hosts: Annotated[Path, typer.Option(help="Folder of the hosts' images.")]) -> None:
    """Counts pairs whose image differs from the host outside the box (and what was healed), or whose mask leaves it or is empty."""
    for folder in sets:
        pairs = changed = outside = empty = 0
        for record in read_provenance(folder):
            image, _ = read_image(tuple(sorted((folder / "imagesTr").glob(f"{record.case}_????.*"))))
            host, _ = read_image(tuple(hosts / name for name in record.host_file))
            label, _ = read_volume(next((folder / "labelsTr").glob(f"{record.case}.*")))
            beyond = np.ones(label.shape, bool)
            beyond[record.box.slices] = False
            outside, empty = outside + bool(label[beyond].any()), empty + (not label.any())
            if record.healed is not None:
                beyond[record.healed.slices] = False
            same = image.dtype == host.dtype and np.array_equal(image[:, beyond], host[:, beyond])
            pairs, changed = pairs + 1, changed + (not same)
        print(
            f"{folder.name}: {pairs} pairs; differ outside: {changed}; label outside the box: {outside}; empty: {empty}"
        )


@app.command()
def reconstructions(work: Work, judge: Annotated[Path, typer.Option()], device: str = "auto") -> None:
    """The judge's DSC on each held-out case (working grid) and on its reconstruction by the VAE."""
    workspace, plan, method = _trained(work, "tumorgen", device)
    model = Judge(judge, find_device(device), plan.tumor_name, plan.precision)  # type: ignore[arg-type]
    scores = []
    for case in ae.load_cases(workspace, workspace.splits().test):
        limits, keep = np.array(case.record.limits, np.float32), tuple(slice(0, n) for n in case.record.shape)
        picture = ae.reconstruct(method.vae, ae.whole_image(case, plan), plan, method.device)  # type: ignore[attr-defined]
        picture = unscale(picture, plan.channels, limits)[(slice(None), *keep)]
        grid, truth = Grid(case.record.shape, case.record.spacing_mm), np.asarray(case.tumors) > 0
        pair = [dice(model.tumor(np.asarray(image), grid), truth) for image in (case.image, picture)]
        scores.append(pair)
        print(f"{case.record.case}: scan {pair[0]:.3f}, reconstruction {pair[1]:.3f}")
    scan, picture = np.mean(scores, axis=0)
    print(f"mean: scan {scan:.3f}, reconstruction {picture:.3f}, loss {scan - picture:+.3f}")


@app.command()
def sizes(work: Work, device: str = "auto") -> None:
    """Reconstructions of patches around held-out tumors, of several sizes up to the window's: `autoencoding.tumor_errors` of each."""
    workspace, plan, method = _trained(work, "tumorgen", device)
    cases = ae.load_cases(workspace, workspace.splits().test)
    for shape in dict.fromkeys(
        tuple(min(n, side) for n in plan.window.shape) for side in (32, 48, 64, 80, 96, max(plan.window.shape))
    ):
        errors = ae.tumor_errors(method.vae, cases, plan, shape, method.device)  # type: ignore[attr-defined,arg-type]
        if errors:
            print(f"{shape}: root mean square error {errors[0]:.2%}, tumors {errors[1]:+.2%} of the clip window")


@app.command()
def halo(work: Work, device: str = "auto") -> None:
    """Held-out tumors' boxes decoded with halos of latent voxels, against the decode of the whole window: difference inside the box."""
    workspace, plan, method = _trained(work, "tumorgen", device)
    vae: ae.Codec = method.vae  # type: ignore[attr-defined]
    differences: dict[int, list[np.ndarray]] = {1: [], 2: [], 4: [], 8: []}
    for case in ae.load_cases(workspace, workspace.splits().test):
        for component in (c for c in case.record.components if c.fits):
            image, mask = cut_tumor_window(case, component, plan.channels, plan.window.shape, None)
            tumor = tight_box(mask > 0)
            if tumor is None:
                continue
            limits = np.array(case.record.limits, np.float32)
            request = Request(unscale(image, plan.channels, limits), tumor, tumor, limits, plan.window.spacing_mm)
            window = open_canvas(vae, request, plan, 1, method.device)

            def decoded(latent: torch.Tensor) -> np.ndarray:
                with ae.precise(plan.precision, method.device):
                    return vae.decode(latent)[0].float().cpu().numpy()

            whole = decoded(window.latent)[(slice(None), *tumor.slices)]
            for cells, found in differences.items():
                canvas = replace(window, region=window.latent_box.grown(cells, window.latent.shape[2:]))
                found.append(
                    (decoded(canvas.latent[canvas.cells])[(slice(None), *canvas.local(tumor).slices)] - whole) / 2
                )
    for cells, found in differences.items():
        squares = np.mean([np.mean(part**2) for part in found])
        print(
            f"halo {cells}: rms {np.sqrt(squares):.2%}, shift {np.mean([part.mean() for part in found]):+.2%} of the clip window"
        )


@app.command()
def context(work: Work, device: str = "auto") -> None:
    """Mean intensity of training tumors, of what DiffTumor draws under their masks beside the rest of the scan, and of what it draws there
    in the scan healed of its tumors: latents next to a mask have seen the tumor, too."""
    workspace, plan, method = _trained(work, "difftumor", device)
    codec: ae.Codec = method.vqgan  # type: ignore[attr-defined]
    sampling, means = method.config.sampling, []
    for number, found in enumerate(find_candidates(ae.load_cases(workspace, workspace.splits().train))):
        case, limits, shape = found.case, np.array(found.case.record.limits, np.float32), plan.window.shape
        scan, tumors = np.asarray(case.image, np.float32), np.asarray(case.tumors) > 0
        healed, _ = remove_tumors(scan, tumors, tight_box(tumors), plan.window.spacing_mm, plan.paste, number)  # type: ignore[arg-type]
        start = place_window(found.component.box, case.record.shape, shape, None)
        inside = cut_mask(case.tumors, start, shape) > 0
        mask = torch.from_numpy(nearest_mask(inside.astype(np.float32)))[None].to(method.device)
        row = [float(cut(scan, start, shape)[plan.main_channel][inside].mean())]
        for known in (scan, healed):
            window = torch.from_numpy(scale(cut(known, start, shape), plan.channels, limits))[None].to(method.device)
            with ae.precise(plan.precision, method.device):
                latent = codec.encode(window)
            drawn = method._sample(latent, mask, number, sampling.steps, sampling.solver)  # type: ignore[attr-defined]
            with ae.precise(plan.precision, method.device):
                picture = codec.decode(drawn)[0].float().cpu().numpy()
            row.append(float(unscale(picture, plan.channels, limits)[plan.main_channel][inside].mean()))
        means.append(row)
        print(
            f"{found.name}: real {row[0]:.3g}, drawn beside its rest {row[1]:.3g}, drawn in the healed scan {row[2]:.3g}",
            flush=True,
        )
    real, beside, alone = np.median(means, axis=0)
    print(
        f"median of {len(means)}: real {real:.3g}, drawn beside its rest {beside:.3g}, drawn in the healed scan {alone:.3g}"
    )


@app.command()
def speed(work: Work, healthy: Annotated[Path, typer.Option()], repeats: int = 5, device: str = "auto") -> None:
    """Seconds a pair: the method on a window in memory (median), the same decoding the whole window, file to file (mean)."""
    workspace, plan, method = _trained(work, "tumorgen", device)
    request = _middle(plan, healthy)
    _, _, whole = _trained(work, "tumorgen", device)
    sampling = replace(whole.config.sampling, halo=max(request.image.shape))  # type: ignore[attr-defined]
    whole.config = replace(whole.config, sampling=sampling)  # type: ignore[attr-defined]
    for steps in (4, 10, 50):
        seconds = {}
        for name, each in (("method", method), ("plain", whole)):
            times = []
            for seed in range(repeats + 1):
                begun = time.perf_counter()
                each.synthesize(request, seed, Sampling(steps))
                times.append(time.perf_counter() - begun)
            seconds[name] = float(np.median(times[1:]))
        with tempfile.TemporaryDirectory() as folder:
            wanted = SetOptions(repeats, Path(folder) / "set")
            made = synthesize_pairs(workspace, "tumorgen", wanted, HostOptions(healthy), Sampling(steps))
        print(
            f"{steps} steps: method {seconds['method']:.3f} s (decoding the whole window {seconds['plain']:.3f} s), "
            f"file to file {made.tally.seconds_per_pair:.3f} s, {torch.get_num_threads()} threads"
        )


@app.command()
def joint(work: Work, steps: int = 4, device: str = "auto") -> None:
    """Seconds of a step of TumorGen's flow alone, and with the refiner trained in the same step as in the paper; nothing is written."""
    workspace = Workspace(work)
    plan, where = workspace.plan(), find_device(device).type  # type: ignore[arg-type]
    section = plan.methods["tumorgen"]
    for together in (False, True):
        switched = {**section, "refiner": {**section["refiner"], "joint": together}}
        method = find_method("tumorgen")(
            replace(plan, methods={**plan.methods, "tumorgen": switched}), workspace, where
        )
        seconds = seconds_per_step(method.stage("flow", steps), where, plan.precision)
        print(
            f"{'with the refiner' if together else 'the flow alone'}: {seconds:.2f} s a step, {torch.get_num_threads()} threads"
        )


@app.command()
def rivals(
    work: Work,
    healthy: Annotated[Path, typer.Option()],
    methods: str = "tumorgen,difftumor,blended",
    repeats: int = 5,
    device: str = "auto",
) -> None:
    """Seconds a pair of sampling methods in turn, second draws included: network alone, method on a window (medians), file to file (mean)."""
    request = _middle(Workspace(work).plan(), healthy)
    rows = []
    for name in methods.split(","):
        workspace, _, method = _trained(work, name, device)
        clock = _Clock(method.net)  # type: ignore[attr-defined]
        rows += [(name, steps, method, clock) for steps in (4, 10, 50)]
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {(name, steps): [] for name, steps, _, _ in rows}
    for seed in range(repeats + 1):
        for name, steps, method, clock in rows:
            clock.seconds, begun = 0.0, time.perf_counter()
            method.synthesize(request, seed, Sampling(steps))
            seconds[name, steps].append((clock.seconds, time.perf_counter() - begun))
    reference = (
        float(np.median([network for network, _ in seconds["tumorgen", 10][1:]]))
        if ("tumorgen", 10) in seconds
        else float("nan")
    )
    for name, steps, _, _ in rows:
        network, whole = (float(np.median(column)) for column in zip(*seconds[name, steps][1:], strict=True))
        with tempfile.TemporaryDirectory() as folder:
            wanted = SetOptions(repeats, Path(folder) / "set")
            made = synthesize_pairs(workspace, name, wanted, HostOptions(healthy), Sampling(steps))
        print(
            f"{name}, {steps} steps: network {network:.3f} s ({network / reference:.1f} × TumorGen's 10 steps), method {whole:.3f} s, "
            f"file to file {made.tally.seconds_per_pair:.3f} s, {torch.get_num_threads()} threads"
        )


@app.command()
def networks(work: Work, repeats: int = 7, device: str = "auto") -> None:
    """Seconds of the samplers' networks alone, untrained and in turn: TumorGen's, and DiffTumor's as planned and with its published sizes."""
    plan, where = Workspace(work).plan(), find_device(device)  # type: ignore[arg-type]
    flow_net, ddpm = find_method("tumorgen")(plan, Workspace(work)), find_method("difftumor")(plan, Workspace(work))
    latent, config = ddpm.config.vqgan.latent_channels, ddpm.config.ddpm  # type: ignore[attr-defined]
    planned, wide, published = config.widths, (48, 96, 192), (8, 32)
    sizes = {
        "as planned": (planned, config.heads),
        "with 8 heads of 32": (planned, published),
        "and widths to 192": (wide, published),
    }
    rows = [("tumorgen, 10 steps", 10, flow_net.net)]  # type: ignore[attr-defined]
    rows += [
        (f"difftumor {name}, 50 steps", 50, PlaneUNet(2 * latent + 1, latent, *size)) for name, size in sizes.items()
    ]
    seconds: dict[str, list[float]] = {name: [] for name, _, _ in rows}
    clocks = {name: _Clock(net.to(where).eval()) for name, _, net in rows}
    for _ in range(repeats + 1):
        for name, steps, net in rows:
            clock = clocks[name]
            channels = next(module.in_channels for module in net.modules() if isinstance(module, torch.nn.Conv3d))
            x = torch.randn(1, channels, *(n // DOWNSAMPLING for n in plan.window.shape), device=where)
            time_in = torch.ones(1, device=where)
            clock.seconds = 0.0
            with ae.precise(plan.precision, where.type):
                for _ in range(steps):
                    net(x, time_in)
            seconds[name].append(clock.seconds)
    reference = float(np.median(seconds[rows[0][0]][1:]))
    for name, values in seconds.items():
        median = float(np.median(values[1:]))
        print(f"{name}: {median:.3f} s, {median / reference:.1f} times TumorGen's, {torch.get_num_threads()} threads")


def _trained(work: Path, name: str, device: str) -> tuple[Workspace, Plan, Method]:
    """A workspace, its plan, and one of its trained methods, loaded."""
    workspace = Workspace(work)
    plan = workspace.plan()
    method = find_method(name)(plan, workspace, find_device(device).type)  # type: ignore[arg-type]
    method.load()
    return workspace, plan, method


class _Clock:
    """Adds up the seconds spent in a network."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.seconds = self._begun = 0.0
        net.register_forward_pre_hook(lambda *_: self._start())
        net.register_forward_hook(lambda *_: self._stop())

    def _start(self) -> None:
        self._wait()
        self._begun = time.perf_counter()

    def _stop(self) -> None:
        self._wait()
        self.seconds += time.perf_counter() - self._begun

    @staticmethod
    def _wait() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def _middle(plan: Plan, healthy: Path) -> Request:
    """A request in the middle of the first host, with a box of 0.4 windows, as if a user had given it."""
    path = sorted(healthy.glob(f"*_0000{plan.file_ending}"))[0]
    scan = read_scan(path.name, (path,), None, plan)
    size = [int(0.4 * e / s) for e, s in zip(plan.window.extent_mm, scan.grid.spacing_mm, strict=True)]
    start = [(n - m) // 2 for n, m in zip(scan.grid.shape, size, strict=True)]
    box = Box(tuple(start), tuple(a + m for a, m in zip(start, size, strict=True)))  # type: ignore[arg-type]
    return cut_window(scan, lay_window(scan, box, plan), None)


@app.command()
def scoring(
    set_folder: Path, work: Work, judge: Annotated[Path, typer.Option()], repeats: int = 3, device: str = "auto"
) -> None:
    """Dice and surface Dice of a set whose predictions are there: ours (the box and its margin) and MONAI on whole volumes, in turn."""
    from monai.metrics import DiceMetric
    from monai.metrics.surface_dice import compute_surface_dice

    workspace = Workspace(work)
    plan = workspace.plan()
    model = Judge(judge, find_device(device), plan.tumor_name, plan.precision)  # type: ignore[arg-type]
    pairs = []
    for files in synthetic_cases(plan, set_folder):
        image, grid, tumor, others = read_case(plan, files)
        pairs.append((tumor, others, predict_around(model, image, grid, files.box), files.box, grid))  # type: ignore[arg-type]

    def ours() -> list[tuple[float, float]]:
        return [(v.dice, v.surface_dice) for v in (judge_pair(*pair, plan.tolerance_mm) for pair in pairs)]

    def plain() -> list[tuple[float, float]]:
        scores = []
        for tumor, others, found, _, grid in pairs:
            a, b = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (tumor, found & ~others))
            nsd = compute_surface_dice(
                a, b, [plan.tolerance_mm], include_background=True, spacing=grid.spacing_mm, use_subvoxels=True
            )
            scores.append((float(DiceMetric()(a, b)), float(nsd)))
        return scores

    ours(), plain()
    seconds: dict[str, list[float]] = {"ours": [], "MONAI on whole volumes": []}
    for _ in range(repeats):
        for name, score in zip(seconds, (ours, plain), strict=True):
            begun = time.perf_counter()
            score()
            seconds[name].append(time.perf_counter() - begun)
    a, b = (float(np.median(times)) for times in seconds.values())
    print(
        f"{len(pairs)} pairs: "
        + ", ".join(f"{name} {np.median(times):.2f} s" for name, times in seconds.items())
        + f", {b / a:.1f} times"
    )


@app.command()
def stages(work: Work) -> None:
    """What `commands.jsonl` and the runs recorded."""
    for line in (work / "commands.jsonl").read_text().splitlines():
        print(line)
    for path in sorted(work.glob("runs/*/*/run.json")):
        run = json.loads(path.read_text())
        print(
            f"{path.parent.name}: {run['iterations']} iterations, {run['seconds']:.0f} s, {run['peak_memory_gib']} GiB, {run['numbers']}"
        )


@app.command()
def live(
    dataset: str,
    configuration: str = "3d_fullres",
    fold: str = "0",
    plans: str = "nnUNetPlans",
    rounds: int = 3,
    iterations: int = 40,
    warmup: int = 20,
    device: str = "cpu",
) -> None:
    """Seconds of an iteration of nnU-Net's own trainer and of one that paints, in turn on the same data; the painter stands still
    while the former trains. The first iterations of a block, whose batches were made before it began, are not counted."""
    torch.set_num_threads(usable_cores() if device == "cpu" else 1)  # as nnU-Net's own command does
    base = Path(os.environ["nnUNet_preprocessed"]) / dataset
    with tempfile.TemporaryDirectory() as folder:
        os.environ["nnUNet_results"] = folder
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        from tumorgen_cli.nnunet.on_the_fly.settings import PROGRESS
        from tumorgen_cli.nnunet.on_the_fly.trainer import PaintingMixin

        class Painted(PaintingMixin, nnUNetTrainer):  # type: ignore[misc]
            pass

        trainers = {}
        for name, kind in (("plain", nnUNetTrainer), ("painted", Painted)):
            planned = {**json.loads((base / f"{plans}.json").read_text()), "continue_training": False}
            described = json.loads((base / "dataset.json").read_text())
            trainers[name] = kind(
                planned, configuration, int(fold) if fold.isdecimal() else fold, described, torch.device(device)
            )
            trainers[name].on_train_start()
            trainers[name].network.train()
        painter, progress = trainers["painted"].painter.child, trainers["painted"].painter.folder / PROGRESS
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        busy = spent = 0.0
        try:
            for name, trainer in [*trainers.items()] * rounds:
                os.killpg(painter.pid, signal.SIGCONT if name == "painted" else signal.SIGSTOP)
                block, before = time.perf_counter(), json.loads(progress.read_text())["busy_seconds"]
                for number in range(warmup + iterations):
                    if number == warmup:
                        begun = time.perf_counter()
                    trainer.train_step(next(trainer.dataloader_train))
                seconds[name].append((time.perf_counter() - begun) / iterations)
                if name == "painted":
                    busy += json.loads(progress.read_text())["busy_seconds"] - before
                    spent += time.perf_counter() - block
        finally:
            os.killpg(painter.pid, signal.SIGCONT)  # else it would never see this process end
        for trainer in trainers.values():
            trainer.disable_checkpointing = True
            trainer.on_train_end()
        plain, painted = (float(np.median(times)) for times in seconds.values())
        print(
            f"{iterations} iterations, {rounds} times in turn: plain {plain:.4f} s, painted {painted:.4f} s an iteration (medians), "
            f"{painted / plain - 1:+.1%}; the painter was busy {busy / spent:.0%} of the time"
        )


if __name__ == "__main__":
    app()
