"""Bad inputs of every kind: each gives one clear error, with what is wrong, and no traceback.

A row spoils one thing in a finished workspace, runs one command, and names words that the error must hold: where the
fault is, and what was found or expected.
"""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.command_line import call
from support.spoil import cut, drop, edit_header, edit_voxels, flip, put
from support.workspaces import plan_toy

from tumorgen_cli.data.phantom import DATASET, write_phantoms
from tumorgen_cli.planning.workspace import Workspace


@dataclass(frozen=True)
class House:
    """A data set, hosts, a workspace with a plan, trained networks and a set of pairs, all at one place."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / DATASET

    @property
    def healthy(self) -> Path:
        return self.root / "healthy"

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def set(self) -> Path:
        return self.work / "synthetic" / "copypaste_healthy"

    @property
    def image(self) -> Path:
        return self.data / "imagesTr" / "Phantom_000_0000.nii.gz"

    @property
    def label(self) -> Path:
        return self.data / "labelsTr" / "Phantom_000.nii.gz"

    @property
    def host(self) -> Path:
        return self.healthy / "Healthy_000_0000.nii.gz"

    @property
    def region(self) -> Path:
        return self.root / "regions" / "Healthy_000.nii.gz"

    @property
    def pair_image(self) -> Path:
        return self.set / "imagesTr" / "Healthy_000_s0000_0000.nii.gz"

    @property
    def pair_label(self) -> Path:
        return self.set / "labelsTr" / "Healthy_000_s0000.nii.gz"

    def run_of(self, stage: str) -> Path:
        return self.work / "runs" / "tumorgen" / stage

    def as_built(self) -> Path:
        """A copy of the house, from which `restore` takes what was spoiled."""
        return self.root.with_name("as_built")


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A house in which nothing is trained."""
    from tumorgen_cli.pipeline.preprocess import preprocess_dataset

    house = House(tmp_path_factory.mktemp("house") / "at")
    write_phantoms(house.root, cases=6, healthy=2, seed=7, small=True)
    workspace = Workspace(house.work)
    plan_toy(workspace, str(house.data))
    preprocess_dataset(workspace, workers=0)
    call("synthesize", "--healthy", house.healthy, "-n", 2, "--method", "copypaste", "-w", house.work)
    copy_tree(house.root, house.as_built())
    return house


@pytest.fixture(scope="session")
def trained_house(built: House) -> House:
    """The same house, in which TumorGen is trained from now on."""
    from tumorgen_cli.pipeline.train import train_stages

    restore(built)
    train_stages(Workspace(built.work), "tumorgen", "all", device="cpu")
    shutil.rmtree(built.as_built())
    copy_tree(built.root, built.as_built())
    return built


@pytest.fixture
def house(request: pytest.FixtureRequest, command: Words) -> House:
    """The house, whole again."""
    house: House = request.getfixturevalue("trained_house" if command in (paint, begin) else "built")
    restore(house)
    return house


def copy_tree(source: Path, target: Path) -> None:
    """Copy a folder with the times of its files, so that nothing looks changed."""
    shutil.copytree(source, target, symlinks=True, copy_function=shutil.copy2)


def restore(house: House) -> None:
    """Put back what is missing or changed, and remove what is new."""

    def look(root: Path) -> dict[Path, tuple[int, ...]]:
        found = {path.relative_to(root): path.lstat() for path in root.rglob("*")}
        return {
            path: (at.st_mode, *(() if stat.S_ISDIR(at.st_mode) else (at.st_size, at.st_mtime_ns)))
            for path, at in found.items()
        }

    wanted, found = look(house.as_built()), look(house.root)
    for path in sorted(found, reverse=True):  # what is in a folder before the folder
        if wanted.get(path) != found[path]:
            (Path.rmdir if stat.S_ISDIR(found[path][0]) else Path.unlink)(house.root / path)
    for path in sorted(wanted):
        if found.get(path) != wanted[path]:
            if stat.S_ISDIR(wanted[path][0]):
                (house.root / path).mkdir()
            else:
                shutil.copy2(house.as_built() / path, house.root / path, follow_symlinks=False)


