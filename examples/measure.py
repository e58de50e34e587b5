"""Measure what no command prints, on a trained workspace. Each command first prints the date, commit and machine.

    python examples/measure.py COMMAND --help

- identity SET [SET ...] --hosts DIR: voxels that changed outside the boxes, and masks that leave them
- reconstructions -w WORK --judge DIR: the judge on held-out cases and on their reconstructions by the VAE
- sizes -w WORK: how the brightness of the VAE's reconstructions depends on the size of a patch
- halo -w WORK: the difference between a box decoded with a halo and the decoded whole window
- traits -w WORK: what held-out tumors, the VAE's pictures of them and draws in their boxes are like
- context -w WORK: what DiffTumor draws beside the visible rest of a tumor, and in the scan without the tumor
- speed -w WORK --healthy DIR: seconds a pair at 4, 10 and 50 steps
- rivals -w WORK --healthy DIR: the same for several sampling methods
- networks -w WORK: seconds of the methods' networks, and of DiffTumor's network in its published size
- scoring SET -w WORK --judge DIR: seconds to score a set, and for the same measures from MONAI on whole volumes
- files: processor seconds to read a scan and to write a pair of it, in slabs and in one stream
- pairs -w WORK: seconds of each step of a pair; pairs one by one and with threads
- stages -w WORK: wall time and peak memory of every command and stage
- joint -w WORK: seconds of a training step of the flow, and of the flow together with the refiner
"""

from __future__ import annotations

import gzip
import itertools
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import torch
import typer
from isal import igzip
from origin import origin_and_command

from tumorgen_cli.data.slabs import Slabs
from tumorgen_cli.data.volumes import read_image, read_volume, write_volume
from tumorgen_cli.evaluation.cases import read_case, synthetic_cases
from tumorgen_cli.geometry import Box, Grid, as_triple, cut, cut_mask, place_window, tight_box
from tumorgen_cli.judge.model import Judge
from tumorgen_cli.judge.verdict import judge_pair, predict_around
from tumorgen_cli.methods.base import Method, Request, Sampling
from tumorgen_cli.methods.difftumor.method import DiffTumor
from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.latent.cache import HeldOut, find_candidates
from tumorgen_cli.methods.latent.canvas import open_canvas
from tumorgen_cli.methods.latent.condition import Wanted
from tumorgen_cli.methods.latent.items import fill_of
from tumorgen_cli.methods.latent.quality import inference_context, reconstruct, tumor_errors, whole_image
from tumorgen_cli.methods.latent.sampler import FlowSettings
from tumorgen_cli.methods.maskfirst.method import MaskFirst
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.methods.tumorgen.method import TumorGen
from tumorgen_cli.metrics.overlap import dice
from tumorgen_cli.metrics.statistics import describe_tumor
from tumorgen_cli.models.diffusion_unet import PlaneUNet
from tumorgen_cli.pipeline.synthesize import synthesize_pairs
from tumorgen_cli.planning.plan import Plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.intensity import scale, to_comparable_units, unscale
from tumorgen_cli.preprocessing.windows import cut_tumor_window
from tumorgen_cli.synthesis.jobs import PairJob, make_jobs
from tumorgen_cli.synthesis.options import HostOptions, SetOptions
from tumorgen_cli.synthesis.pair import PairInputs, draw_pair, load_host, make_provenance
from tumorgen_cli.synthesis.scan import read_scan
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.synthesis.set_pairs import make_pairs, write_pair
from tumorgen_cli.synthesis.sources import healthy_sources
from tumorgen_cli.synthesis.window import cut_window, lay_window
from tumorgen_cli.system.devices import DeviceName, find_device, peak_memory_gib
from tumorgen_cli.training.loop import seconds_per_step
from tumorgen_cli.tumors.removal import remove_tumors

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
Work = Annotated[Path, typer.Option("-w", "--work", help="A trained workspace.")]
Healthy = Annotated[Path, typer.Option(help="Folder of tumor-free scans.")]
JudgeFolder = Annotated[Path, typer.Option(help="An nnU-Net results folder.")]
M = TypeVar("M", bound=Method)


@app.callback()
def print_origin() -> None:
    """Measure what no command prints; see the docstring of this file."""
    if "--help" not in sys.argv:
        print(origin_and_command(), flush=True)