Spoil = Callable[[House], object]
Words = Callable[[House], Sequence[object]]


def plan(house: House) -> Sequence[object]:
    return ("plan", house.data, "-w", house.root / "new")


def synthesize(house: House) -> Sequence[object]:
    return (
        "synthesize",
        "--healthy",
        house.healthy,
        "-n",
        3,
        "--method",
        "copypaste",
        "--out",
        house.root / "out",
        "-w",
        house.work,
    )


def paint(house: House) -> Sequence[object]:
    return ("synthesize", "--healthy", house.healthy, "-n", 3, "--out", house.root / "out", "-w", house.work)


def begin(house: House) -> Sequence[object]:
    return ("train", "vae", "--restart", "--init", house.data / "dataset.json", "-w", house.work)


def in_region(house: House) -> Sequence[object]:
    return (*synthesize(house), "--roi", house.root / "regions")


def evaluate(house: House) -> Sequence[object]:
    return ("evaluate", house.set, "--judge", "bundled", "-w", house.work)


def filter_set(house: House) -> Sequence[object]:
    return ("filter", house.set, "--judge", "bundled", "--out", house.root / "kept", "-w", house.work)


def merge(house: House) -> Sequence[object]:
    return ("merge", house.data, house.set, "--out", house.root / "Dataset700_Merged", "-w", house.work)


def judged(house: House) -> Sequence[object]:
    return ("evaluate", house.set, "--judge", house.root / "judge", "-w", house.work)


def with_options(command: Words, *options: object) -> Words:
    return lambda house: (*command(house), *(o(house) if callable(o) else o for o in options))


def nothing(house: House) -> None:
    """Spoil nothing: the options are what is wrong."""


def bundled_judge(house: House, change: Spoil) -> None:
    """Put a copy of the bundled judge at `judge`, and change it."""
    import tumorgen_cli.judge

    shutil.copytree(Path(tumorgen_cli.judge.__file__).parent / "bundled", house.root / "judge")
    change(House(house.root / "judge"))


def judge_with(change: Callable[[Path], object]) -> Spoil:
    return lambda house: bundled_judge(house, lambda folder: change(folder.root))


def every(folder: Path, pattern: str, change: Callable[[Path], object]) -> None:
    """Change all files of a pattern: where only some are bad, the others are used and the bad ones are told."""
    for path in sorted(folder.rglob(pattern)):
        change(path)


def one_file(folder: Path, pattern: str) -> Path:
    return next(iter(sorted(folder.rglob(pattern))))


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(content, encoding="utf-8")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def bomb(path: Path) -> None:
    """Let a file unpack to far more than its header says."""
    raw = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(raw + bytes(300_000_000), 1))


def make_2d(voxels: np.ndarray) -> np.ndarray:
    return voxels[:, :, 0]


def make_4d(voxels: np.ndarray) -> np.ndarray:
    return np.stack([voxels, voxels], axis=-1)


def with_nan(voxels: np.ndarray) -> None:
    voxels[3, 3, 3] = np.nan


class Harmful:
    """Pickled, it writes a file when it is opened."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, ("/tmp/tumorgen_was_tricked",)


def pickled(path: Path) -> None:
    path.unlink()
    path.write_bytes(pickle.dumps(Harmful()))


def json_of(house: House, name: str) -> Path:
    return house.work / name


BAD: Sequence[tuple[str, Words, Spoil, Sequence[str]]] = (
    # the data set
    (
        "no such data set",
        lambda h: ("plan", h.root / "Dataset123_None", "-w", h.root / "new"),
        nothing,
        ["Dataset123_None"],
    ),
    ("a file as data set", lambda h: ("plan", h.host, "-w", h.root / "new"), nothing, ["Healthy_000_0000.nii.gz"]),
    ("no dataset.json", plan, lambda h: (h.data / "dataset.json").unlink(), ["dataset.json"]),
    ("dataset.json is not JSON", plan, lambda h: text(h.data / "dataset.json", "{labels:"), ["dataset.json"]),
    ("dataset.json is a list", plan, lambda h: text(h.data / "dataset.json", "[]"), ["dataset.json"]),
    ("dataset.json is empty", plan, lambda h: text(h.data / "dataset.json", ""), ["dataset.json"]),
    ("no labels", plan, lambda h: drop(h.data / "dataset.json", "labels"), ["dataset.json", "labels"]),
    (
        "labels of a list",
        plan,
        lambda h: put(h.data / "dataset.json", "labels", value=["background", "tumor"]),
        ["labels"],
    ),
    (
        "a label that is no number",
        plan,
        lambda h: put(h.data / "dataset.json", "labels", "tumor", value="one"),
        ["tumor"],
    ),
    ("no tumor label", plan, lambda h: drop(h.data / "dataset.json", "labels", "tumor"), ["label"]),
    ("no channels", plan, lambda h: drop(h.data / "dataset.json", "channel_names"), ["channel_names"]),
    (
        "channels of a text",
        plan,
        lambda h: put(h.data / "dataset.json", "channel_names", value="PET"),
        ["channel_names"],
    ),
    ("no file ending", plan, lambda h: drop(h.data / "dataset.json", "file_ending"), ["file_ending"]),
    (
        "an ending that leads outside",
        plan,
        lambda h: put(h.data / "dataset.json", "file_ending", value="/../../x.nii.gz"),
        ["file_ending"],
    ),
    ("an ending that no file has", plan, lambda h: put(h.data / "dataset.json", "file_ending", value=".mha"), [".mha"]),
    ("no imagesTr", plan, lambda h: shutil.rmtree(h.data / "imagesTr"), ["imagesTr"]),
    ("no labelsTr", plan, lambda h: shutil.rmtree(h.data / "labelsTr"), ["labelsTr"]),
    ("an image is missing", plan, lambda h: h.image.unlink(), ["Phantom_000"]),
    ("a label is missing", plan, lambda h: h.label.unlink(), ["Phantom_000"]),
    ("an image is cut", plan, lambda h: cut(h.image), ["Phantom_000_0000.nii.gz"]),
    ("a label is cut", plan, lambda h: cut(h.label), ["Phantom_000.nii.gz"]),
    ("an empty image", plan, lambda h: h.image.write_bytes(b""), ["Phantom_000_0000.nii.gz"]),
    ("a text as image", plan, lambda h: text(h.image, "voxels"), ["Phantom_000_0000.nii.gz"]),
    ("a folder as image", plan, lambda h: (h.image.unlink(), h.image.mkdir()), ["Phantom_000_0000.nii.gz"]),
    ("a FIFO as image", plan, lambda h: fifo(h.image), ["Phantom_000_0000.nii.gz"]),
    (
        "a dangling link as image",
        plan,
        lambda h: (h.image.unlink(), h.image.symlink_to("/nowhere/x.nii.gz")),
        ["Phantom_000_0000.nii.gz"],
    ),
    (
        "a dangling link as label",
        plan,
        lambda h: (h.label.unlink(), h.label.symlink_to("/nowhere/x.nii.gz")),
        ["Phantom_000.nii.gz"],
    ),
    ("a gzip bomb", plan, lambda h: bomb(h.image), ["Phantom_000_0000.nii.gz"]),
    ("a 2D image", plan, lambda h: edit_voxels(h.image, make_2d), ["Phantom_000_0000.nii.gz", "3D"]),
    ("a 4D image", plan, lambda h: edit_voxels(h.image, make_4d), ["Phantom_000_0000.nii.gz", "3D"]),
    (
        "a complex image",
        plan,
        lambda h: edit_voxels(h.image, lambda v: v.astype(np.complex64)),
        ["Phantom_000_0000.nii.gz"],
    ),
    ("NaN in an image", plan, lambda h: edit_voxels(h.image, with_nan), ["Phantom_000"]),
    ("a constant image", plan, lambda h: edit_voxels(h.image, np.zeros_like), ["Phantom_000"]),
    ("a label of another shape", plan, lambda h: edit_voxels(h.label, lambda v: v[:-2]), ["Phantom_000"]),
    (
        "a label of another spacing",
        plan,
        lambda h: edit_header(h.label, lambda header: header.set_zooms((9, 9, 9))),
        ["Phantom_000"],
    ),
    ("a label value that is not declared", plan, lambda h: edit_voxels(h.label, lambda v: v * 7), ["Phantom_000", "7"]),
    ("a label of fractions", plan, lambda h: edit_voxels(h.label, lambda v: v * 0.5, np.float32), ["Phantom_000"]),
    (
        "a negative label",
        plan,
        lambda h: edit_voxels(h.label, lambda v: -v.astype(np.int16), np.int16),
        ["Phantom_000"],
    ),
    (
        "a spacing of 0",
        plan,
        lambda h: edit_header(h.image, lambda header: header["pixdim"].__setitem__(2, 0)),
        ["Phantom_000_0000.nii.gz", "edges above 0 mm"],
    ),
    (
        "a spacing of NaN",
        plan,
        lambda h: edit_header(h.image, lambda header: header["pixdim"].__setitem__(2, np.nan)),
        ["Phantom_000_0000.nii.gz"],
    ),
    (
        "micrometers",
        plan,
        lambda h: edit_header(h.image, lambda header: header.set_xyzt_units("micron")),
        ["Phantom_000_0000.nii.gz", "micrometers"],
    ),
    # options of plan
    ("an unknown preset", with_options(plan, "--preset", "demo-quik"), nothing, ["demo-quik", "demo-quick"]),
    (
        "an unknown field",
        with_options(plan, "--set", "methods.tumorgen.vae.iteration=5"),
        nothing,
        ["iteration", "iterations"],
    ),
    ("a field without value", with_options(plan, "--set", "seed"), nothing, ["seed"]),
    (
        "a text for a number",
        with_options(plan, "--set", "methods.tumorgen.vae.iterations=many"),
        nothing,
        ["iterations", "many"],
    ),
    (
        "a negative number",
        with_options(plan, "--set", "methods.tumorgen.vae.iterations=-5"),
        nothing,
        ["iterations", "-5"],
    ),
    ("no draws", with_options(plan, "--set", "paste.draws=0"), nothing, ["paste.draws"]),
    ("no batch", with_options(plan, "--set", "methods.tumorgen.flow.batch=0"), nothing, ["batch"]),
    ("no widths", with_options(plan, "--set", "methods.tumorgen.vae.widths=[]"), nothing, ["widths"]),
    ("a spacing that is NaN", with_options(plan, "--set", "window.spacing_mm=[nan,1,1]"), nothing, ["spacing_mm"]),
    (
        "sides that networks cannot halve",
        with_options(plan, "--set", "window.shape=[33,32,32]"),
        nothing,
        ["window.shape"],
    ),
    ("a decay over 1", with_options(plan, "--set", "methods.tumorgen.vae.ema=1.5"), nothing, ["ema"]),
    ("an unknown tumor label", with_options(plan, "--tumor-label", "tumour"), nothing, ["tumour", "tumor"]),
    ("a fold that does not exist", with_options(plan, "--fold", 99), nothing, ["99"]),
    # hosts
    (
        "no such folder of hosts",
        lambda h: ("synthesize", "--healthy", h.root / "helthy", "-w", h.work),
        nothing,
        ["helthy"],
    ),
    ("an empty folder of hosts", synthesize, lambda h: [p.unlink() for p in h.healthy.iterdir()], ["healthy"]),
    ("a host is cut", synthesize, lambda h: cut(h.host), ["Healthy_000_0000.nii.gz"]),
    ("a 2D host", synthesize, lambda h: edit_voxels(h.host, make_2d), ["Healthy_000_0000.nii.gz"]),
    (
        "NaN in a host",
        synthesize,
        lambda h: every(h.healthy, "*.nii.gz", lambda p: edit_voxels(p, with_nan)),
        ["Healthy_000", "NaN"],
    ),
    (
        "a host in other units",
        synthesize,
        lambda h: every(h.healthy, "*.nii.gz", lambda p: edit_voxels(p, lambda v: v * 5000)),
        ["Healthy_000", "unit"],
    ),
    (
        "a host of far coarser voxels",
        synthesize,
        lambda h: edit_header(
            h.host,
            lambda header: (
                header.set_zooms((60, 60, 60)),
                header.set_sform(np.diag([60, 60, 60, 1]), 1),
                header.set_qform(np.diag([60, 60, 60, 1]), 1),
            ),
        ),
        ["Healthy_000", "spacing"],
    ),
    (
        "a second channel",
        synthesize,
        lambda h: shutil.copy(h.host, h.healthy / "Healthy_000_0001.nii.gz"),
        ["Healthy_000"],
    ),
    ("no regions", with_options(synthesize, "--roi", lambda h: h.root / "nowhere"), nothing, ["nowhere"]),
    ("a region is missing", in_region, lambda h: h.region.unlink(), ["Healthy_000"]),
    (
        "a region is empty",
        in_region,
        lambda h: every(h.region.parent, "*.nii.gz", lambda p: edit_voxels(p, np.zeros_like)),
        ["Healthy_000", "no voxel"],
    ),
    ("a region of another shape", in_region, lambda h: edit_voxels(h.region, lambda v: v[2:]), ["Healthy_000"]),
    (
        "a region of probabilities",
        in_region,
        lambda h: every(h.region.parent, "*.nii.gz", lambda p: edit_voxels(p, lambda v: v * 0.5 + 0.01, np.float32)),
        ["Healthy_000", "whole numbers"],
    ),
    ("a box outside", with_options(synthesize, "--box", "900,900,900,910,910,910"), nothing, ["Healthy_000"]),
    ("hosts of two kinds", with_options(synthesize, "--cases", "test"), nothing, ["--cases"]),
    ("no hosts", lambda h: ("synthesize", "-w", h.work), nothing, ["--healthy"]),
    ("steps of a method without", with_options(synthesize, "--steps", 3), nothing, ["--steps"]),
    # the workspace
    ("no workspace", lambda h: ("synthesize", "--healthy", h.healthy, "-w", h.root / "nowhere"), nothing, ["plan"]),
    ("a file as workspace", lambda h: ("plan", h.data, "-w", h.host), nothing, ["Healthy_000_0000.nii.gz"]),
    ("plan.json is not JSON", synthesize, lambda h: text(json_of(h, "plan.json"), "{"), ["plan.json"]),
    ("plan.json is cut", synthesize, lambda h: cut(json_of(h, "plan.json")), ["plan.json"]),
    ("plan.json is a list", synthesize, lambda h: text(json_of(h, "plan.json"), "[]"), ["plan.json"]),
    (
        "plan.json without a window",
        synthesize,
        lambda h: drop(json_of(h, "plan.json"), "window"),
        ["plan.json", "window"],
    ),
    (
        "plan.json with no draws",
        synthesize,
        lambda h: put(json_of(h, "plan.json"), "paste", "draws", value=0),
        ["plan.json", "draws"],
    ),
    (
        "plan.json with an unknown field",
        synthesize,
        lambda h: put(json_of(h, "plan.json"), "windou", value=1),
        ["plan.json", "windou"],
    ),
    (
        "plan.json with an ending outside",
        synthesize,
        lambda h: put(json_of(h, "plan.json"), "file_ending", value="/../x.nii.gz"),
        ["plan.json"],
    ),
    ("fingerprint.json is cut", evaluate, lambda h: cut(json_of(h, "fingerprint.json")), ["fingerprint.json"]),
    ("splits.json is cut", synthesize, lambda h: cut(json_of(h, "splits.json")), ["splits.json"]),
    ("a preprocessed case is cut", synthesize, lambda h: every(h.work / "cases", "image.npy", cut), ["image.npy"]),
    (
        "a preprocessed case without its record",
        synthesize,
        lambda h: (h.work / "cases" / "Phantom_000" / "case.json").unlink(),
        ["preprocess"],
    ),
    ("the data set has changed", evaluate, lambda h: edit_voxels(h.image, lambda v: v * 2), ["Phantom_000", "plan"]),
    ("the data set has moved", evaluate, lambda h: h.data.rename(h.root / "elsewhere"), ["Dataset999_PhantomPET"]),
    # networks
    ("no weights", paint, lambda h: (h.run_of("flow") / "weights.safetensors").unlink(), ["flow"]),
    (
        "weights with a flipped byte",
        paint,
        lambda h: flip(h.run_of("flow") / "weights.safetensors"),
        ["weights.safetensors"],
    ),
    ("weights that are cut", paint, lambda h: cut(h.run_of("vae") / "weights.safetensors"), ["weights.safetensors"]),
    (
        "weights of another stage",
        paint,
        lambda h: shutil.copy(h.run_of("vae") / "weights.safetensors", h.run_of("flow") / "weights.safetensors"),
        ["weights.safetensors"],
    ),
    ("a pickle as weights", paint, lambda h: pickled(h.run_of("vae") / "weights.safetensors"), ["weights.safetensors"]),
    ("run.json is cut", paint, lambda h: cut(h.run_of("flow") / "run.json", 0.5), ["run.json"]),
    (
        "--init of a text",
        begin,
        nothing,
        ["dataset.json"],
    ),
    # pairs
    (
        "no such set",
        lambda h: ("evaluate", "copypast_healthy", "--judge", "bundled", "-w", h.work),
        nothing,
        ["copypast_healthy", "copypaste_healthy"],
    ),
    ("a pair's image is cut", evaluate, lambda h: cut(h.pair_image), ["Healthy_000_s0000"]),
    ("a pair's label is cut", filter_set, lambda h: cut(h.pair_label), ["Healthy_000_s0000"]),
    ("a pair's label is lost", merge, lambda h: h.pair_label.unlink(), ["Healthy_000_s0000"]),
    ("a pair's image is lost", evaluate, lambda h: h.pair_image.unlink(), ["Healthy_000_s0000"]),
    (
        "a pair that somebody edited",
        evaluate,
        lambda h: edit_voxels(h.pair_image, lambda v: v + 1),
        ["Healthy_000_s0000"],
    ),
    ("provenance is cut", merge, lambda h: cut(h.set / "provenance.jsonl", 0.9), ["provenance.jsonl"]),
    (
        "provenance leads outside",
        merge,
        lambda h: text(
            h.set / "provenance.jsonl",
            (h.set / "provenance.jsonl").read_text().replace('"Healthy_000_s0000"', '"../../x"'),
        ),
        ["provenance.jsonl"],
    ),
    (
        "set.json is not JSON",
        synthesize_into_set := (
            lambda h: ("synthesize", "--healthy", h.healthy, "-n", 3, "--method", "copypaste", "-w", h.work)
        ),
        lambda h: text(h.set / "set.json", "set"),
        ["set.json"],
    ),
    (
        "set.json of another format",
        synthesize_into_set,
        lambda h: put(h.set / "set.json", "format", value=1),
        ["copypaste_healthy", "format"],
    ),
    (
        "a set in place of another",
        lambda h: ("filter", h.set, "--judge", "bundled", "--out", h.set.with_name("other"), "-w", h.work),
        lambda h: copy_tree(h.set, h.set.with_name("other")),
        ["synthetic/other", "--out"],
    ),
    ("a folder of the user's as output", with_options(synthesize, "--out", lambda h: h.data), nothing, [DATASET]),
    (
        "merge without a number",
        lambda h: ("merge", h.data, h.set, "--out", h.root / "Merged", "-w", h.work),
        nothing,
        ["Merged", "Dataset"],
    ),
    ("merge onto the data set", lambda h: ("merge", h.data, h.set, "--out", h.data, "-w", h.work), nothing, [DATASET]),
    (
        "merge of an unknown set",
        lambda h: ("merge", h.data, "copypaste", "--out", h.root / "Dataset700_M", "-w", h.work),
        nothing,
        ["copypaste_healthy"],
    ),
    # judges
    ("no such judge", judged, nothing, ["judge"]),
    ("a judge without plans.json", judged, judge_with(lambda j: one_file(j, "plans.json").unlink()), ["plans.json"]),
    ("a judge with cut plans.json", judged, judge_with(lambda j: cut(one_file(j, "plans.json"))), ["plans.json"]),
    (
        "a judge with empty plans.json",
        judged,
        judge_with(lambda j: text(one_file(j, "plans.json"), "{}")),
        ["plans.json"],
    ),
    (
        "a judge without dataset.json",
        judged,
        judge_with(lambda j: one_file(j, "dataset.json").unlink()),
        ["dataset.json"],
    ),
    (
        "a judge of other labels",
        judged,
        judge_with(lambda j: put(one_file(j, "dataset.json"), "labels", value={"background": 0, "liver": 1})),
        ["judge"],
    ),
    (
        "a judge of two channels",
        judged,
        judge_with(lambda j: put(one_file(j, "dataset.json"), "channel_names", value={"0": "CT", "1": "PET"})),
        ["judge"],
    ),
    ("a judge whose weights are cut", judged, judge_with(lambda j: cut(one_file(j, "*.pth"))), ["judge"]),
    ("a judge whose weights are flipped", judged, judge_with(lambda j: flip(one_file(j, "*.pth"))), ["judge"]),
    ("a judge whose weights are a pickle", judged, judge_with(lambda j: pickled(one_file(j, "*.pth"))), ["judge"]),
)


#: rows of the default tests: quick ones of every kind; the others are `slow`
QUICK = (
    "no such data set",
    "dataset.json is not JSON",
    "labels of a list",
    "an ending that leads outside",
    "no labelsTr",
    "an image is missing",
    "a text as image",
    "a 4D image",
    "a label of another shape",
    "a label of fractions",
    "a spacing of NaN",
    "an unknown field",
    "a negative number",
    "a spacing that is NaN",
    "no such folder of hosts",
    "an empty folder of hosts",
    "a host is cut",
    "a region of another shape",
    "no workspace",
    "plan.json is cut",
    "plan.json with an unknown field",
    "splits.json is cut",
    "no such set",
    "a pair's label is lost",
    "provenance leads outside",
    "merge onto the data set",
    "a judge without plans.json",
)


@pytest.mark.parametrize(
    ("command", "spoil", "words"),
    [pytest.param(*row[1:], id=row[0], marks=() if row[0] in QUICK else pytest.mark.slow) for row in BAD],
)
def test_a_bad_input_is_one_clear_error(house: House, command: Words, spoil: Spoil, words: Sequence[str]) -> None:
    spoil(house)
    before = set(house.root.rglob("*"))
    result = call(*command(house), code=None)
    assert result.exit_code in (1, 2), result.output
    assert result.exit_code == 2 or "remedy:" in result.stderr, result.output
    for word in words:
        assert word in result.stderr.replace("\n", ""), result.output
    new = {path for path in set(house.root.rglob("*")) - before if "Healthy" in path.name or "Phantom" in path.name}
    assert not new, "a refused command has left pairs or cases"
    assert not Path("/tmp/tumorgen_was_tricked").exists()


def test_there_are_a_hundred_bad_inputs() -> None:
    names = {row[0] for row in BAD}
    assert len(names) == len(BAD) >= 100
    assert names >= set(QUICK)