@app.command()
def traits(work: Work, device: DeviceName = "auto") -> None:
    """Print medians of held-out tumors, of the VAE's pictures of them, and of TumorGen's draws in their boxes.

    The draws differ in steps, guidance and cells that the flow sees around the box. The field is told each tumor's own
    character and volume, so that a faithful field gives the real ones' values and a volume ratio of 1. Only the decoded
    box is looked at, without the paste. Seconds are the process's own, of the network alone.
    """
    _, plan, method = trained(work, TumorGen, device)
    cases = load_cases(method.workspace, method.workspace.splits().test)
    limits = {each.name: np.array(each.case.record.limits, np.float32) for each in find_candidates(cases)}
    windows, around = method.held_out(16), method.config.sampling.context_cells

    def row(name: str, drawn: list[tuple[HeldOut, np.ndarray, np.ndarray]], seconds: float = math.nan) -> None:
        """Print the medians of scaled pictures (C, X, Y, Z) and masks (X, Y, Z)."""
        found, ratios = [], []
        for window, picture, mask in drawn:
            units, zero = to_comparable_units(
                unscale(picture, plan.channels, limits[window.name]), plan.channels, limits[window.name]
            )
            main, ratio = plan.main_channel, float(mask.sum()) / float(window.mask.sum())
            ratios.append(ratio)
            each = describe_tumor(units[main], mask, plan.window.spacing_mm, float(zero[main]))
            found += [] if each is None else [each]
        fields = ("contrast", "heterogeneity", "core_ratio", "boundary_gradient", "sphericity", "contour_dice")
        medians = ", ".join(f"{f} {np.nanmedian([getattr(each, f) for each in found]):.3f}" for f in fields)
        took = "" if math.isnan(seconds) else f", {seconds / len(drawn):.2f} s"
        print(f"{name}: {medians}, volume ratio {np.median(ratios):.2f}, {len(found)} of {len(drawn)}{took}")

    row("real", [(window, window.image[0].float().cpu().numpy(), window.mask > 0) for window, _, _ in windows])
    with inference_context(plan.precision, method.device):
        pictures = [method.vae.decode(window.latent)[0].float().cpu().numpy() for window, _, _ in windows]
    row("autoencoder", [(w, picture, w.mask > 0) for (w, _, _), picture in zip(windows, pictures, strict=True)])
    settings = [(4, 1.5, around), (4, 1.0, around), (10, 1.0, around), (25, 1.0, around), (4, 2.0, around)]
    for steps, guidance, cells in [*settings, *((4, 1.5, n) for n in (0, 2, 4, 6))]:
        sampling = replace(method.config.sampling, guidance=guidance, context_cells=cells)
        method.sampler.config = replace(method.config, sampling=sampling)
        drawn, seconds = [], 0.0
        for seed, (window, box, inside) in itertools.product((1, 2), windows):
            wanted, began = Wanted(window.character, fill_of(window.mask, box, method.cell)), time.process_time()
            joint = method.sampler.sample(window.context, inside, wanted, FlowSettings(seed, steps, "euler"))
            seconds += time.process_time() - began
            picture, share, _ = method.sampler.decode(joint)
            drawn.append((window, picture, share >= 0.5))
        row(f"{steps} steps, guidance {guidance}, {cells} cells around the box", drawn, seconds)


@app.command()
def identity(sets: list[Path], hosts: Annotated[Path, typer.Option(help="Folder of the hosts' images.")]) -> None:
    """Count pairs whose image differs from the host outside the boxes, and pairs with a wrong mask.

    The region in which older tumors were removed may differ, too. A mask is wrong if it leaves the boxes or is empty.
    """
    for folder in sets:
        pairs = changed = outside = empty = 0
        for record in read_provenance(folder):
            image, _ = read_image(tuple(sorted((folder / "imagesTr").glob(f"{record.case}_????.*"))))
            host, _ = read_image(tuple(hosts / name for name in record.host_file))
            label, _ = read_volume(next((folder / "labelsTr").glob(f"{record.case}.*")))
            beyond = np.ones(label.shape, bool)
            for box in record.boxes:
                beyond[box.slices] = False
            outside, empty = outside + bool(label[beyond].any()), empty + (not label.any())
            for box in record.changed:
                beyond[box.slices] = False
            same = image.dtype == host.dtype and np.array_equal(image[:, beyond], host[:, beyond])
            pairs, changed = pairs + 1, changed + (not same)
        print(
            f"{folder.name}: {pairs} pairs; differ outside: {changed}; "
            f"label outside the boxes: {outside}; empty: {empty}"
        )


@app.command()
def reconstructions(work: Work, judge: JudgeFolder, device: DeviceName = "auto") -> None:
    """Print the judge's DSC on each held-out case (working grid) and on its reconstruction by the VAE."""
    workspace, plan, method = trained(work, TumorGen, device)
    model = Judge(judge, find_device(device), plan.tumor_name, plan.precision)
    scores = []
    for case in load_cases(workspace, workspace.splits().test):
        limits, keep = np.array(case.record.limits, np.float32), tuple(slice(0, n) for n in case.record.shape)
        picture = reconstruct(method.vae, whole_image(case, plan, method.vae.downsampling), plan, method.device)
        picture = unscale(picture, plan.channels, limits)[(slice(None), *keep)]
        grid, truth = Grid(case.record.shape, case.record.spacing_mm), np.asarray(case.tumors) > 0
        pair = [dice(model.tumor(np.asarray(image), grid), truth) for image in (case.image, picture)]
        scores.append(pair)
        print(f"{case.record.case}: scan {pair[0]:.3f}, reconstruction {pair[1]:.3f}")
    scan, picture = np.mean(scores, axis=0)
    print(f"mean: scan {scan:.3f}, reconstruction {picture:.3f}, loss {scan - picture:+.3f}")


@app.command()
def sizes(work: Work, device: DeviceName = "auto") -> None:
    """Print the VAE's errors on patches around held-out tumors, for several sizes up to the window's."""
    workspace, plan, method = trained(work, TumorGen, device)
    cases = load_cases(workspace, workspace.splits().test)
    sides = (32, 48, 64, 80, 96, max(plan.window.shape))
    for shape in dict.fromkeys(as_triple(min(n, side) for n in plan.window.shape) for side in sides):
        errors = tumor_errors(method.vae, cases, plan, shape, method.device)
        if errors:
            print(f"{shape}: root mean square error {errors[0]:.2%}, tumors {errors[1]:+.2%} of the clip window")


@app.command()
def halo(work: Work, device: DeviceName = "auto") -> None:
    """Print how much the decoded box of a held-out tumor differs from the decode of the whole window.

    The box is decoded with halos of 1 to 8 latent voxels; the difference is measured inside the box.
    """
    workspace, plan, method = trained(work, TumorGen, device)
    vae = method.vae
    differences: dict[int, list[np.ndarray]] = {1: [], 2: [], 4: [], 8: []}
    for case in load_cases(workspace, workspace.splits().test):
        for component in (c for c in case.record.components if c.fits):
            image, mask, _ = cut_tumor_window(case, component, plan.channels, plan.window.shape, None)
            tumor = tight_box(mask > 0)
            if tumor is None:
                continue
            limits = np.array(case.record.limits, np.float32)
            request = Request(unscale(image, plan.channels, limits), tumor, tumor, limits, plan.window.spacing_mm)
            window = open_canvas(vae, request, plan, 1, method.device)

            def decoded(latent: torch.Tensor) -> np.ndarray:
                with inference_context(plan.precision, method.device):
                    return vae.decode(latent)[0].float().cpu().numpy()

            whole = decoded(window.latent)[(slice(None), *tumor.slices)]
            for cells, found in differences.items():
                canvas = replace(window, region=window.latent_box.grown(cells, window.latent.shape[2:]))
                found.append(
                    (decoded(canvas.latent[canvas.cells])[(slice(None), *canvas.in_region(tumor).slices)] - whole) / 2
                )
    for cells, found in differences.items():
        squares = np.mean([np.mean(part**2) for part in found])
        print(
            f"halo {cells}: rms {np.sqrt(squares):.2%}, "
            f"shift {np.mean([part.mean() for part in found]):+.2%} of the clip window"
        )


@app.command()
def context(work: Work, device: DeviceName = "auto") -> None:
    """Print the mean intensity of training tumors, and of what DiffTumor draws under their masks.

    It draws twice: in the scan itself, where with `ddpm.condition=latents` the latents beside the mask have seen the
    tumor, and in the scan without its tumors.
    """
    workspace, plan, method = trained(work, DiffTumor, device)
    means = []
    for number, found in enumerate(find_candidates(load_cases(workspace, workspace.splits().train))):
        case, limits, shape = found.case, np.array(found.case.record.limits, np.float32), plan.window.shape
        scan, tumors = np.asarray(case.image, np.float32), np.asarray(case.tumors) > 0
        box = tight_box(tumors)
        assert box is not None, "a candidate has a tumor"
        removed, _ = remove_tumors(scan, tumors, box, plan.window.spacing_mm, plan.paste, number)
        start = place_window(found.component.box, case.record.shape, shape, None)
        inside = cut_mask(case.tumors, start, shape) > 0
        model = method.model_for(int(inside.sum()))
        row = [float(cut(scan, start, shape)[plan.main_channel][inside].mean())]
        for known in (scan, removed):
            window = scale(cut(known, start, shape), plan.channels, limits)
            picture = method.draw(window, inside, number, model, *method.how(model, Sampling()))
            row.append(float(unscale(picture, plan.channels, limits)[plan.main_channel][inside].mean()))
        means.append(row)
        print(
            f"{found.name}: real {row[0]:.3g}, drawn beside its rest {row[1]:.3g}, "
            f"drawn in the scan without tumors {row[2]:.3g}",
            flush=True,
        )
    real, beside, alone = np.median(means, axis=0)
    print(
        f"median of {len(means)}: real {real:.3g}, drawn beside its rest {beside:.3g}, "
        f"drawn in the scan without tumors {alone:.3g}"
    )


@app.command()
def speed(work: Work, healthy: Healthy, repeats: int = 5, device: DeviceName = "auto") -> None:
    """Print the seconds a pair for 4, 10 and 50 steps.

    They are the median of the method on a window in memory, the same with the whole window decoded, and the mean from
    file to file.
    """
    workspace, plan, method = trained(work, TumorGen, device)
    request = middle_request(plan, healthy)
    _, _, whole = trained(work, TumorGen, device)
    sampling = replace(whole.config.sampling, halo=max(request.image.shape))
    whole.config = replace(whole.config, sampling=sampling)
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
def joint(work: Work, steps: int = 4, device: DeviceName = "auto") -> None:
    """Print the seconds of a training step of TumorGen's flow, without and with the refiner in the same step.

    The paper trains them together. Nothing is written.
    """
    workspace = Workspace(work)
    plan, where = workspace.plan(), find_device(device).type
    section = plan.methods["tumorgen"]
    for together in (False, True):
        switched = {**section, "refiner": {**section["refiner"], "joint": together}}
        method = TumorGen(replace(plan, methods={**plan.methods, "tumorgen": switched}), workspace, where)
        seconds = seconds_per_step(method.stage("flow", steps), where, plan.precision)
        print(
            f"{'with the refiner' if together else 'the flow alone'}: {seconds:.2f} s a step, "
            f"{torch.get_num_threads()} threads"
        )


@app.command()
def rivals(
    work: Work,
    healthy: Healthy,
    methods: str = "tumorgen,difftumor,blended",
    steps: str = "1,2,4,10,50",
    repeats: int = 5,
    device: DeviceName = "auto",
) -> None:
    """Print the seconds a pair of several sampling methods and numbers of steps, measured in turn.

    They are medians of the network and of the method on a window, and the mean from file to file with repeated draws.
    """
    counts = [int(count) for count in steps.split(",")]
    request = middle_request(Workspace(work).plan(), healthy)
    rows = []
    for name in methods.split(","):
        workspace, _, method = trained(work, find_method(name), device)
        clock = Clock(*networks_of(method))
        rows += [(name, count, method, clock) for count in counts]
    seconds: dict[tuple[str, int], list[tuple[float, float]]] = {(name, count): [] for name, count, _, _ in rows}
    for seed in range(repeats + 1):
        for name, count, method, clock in rows:
            clock.seconds, begun = 0.0, time.perf_counter()
            method.synthesize(request, seed, Sampling(count))
            seconds[name, count].append((clock.seconds, time.perf_counter() - begun))
    slowest = max(float(np.median([network for network, _ in each[1:]])) for each in seconds.values())
    for name, count, _, _ in rows:
        network, whole = (float(np.median(column)) for column in zip(*seconds[name, count][1:], strict=True))
        with tempfile.TemporaryDirectory() as folder:
            wanted = SetOptions(repeats, Path(folder) / "set")
            made = synthesize_pairs(workspace, name, wanted, HostOptions(healthy), Sampling(count))
        print(
            f"{name}, {count} steps: network {network:.3f} s, {slowest / network:.1f} times as fast as the slowest, "
            f"method {whole:.3f} s, "
            f"file to file {made.tally.seconds_per_pair:.3f} s, {torch.get_num_threads()} threads"
        )


@app.command()
def networks(work: Work, repeats: int = 7, device: DeviceName = "auto") -> None:
    """Print the seconds of the samplers' untrained networks, measured in turn, each on its own latents.

    They are TumorGen's network, and DiffTumor's as planned, with 4 and with 50 steps, and in its published sizes.
    """
    plan, where = Workspace(work).plan(), find_device(device)
    tumorgen, ddpm = TumorGen(plan, Workspace(work)), DiffTumor(plan, Workspace(work))
    latent, config, cells = len(ddpm.codec.mean), ddpm.config.ddpm, ddpm.codec.downsampling
    published = PlaneUNet(2 * latent + 1, latent, (24, 48, 96, 192), (8, 32))
    softmax = PlaneUNet(2 * latent + 1, latent, config.widths, config.heads, "softmax")
    rows: list[tuple[str, int, torch.nn.Module, int]] = [
        ("tumorgen, 10 steps", 10, tumorgen.net, tumorgen.cell),
        ("difftumor as planned, 4 steps", 4, ddpm.net("early"), cells),
        ("difftumor as planned, 50 steps", 50, ddpm.net("later"), cells),
        ("difftumor with softmax attention, 50 steps", 50, softmax, cells),
        ("difftumor in its published size, 50 steps", 50, published, cells),
    ]
    seconds: dict[str, list[float]] = {name: [] for name, *_ in rows}
    clocks = {name: Clock(net.to(where).eval()) for name, _, net, _ in rows}
    for _ in range(repeats + 1):
        for name, steps, net, cell in rows:
            clock = clocks[name]
            channels = next(module.in_channels for module in net.modules() if isinstance(module, torch.nn.Conv3d))
            x = torch.randn(1, channels, *plan.window.latent_shape(cell), device=where)
            time_in = torch.ones(1, device=where)
            clock.seconds = 0.0
            with inference_context(plan.precision, where.type):
                for _ in range(steps):
                    net(x, time_in)
            seconds[name].append(clock.seconds)
    reference = float(np.median(seconds[rows[0][0]][1:]))
    for name, values in seconds.items():
        median = float(np.median(values[1:]))
        print(f"{name}: {median:.3f} s, {median / reference:.1f} times TumorGen's, {torch.get_num_threads()} threads")


def trained(work: Path, kind: type[M], device: DeviceName) -> tuple[Workspace, Plan, M]:
    """Return a workspace, its plan, and a trained method, loaded."""
    workspace = Workspace(work)
    plan = workspace.plan()
    method = kind(plan, workspace, find_device(device).type)
    method.load()
    return workspace, plan, method


def networks_of(method: Method) -> list[torch.nn.Module]:
    """Return the networks that a sampling method calls at every step; it may have one for each size of tumors or part.

    Raises:
        BadParameter: The method has none.
    """
    if isinstance(method, DiffTumor):
        return [*method.nets.values()]
    if isinstance(method, MaskFirst):
        return [method.mask_net, method.tumor_net]
    net = getattr(method, "net", None)
    if not isinstance(net, torch.nn.Module):
        raise typer.BadParameter(f"{method.name} has no network that it calls at every step", param_hint="--methods")
    return [net]


class Clock:
    """Adds up the seconds spent in networks."""

    def __init__(self, *nets: torch.nn.Module) -> None:
        self.seconds = self._begun = 0.0
        for net in nets:
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


def middle_request(plan: Plan, healthy: Path) -> Request:
    """Return a request in the middle of the first host; the box has 0.4 times the window's edges."""
    path = min(healthy.glob(f"*_0000{plan.file_ending}"))
    scan = read_scan(path.name, (path,), None, plan)
    size = [int(0.4 * e / s) for e, s in zip(plan.window.extent_mm, scan.grid.spacing_mm, strict=True)]
    start = [(n - m) // 2 for n, m in zip(scan.grid.shape, size, strict=True)]
    box = Box(as_triple(start), as_triple(a + m for a, m in zip(start, size, strict=True)))
    return cut_window(scan, lay_window(scan, box, plan), None)


@app.command()
def scoring(set_folder: Path, work: Work, judge: JudgeFolder, repeats: int = 3, device: DeviceName = "auto") -> None:
    """Print the seconds of Dice and surface Dice of a set, predictions given: ours and MONAI's, in turn.

    Ours looks at the box and its margin, MONAI at whole volumes.
    """
    from monai.metrics.meandice import DiceMetric
    from monai.metrics.surface_dice import compute_surface_dice

    workspace = Workspace(work)
    plan = workspace.plan()
    model = Judge(judge, find_device(device), plan.tumor_name, plan.precision)
    pairs = []
    for files in synthetic_cases(plan, set_folder):
        image, grid, tumor, others = read_case(plan, files)
        pairs.append((tumor, others, predict_around(model, image, grid, files.hull), files.boxes, grid))

    def ours() -> list[tuple[float, float]]:
        return [(v.dice, v.surface_dice) for v in (judge_pair(*pair, plan.tolerance_mm) for pair in pairs)]

    def plain() -> list[tuple[float, float]]:
        scores = []
        for tumor, others, found, _, grid in pairs:
            a, b = (torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (tumor, found & ~others))
            nsd = compute_surface_dice(
                a, b, [plan.tolerance_mm], include_background=True, spacing=grid.spacing_mm, use_subvoxels=True
            )
            scores.append((float(torch.as_tensor(DiceMetric()(a, b))), float(nsd)))
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
def files(shape: str = "512,512,400", repeats: int = 3) -> None:
    """Print the processor seconds to read a scan, and to write the image and the labels of a pair of it, in turn.

    The scan is computed: int16, noise in a cylinder of water. The pair differs from it in a box of an eighth of its
    edges. One stream is not verified; slabs are, as all files that tumorgen writes.
    """
    grid = Grid(as_triple(map(int, shape.split(","))), (0.7, 0.7, 1.0))
    scan, box = water_cylinder(grid.shape), tuple(slice(n // 2, n // 2 + n // 8) for n in grid.shape)
    pair, labels, none = scan.copy(), np.zeros(grid.shape, np.uint8), np.zeros(grid.shape, np.uint8)
    pair[box], labels[box] = pair[box] + np.int16(100), 1
    kept = Slabs(scan, scan.dtype), Slabs(none, none.dtype)
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "image.nii.gz", Path(folder) / "labels.nii.gz"

        def in_one(pack: Callable[[bytes], bytes]) -> None:
            for path, array in zip(paths, (pair, labels), strict=True):
                path.write_bytes(pack(array.tobytes(order="F")))

        def in_slabs(bases: tuple[Slabs, ...]) -> None:
            for path, array, base in zip(paths, (pair, labels), bases, strict=True):
                write_volume(path, array, grid, base=base)

        ways: dict[str, Callable[[], object]] = {
            "zlib 6, one stream": lambda: in_one(lambda content: gzip.compress(content, 6)),
            "ISA-L, one stream": lambda: in_one(lambda content: igzip.compress(content, 2)),
            "slabs, first pair of a host": lambda: in_slabs((Slabs(scan, scan.dtype), Slabs(none, none.dtype))),
            "slabs, further pair": lambda: in_slabs(kept),
            "read the scan": lambda: read_volume(paths[0]),
        }
        in_slabs(kept)
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        sizes: dict[str, int] = {}
        for _ in range(repeats):
            for name, way in ways.items():
                begun = time.process_time()
                way()
                seconds[name].append(time.process_time() - begun)
                sizes[name] = sum(path.stat().st_size for path in paths)
    for name, times in seconds.items():
        print(f"{name}: {np.median(times):.2f} s ({min(times):.2f} to {max(times):.2f}), {sizes[name] / 1e6:.1f} MB")


@app.command()
def pairs(
    work: Work,
    method: str = "copypaste",
    shape: str = "512,512,400",
    hosts: Annotated[int, typer.Option(min=2)] = 4,
    repeats: int = 2,
) -> None:
    """Print the seconds of each step of a pair of a computed CT scan, and those of pairs with and without threads.

    Each host gets one pair with one tumor; steps are medians. Every second host has padding of -2000 HU in its
    corners, as scanners write it. The first pair, which also imports and compiles, is left out. Then pairs are made as
    `synthesize` makes them on a GPU, with a thread that reads and one that writes; the method must be one without
    networks.
    """
    workspace, _, painter = trained(work, find_method(method), "cpu")
    plan, cases = painter.plan, workspace.fingerprint().of(workspace.splits().train).cases
    inputs = PairInputs(painter, cases, Sampling(), count=1, trust_units=True)
    with tempfile.TemporaryDirectory() as folder:
        healthy = Path(folder) / "healthy"
        for number in range(hosts):
            scan = water_cylinder(as_triple(map(int, shape.split(","))))
            scan[scan == -1024] = -2000 if number % 2 else -1024
            scan += np.int16(number)
            write_volume(healthy / f"h{number}_0000{plan.file_ending}", scan, Grid(scan.shape, (0.7, 0.7, 0.7)))
            del scan
        jobs = make_jobs(healthy_sources(plan, healthy, None), hosts, 0)
        alone: list[tuple[float, float]] = []
        threads: list[tuple[float, float]] = []
        peaks: list[float] = []
        rows: list[np.ndarray] = []
        pair_steps(inputs, jobs[0], Path(folder) / "first")
        for turn in range(repeats):
            begun = time.perf_counter(), time.process_time()
            rows += [pair_steps(inputs, job, Path(folder) / f"alone_{turn}") for job in jobs]
            alone.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
            peaks.append(peak_memory_gib())
            out, begun = Path(folder) / f"threads_{turn}", (time.perf_counter(), time.process_time())
            out.mkdir()
            painter.device = "cuda"  # on which there are threads
            make_pairs(inputs, {}, jobs, out, (out / "provenance.jsonl", out / "given_up.jsonl"), lambda *_: None)
            threads.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
            painter.device = "cpu"
    for name, part in (("without padding", 0), ("with padding", 1)):
        medians = np.median([row for number, row in enumerate(rows) if number % hosts % 2 == part], axis=0)
        steps = zip(("read", "paint", "write, preview, hash"), medians, strict=True)
        print(f"{name}: " + ", ".join(f"{step} {user:.2f} + {system:.2f} s" for step, (user, system) in steps))
    for name, found, peak in (("one by one", alone, peaks[0]), ("with threads", threads, peak_memory_gib())):
        elapsed, spent = np.median(found, axis=0) / hosts
        print(f"{name}: {elapsed:.2f} s elapsed a pair, {spent:.2f} s of processors, peak {peak:.2f} GiB")


def pair_steps(inputs: PairInputs, job: PairJob, out: Path) -> np.ndarray:
    """Make a pair, and return the user's and the system's seconds (3, 2) to read, to paint and to write."""
    laps = [os.times()]
    host = load_host(inputs, job.source)
    laps.append(os.times())
    pair = draw_pair(inputs, job, host)
    laps.append(os.times())
    write_pair(inputs.plan, job, host, pair, out)
    make_provenance(inputs, {}, job, host, pair, {})
    laps.append(os.times())
    return np.diff([(lap.user, lap.system) for lap in laps], axis=0)


def water_cylinder(shape: tuple[int, ...]) -> np.ndarray:
    """Return a scan (X, Y, Z) int16: noise of 12 HU in a cylinder of water, air around, padding in the corners."""
    x, y = np.ogrid[: shape[0], : shape[1]]
    radius = np.hypot(x / shape[0] - 0.5, y / shape[1] - 0.5)[..., None]
    scan, rng = np.empty(shape, np.int16), np.random.default_rng(0)
    for plane, far in zip(scan, radius, strict=True):  # one by one: noise of a whole scan takes 800 MB
        noise = rng.normal(0, 12, plane.shape).astype(np.int16)
        plane[:] = np.where(far < 0.35, noise, np.where(far < 0.49, noise - np.int16(1000), np.int16(-1024)))
    return scan


@app.command()
def stages(work: Work) -> None:
    """Print what `commands.jsonl` and the runs recorded."""
    for line in (work / "commands.jsonl").read_text().splitlines():
        print(line)
    for path in sorted(work.glob("runs/*/*/run.json")):
        run = json.loads(path.read_text())
        print(
            f"{path.parent.name}: {run['iterations']} iterations, {run['seconds']:.0f} s, "
            f"{run['peak_memory_gib']} GiB, {run['numbers']}"
        )


if __name__ == "__main__":
    app()
