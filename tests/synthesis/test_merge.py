"""Merged sets: no pair knows a fold's validation cases, nnU-Net uses the folds, and all faults are listed."""

import contextlib
import io
import json
import multiprocessing
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.pairs import paint
from support.sets import provenance, write_provenance
from support.threads import Threads

from tumorgen_cli.data import volumes
from tumorgen_cli.data.patients import read_patients, write_patients
from tumorgen_cli.data.volumes import hash_voxels, read_grid, read_volume, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.nnunet.results import LearnedCases
from tumorgen_cli.pipeline.merge import merge_sets
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.synthesis import merge as merge_module
from tumorgen_cli.synthesis.merge import LEARNED, PAINTED
from tumorgen_cli.synthesis.provenance import PAIR_FORMAT
from tumorgen_cli.synthesis.set_files import read_provenance
from tumorgen_cli.system import links
from tumorgen_cli.system.errors import DataError, StateError
from tumorgen_cli.system.files import hash_file
from tumorgen_cli.system.json_records import write_json

GRID = Grid((6, 5, 4), (2.0, 2.0, 3.0))
REAL = tuple(f"r{i:02d}" for i in range(10))
TRAIN = tuple(case for case in REAL if case not in ("r04", "r09"))
LABELS = {"background": 0, "tumor": 1}


@pytest.fixture(autouse=True)
def no_folders_of_nnunet(monkeypatch):
    monkeypatch.delenv("nnUNet_raw", raising=False)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)


def write_cases(folder, cases, labels=LABELS, channel="PET"):
    for number, case in enumerate(cases):
        image = np.random.default_rng([len(folder.name), number]).normal(size=GRID.shape).astype(np.float32)
        write_volume(folder / "imagesTr" / f"{case}_0000.nii.gz", image, GRID)
        write_volume(folder / "labelsTr" / f"{case}.nii.gz", (image > 1).astype(np.uint8), GRID)
    content = {
        "channel_names": {"0": channel},
        "labels": labels,
        "numTraining": len(cases),
        "file_ending": ".nii.gz",
        "licence": "CC0",
    }
    write_json(folder / "dataset.json", content)
    return folder


def write_set(folder, hosts, learned_from=TRAIN, **options):
    """A set of a pair per host; a host is a name, or a name with the hash of its voxels."""
    hosts = [host if isinstance(host, tuple) else (host, "voxels") for host in hosts]
    cases = [f"{host}_s{number:04d}" for number, (host, _) in enumerate(hosts)]
    write_cases(folder, cases, **options)
    lines = [
        replace(provenance(case, host), host_hash="hash", host_voxels=voxels)
        for case, (host, voxels) in zip(cases, hosts, strict=True)
    ]
    write_provenance(folder, lines)
    write_json(
        folder / "set.json",
        {"format": PAIR_FORMAT, "method": "toy", **({} if learned_from is None else {"learned_from": learned_from})},
    )
    write_json(folder / "held_out.json", [case for case in REAL if case not in (learned_from or ())])
    return folder


@pytest.fixture
def real(tmp_path):
    return write_cases(tmp_path / "raw" / "Dataset501_Real", REAL)


@pytest.fixture
def healthy(tmp_path):
    """Three pairs in healthy hosts, learnt from all but r04 and r09."""
    return write_set(tmp_path / "sets" / "healthy", ["h1", "h2", "h1"])


def test_a_pair_is_left_out_where_its_method_has_learned_from_a_validation_case_as_a_healthy_scan(real, tmp_path):
    """Under another name: the case is known by its voxels."""
    pairs = write_set(tmp_path / "sets" / "seen", ["h1", "h2"])
    image, grid = read_volume(real / "imagesTr" / "r04_0000.nii.gz")
    settings = json.loads((pairs / "set.json").read_text())
    scans = [
        {"name": "Somebody", "scan": {"shape": grid.shape, "voxels": hash_voxels(image)}},
        {"name": "r09", "scan": {"shape": grid.shape, "voxels": "of another scan"}},
    ]
    write_json(pairs / "set.json", {**settings, "learned_from_healthy": scans})
    merge(real, pairs)
    (fold,) = json.loads((real.parent / "Dataset601_Merged" / "folds.json").read_text())
    assert fold["validation"] == ["r09"]
    assert "r04" in fold["train"]
    assert len(fold["pairs"]) == 2
    merge(real, pairs, out="Dataset602_Merged", folds=5)
    folds = json.loads((real.parent / "Dataset602_Merged" / "folds.json").read_text())
    assert all(not each["pairs"] for each in folds if {*each["validation"]} & {*TRAIN, "r04"})


def merge(real, *sets, out="Dataset601_Merged", **options):
    return merge_sets(Workspace(real.parent / "work"), str(real), sets, real.parent / out, **options)


def splits(made):
    return json.loads((made.out / "splits_final.json").read_text())


def test_pairs_with_several_tumors_are_merged_with_all_of_them(real, healthy):
    lines = read_provenance(healthy)
    several = replace(lines[0], tumors=lines[0].tumors * 3, left_out=({"empty": 2},))
    write_provenance(healthy, [several, *lines[1:]])
    made = merge(real, healthy)
    found = {record.case: record for record in read_provenance(made.out)}
    assert found[f"healthy_{several.case}"].tumors == several.tumors
    assert found[f"healthy_{several.case}"].left_out == several.left_out


def test_real_cases_that_dataset_json_lists_get_names_of_nnunet(real, healthy):
    content = json.loads((real / "dataset.json").read_text())
    listed = {}
    for number, case in enumerate(REAL):
        image, label = real.parent / "files" / f"{number}.nii.gz", real.parent / "files" / f"l{number}.nii.gz"
        image.parent.mkdir(exist_ok=True)
        (real / "imagesTr" / f"{case}_0000.nii.gz").rename(image)
        (real / "labelsTr" / f"{case}.nii.gz").rename(label)
        listed[case] = {"images": [f"../files/{image.name}"], "label": str(label)}
    write_json(real / "dataset.json", {**content, "dataset": listed, "overwrite_image_reader_writer": "NibabelIO"})
    made = merge(real, healthy)
    assert len([*made.out.glob("imagesTr/*")]) == len([*made.out.glob("labelsTr/*")]) == len(REAL) + 3
    assert hash_file(made.out / "imagesTr" / "r03_0000.nii.gz") == hash_file(real.parent / "files" / "3.nii.gz")
    assert hash_file(made.out / "labelsTr" / "r03.nii.gz") == hash_file(real.parent / "files" / "l3.nii.gz")
    merged = json.loads((made.out / "dataset.json").read_text())
    assert "dataset" not in merged
    assert merged["overwrite_image_reader_writer"] == "NibabelIO"


def test_the_merged_set(real, healthy):
    before = {path: hash_file(path) for path in (*real.rglob("*.*"), *healthy.rglob("*.*"))}
    made = merge(real, healthy)
    pairs = ["healthy_h1_s0000", "healthy_h1_s0002", "healthy_h2_s0001"]
    assert sorted(p.name for p in made.out.glob("labelsTr/*")) == [f"{case}.nii.gz" for case in (*pairs, *REAL)]
    assert sorted(p.name for p in made.out.glob("imagesTr/*")) == [f"{case}_0000.nii.gz" for case in (*pairs, *REAL)]
    for merged, original in (
        ("r03", real / "labelsTr" / "r03.nii.gz"),
        (pairs[2], healthy / "labelsTr" / "h2_s0001.nii.gz"),
    ):
        label = made.out / "labelsTr" / f"{merged}.nii.gz"
        assert hash_file(label) == hash_file(original)
        with label.open("r+b") as stream:  # edited in place: the original stays, see the last line
            stream.write(b"edited")
    image = made.out / "imagesTr" / f"{pairs[2]}_0000.nii.gz"
    assert hash_file(image) == hash_file(healthy / "imagesTr" / "h2_s0001_0000.nii.gz")
    assert image.stat(follow_symlinks=False).st_nlink == 1
    content = json.loads((made.out / "dataset.json").read_text())
    assert (content["numTraining"], content["labels"], content["licence"]) == (13, LABELS, "CC0")
    assert splits(made) == [{"train": sorted([*TRAIN, *pairs]), "val": ["r04", "r09"]}]
    (fold,) = json.loads((made.out / "folds.json").read_text())
    assert (len(fold["pairs"]), fold["left_out"], fold["real_share"]) == (3, {}, round(8 / 11, 4))
    assert [json.loads(line)["case"] for line in (made.out / "provenance.jsonl").read_text().splitlines()] == [
        pairs[0],
        pairs[2],
        pairs[1],
    ]
    assert before == {path: hash_file(path) for path in before}


def test_nnunets_own_check_passes(real, healthy, monkeypatch):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    made = merge(real, healthy)
    monkeypatch.setattr(multiprocessing, "get_context", lambda *_: Threads)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        verify_dataset_integrity(str(made.out), 1)
    assert "verify_dataset_integrity Done" in said.getvalue()
    assert "Warning" not in said.getvalue()


def test_images_are_links_or_copies_and_labels_are_copies(real, healthy, tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError("no reflinks here")

    monkeypatch.setattr(links, "_reflink", refuse)
    linked = real / "imagesTr" / "r00_0000.nii.gz"
    linked.rename(tmp_path / "elsewhere.nii.gz")
    linked.symlink_to("../../../elsewhere.nii.gz")
    made = merge(real, healthy)
    assert (made.out / "imagesTr" / linked.name).readlink() == tmp_path / "elsewhere.nii.gz"
    assert "images are links to the originals" in capsys.readouterr().err
    merge(real, healthy, copy=True)  # turns the links into copies
    assert "images are copies, too" in capsys.readouterr().err
    for path in made.out.glob("*Tr/*"):
        assert not path.is_symlink()
        assert path.stat().st_nlink == 1
    assert hash_file(made.out / "imagesTr" / linked.name) == hash_file(linked)


@pytest.mark.parametrize("name", ["imagesTr/r03_0000.nii.gz", "labelsTr/r03.nii.gz"])
def test_a_cut_file_of_a_real_case_is_told(real, healthy, name):
    content = (real / name).read_bytes()
    (real / name).write_bytes(content[: int(0.6 * len(content))])
    with pytest.raises(DataError) as caught:
        merge(real, healthy)
    assert [fault.where for fault in caught.value.faults] == [str(real / name)]
    assert not (real.parent / "Dataset601_Merged").exists()


def test_an_edited_label_is_not_overwritten(real, healthy):
    made = merge(real, healthy)
    edited = made.out / "labelsTr" / "r03.nii.gz"
    edited.write_bytes(b"hours of work")
    with pytest.raises(StateError, match="edited") as caught:
        merge(real, healthy)
    assert [fault.where for fault in caught.value.faults] == [str(edited)]
    said = "choose another --out to keep the edit, or delete this file to take the original again"
    assert caught.value.faults[0].remedy == said
    assert merge(real, healthy, out="Dataset602_Other").pairs  # with another --out
    assert edited.read_bytes() == b"hours of work"
    edited.unlink()  # the remedy
    merge(real, healthy)
    assert hash_file(edited) == hash_file(real / "labelsTr" / "r03.nii.gz")


def test_again_is_the_same_and_other_options_are_another_set(real, healthy):
    made = merge(real, healthy)
    (made.out / "dataset.json").unlink()  # killed before the end
    (made.out / "imagesTr" / "r01_0000.nii.gz").unlink()
    assert splits(merge(real, healthy)) == splits(made)
    assert (made.out / "imagesTr" / "r01_0000.nii.gz").is_file()
    with pytest.raises(StateError, match="other oversample"):
        merge(real, healthy, oversample=2)


def test_a_pair_painted_into_a_validation_case_is_left_out(real, tmp_path, monkeypatch):
    """By the host's name, or by its voxels under another name; cases of other shapes than the pairs' are not read."""
    image, grid = read_volume(real / "imagesTr" / "r09_0000.nii.gz")
    write_volume(
        real / "imagesTr" / "r09_0000.nii.gz", image.astype(np.float64), grid
    )  # the same scan, in another file
    other = real / "imagesTr" / "r00_0000.nii.gz"
    write_volume(other, np.concatenate([image, image]), replace(grid, shape=(2 * image.shape[0], *image.shape[1:])))
    write_volume(
        real / "labelsTr" / "r00.nii.gz", np.zeros((2 * image.shape[0], *image.shape[1:]), np.uint8), read_grid(other)
    )
    found = write_set(tmp_path / "test", ["r04", "h1", "r00", ("renamed", hash_voxels(image))])
    read = []
    monkeypatch.setattr(merge_module, "damage_faults", lambda *_, **__: [])  # which reads every file
    monkeypatch.setattr(volumes, "read_volume", lambda path: read.append(path.name) or read_volume(path))
    (fold,) = merge(real, found).folds
    assert fold.pairs == ("test_h1_s0001", "test_r00_s0002")
    assert fold.left_out == {PAINTED: 2}
    assert sorted(read) == [f"{case}_0000.nii.gz" for case in sorted(REAL) if case != "r00"]


def test_sets_of_one_name_are_told_apart_by_their_workspaces(real, tmp_path):
    """As `tumorgen run --fold K -w WORK_K` leaves them."""
    sets = [write_set(tmp_path / f"work_{i}" / "synthetic" / "toy_hosts", ["h1"], TRAIN[i:]) for i in range(2)]
    (fold,) = merge(real, *sets).folds
    assert fold.pairs == ("work_0_toy_hosts_h1_s0000", "work_1_toy_hosts_h1_s0000")


def test_a_host_that_bears_the_name_of_another_case_is_known(real, tmp_path):
    """Scans that were numbered anew: the host r00 is the data set's validation case r09."""
    image, _ = read_volume(real / "imagesTr" / "r09_0000.nii.gz")
    (fold,) = merge(real, write_set(tmp_path / "anew", [("r00", hash_voxels(image)), "r00"])).folds
    assert fold.left_out == {PAINTED: 1}
    assert fold.pairs == ("anew_r00_s0001",)


def test_one_fold_validates_on_what_no_set_has_learnt_from(real, healthy, tmp_path):
    other = write_set(tmp_path / "other", ["h1"], ["r04", "r01"])
    (fold,) = merge(real, healthy, other).folds
    assert (fold.validation, len(fold.train), len(fold.pairs)) == (("r09",), 9, 4)
    rest = write_set(tmp_path / "rest", ["h1"], ["r09"])
    with pytest.raises(DataError, match="holds out and no other set has learned from") as caught:
        merge(real, healthy, other, rest, out="Dataset603_All")
    said = "merge sets of one workspace, whose held-out cases are left, or give --folds 5"
    assert caught.value.faults[0].remedy.startswith(said)
    assert len(merge(real, healthy, other, rest, out="Dataset603_All", folds=5).folds) == 5
    assert merge(real, healthy, out="Dataset604_One").folds[0].validation == ("r04", "r09")


def test_what_is_in_no_part_of_the_workspaces_split_is_in_none_of_the_merged_one(real, healthy, monkeypatch):
    """As with nnU-Net's own splits_final.json: such a case neither teaches nor steers."""
    told = []
    monkeypatch.setattr(merge_module.console, "warn", told.append)
    write_json(healthy / "set.json", {"format": PAIR_FORMAT, "method": "toy", "learned_from": TRAIN[1:]})
    write_json(healthy / "held_out.json", ["r09"])
    (fold,) = merge(real, healthy).folds
    assert (fold.train, fold.validation) == (tuple(TRAIN[1:]), ("r09",))
    (warning,) = told
    assert f"left out, because in no part of the sets' splits: 2 real cases ({TRAIN[0]}, r04)" in warning


def test_five_folds_are_nnunets_and_a_set_serves_those_it_knows_nothing_of(real, healthy, tmp_path):
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    wanted = generate_crossval_split(sorted(REAL), seed=12345, n_splits=5)
    own = [
        write_set(tmp_path / f"fold{i}", ["h1", wanted[i]["val"][0]], list(fold["train"]))
        for i, fold in enumerate(wanted)
    ]
    made = merge(real, *own, healthy, folds=5)
    for i, (fold, written) in enumerate(zip(made.folds, splits(made), strict=True)):
        clean = not {*TRAIN} & {*wanted[i]["val"]}
        assert list(fold.validation) == written["val"] == wanted[i]["val"]
        assert [case for case in written["train"] if case in REAL] == wanted[i]["train"]
        assert fold.pairs == (
            f"fold{i}_h1_s0000",
            *(("healthy_h1_s0000", "healthy_h2_s0001", "healthy_h1_s0002") * clean),
        )
        assert fold.left_out == {LEARNED: 8 + 3 * (not clean), PAINTED: 1}


def test_as_many_folds_as_the_data_set_has_are_its_own(real, healthy):
    own = [
        {"train": [c for c in REAL if c not in val], "val": list(val)}
        for val in (("r04", "r09"), ("r00", "r01"), ("r02", "r03"))
    ]
    write_json(real / "splits_final.json", own)
    made = merge(real, healthy, folds=3)
    assert [list(fold.validation) for fold in made.folds] == [fold["val"] for fold in own]
    assert [len(fold.pairs) for fold in made.folds] == [3, 0, 0]
    assert sorted(len(fold.validation) for fold in merge(real, healthy, folds=2, out="Dataset602_Two").folds) == [
        5,
        5,
    ]  # nnU-Net's own
    (real / "splits_final.json").rename(real.parent / "splits_final.json")
    write_json(real.parent / "given" / real.name / "splits_final.json", own)
    there = merge(real, healthy, folds=3, out="Dataset604_There", preprocessed=real.parent / "given")
    assert [list(fold.validation) for fold in there.folds] == [fold["val"] for fold in own]
    with pytest.raises(DataError, match="11 folds"):
        merge(real, healthy, folds=11, out="Dataset603_Many")


def test_a_judge_that_knows_a_validation_case_is_told(real, healthy, tmp_path, monkeypatch):
    """Once a set, and only where the set's pairs are learnt from."""
    told = []
    monkeypatch.setattr(merge_module.console, "warn", told.append)
    chosen = write_set(tmp_path / "chosen", ["h1", "h2"])
    write_json(
        chosen / "judges.json",
        {
            "/elsewhere/judge": LearnedCases("Dataset777_Other", ("r04", *TRAIN, "x")),
            "/own": LearnedCases(real.name, TRAIN),
        },
    )
    merge(real, healthy, chosen)
    (warning,) = told
    assert (
        "pairs of chosen (/elsewhere/judge) has learned from 1 case of Dataset777_Other with the same names" in warning
    )
    assert "(r04)" in warning


def test_a_judge_that_knows_only_cases_whose_folds_the_set_does_not_serve_is_not_told(real, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(merge_module.console, "warn", told.append)
    folds = merge(real, write_set(tmp_path / "any", ["h1"]), folds=5).folds
    chosen = write_set(tmp_path / "chosen", ["h1"], folds[0].train)  # it serves the first fold alone
    for name, cases in (("Dataset602_Other", folds[1].validation), ("Dataset603_Own", folds[0].validation)):
        write_json(chosen / "judges.json", {"/judge": LearnedCases(real.name, cases)})
        merge(real, chosen, out=name, folds=5)
        assert len(told) == (name == "Dataset603_Own")


def test_nnunet_trains_on_these_folds_and_draws_repeats_as_they_are(real, healthy, tmp_path):
    """Its planner's copy, its trainer's split, its data set and its loader's draw, all its own code."""
    from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import _maybe_copy_splits_file
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    made = merge(real, healthy, oversample=4)
    assert made.folds[0].real_share == round(32 / 35, 4)
    folder = tmp_path / "preprocessed" / made.out.name
    (folder / "data").mkdir(parents=True)
    for _ in range(2):  # copied, then found to match
        _maybe_copy_splits_file(str(made.out / "splits_final.json"), str(folder / "splits_final.json"))
    trainer = SimpleNamespace(
        fold=0,
        dataset_class=nnUNetDatasetBlosc2,
        preprocessed_dataset_folder=str(folder / "data"),
        print_to_log_file=lambda *_: None,
        preprocessed_dataset_folder_base=str(folder),
        folder_with_segs_from_previous_stage=None,
    )
    train, validation = nnUNetTrainer.do_split(trainer)
    assert validation == ["r04", "r09"]
    data = nnUNetDatasetBlosc2(str(folder / "data"), train)
    loader = nnUNetDataLoader(data, 7000, (4, 4, 4), (4, 4, 4), SimpleNamespace(all_labels=[1], has_ignore_label=False))
    np.random.seed(0)
    drawn = Counter(loader.get_indices())
    assert set(drawn) == {*TRAIN, *made.folds[0].pairs}
    assert sum(drawn[case] for case in TRAIN) / 7000 == pytest.approx(made.folds[0].real_share, abs=0.02)
    assert min(drawn[case] for case in TRAIN) > 2 * max(drawn[case] for case in made.folds[0].pairs)


def test_the_preprocessed_folder(real, healthy, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "preprocessed"))
    made = merge(real, healthy)
    target = tmp_path / "preprocessed" / made.out.name / "splits_final.json"
    assert json.loads(target.read_text()) == splits(made)
    merge(real, healthy)  # the same is no fault
    monkeypatch.setenv("nnUNet_preprocessed", str(tmp_path / "other"))
    write_json(tmp_path / "given" / "Dataset604_X" / "splits_final.json", [])
    with pytest.raises(DataError, match="other folds") as caught:
        merge(real, healthy, out="Dataset604_X", preprocessed=tmp_path / "given")
    said = "delete it and what nnU-Net made from it, or choose another number for --out; nnU-Net would go on using that"
    assert caught.value.faults[0].remedy.startswith(said)
    assert not (real.parent / "Dataset604_X").exists()
    merge(real, healthy, out="Dataset605_X", preprocessed=tmp_path / "given")
    (tmp_path / "given" / "Dataset604_X" / "splits_final.json").unlink()
    assert merge(real, healthy, out="Dataset604_X", preprocessed=tmp_path / "given").folds == made.folds


def faults(real, *sets, **options):
    with pytest.raises(DataError) as error:
        merge(real, *sets, **options)
    return str(error.value), len(error.value.faults)


def test_every_fault_at_once(real, healthy, tmp_path):
    labels = write_set(tmp_path / "labels", ["h"], labels={"background": 0, "tumor": 2, "organ": 1})
    channels = write_set(tmp_path / "channels", ["h"], channel="CT")
    silent = write_set(tmp_path / "silent", ["h"], None)
    foreign = write_set(tmp_path / "foreign", ["h"], ["somebody", "r00"])
    half = write_set(tmp_path / "half", ["h", "h"])
    (half / "labelsTr" / "h_s0001.nii.gz").unlink()
    unfinished = write_set(tmp_path / "unfinished", ["h"])
    (unfinished / "dataset.json").unlink()
    twin = write_set(tmp_path / "twins" / "healthy", ["h"])
    (real.parent / "Dataset601_Older").mkdir()
    told, count = faults(real, healthy, labels, channels, silent, foreign, half, unfinished, twin, folds=11)
    for part in (
        "labels/dataset.json: labels",
        "channels/dataset.json: channel_names",
        "silent/set.json: learned_from",
        f"delete {silent} and make the set again",
        "run the same `tumorgen synthesize`",
        "1 case that Dataset501_Real does not have (somebody)",
        "half/labelsTr/h_s0001.nii.gz",
        "no dataset.json",
        "another set of the same name",
        "Dataset601_Older",
        "11 folds",
        "merge with the data set that the pairs were made from",
        "rename one of the folders",
        "choose another number for --out",
    ):
        assert part in told, part
    assert count == 10  # of the twins each is told
    assert not (real.parent / "Dataset601_Merged").exists()


def test_an_unknown_set_is_answered_with_the_known_ones(real, healthy, capsys):
    work = real.parent / "work" / "synthetic"
    for name in ("tumorgen_torso", "copypaste_test"):
        write_set(work / name, ["h1"])
    with pytest.raises(StateError) as caught:
        merge(real, Path("tumorgen_tors"), healthy)
    (fault,) = caught.value.faults
    assert "copypaste_test, tumorgen_torso" in fault.expected
    assert fault.remedy == "did you mean tumorgen_torso?"
    assert capsys.readouterr().err == ""  # nothing is said of cases that the unknown set may hold out
    assert merge(real, Path("tumorgen_torso"), healthy).pairs  # by the name that was suggested


@pytest.mark.parametrize("variable", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_a_number_that_nnunet_knows_already_is_refused(real, healthy, tmp_path, monkeypatch, variable):
    """Also where another data set of that number is in another of nnU-Net's folders."""
    monkeypatch.setenv(variable, str(tmp_path / "nnunet"))
    (tmp_path / "nnunet" / "Dataset601_Older").mkdir(parents=True)
    told, count = faults(real, healthy)
    assert str(tmp_path / "nnunet" / "Dataset601_Older") in told
    assert "choose another number for --out" in told
    assert count == 1
    merge(real, healthy, out="Dataset602_Merged")


def test_pairs_without_the_hosts_labels_and_sets_at_work_are_refused(real, healthy, tmp_path):
    bare = write_set(tmp_path / "bare", ["h"])
    write_json(
        bare / "set.json",
        {"format": PAIR_FORMAT, "method": "toy", "learned_from": TRAIN, "hosts_without_labels": ["h"]},
    )
    busy = write_set(tmp_path / "busy", ["h"])
    (busy / "provenance_1of2.jsonl").touch()
    write_json(busy / "shards.json", {"parts": 2, "jobs": 1})
    told, count = faults(real, healthy, bare, busy)
    assert "1 host without labels (h)" in told
    assert (
        "paint into hosts in nnU-Net's form: imagesTr and, beside it, labelsTr with the data set's own labels" in told
    )
    assert "unfinished shards" in told
    assert "let them finish, or run them again" in told
    assert count == 2
    for name in ("provenance_1of2.jsonl", "shards.json"):  # the shards have finished
        (busy / name).unlink()
    labeled = write_set(tmp_path / "labeled", ["h"])
    assert len(merge(real, healthy, labeled, busy).pairs) == 5


def test_names(real, healthy, tmp_path):
    told = faults(real, healthy, out="Merged")[0]
    assert "DatasetNNN_Name" in told
    assert f"for example --out {real.parent / 'Dataset601_Merged'}" in told
    write_cases(real, [*REAL, "healthy_h1_s0000"])
    told = faults(real, healthy, out="Dataset601_Merged")[0]
    assert "healthy_h1_s0000, the name of another pair or a real case" in told
    assert "rename the set's folder" in told
    healthy = healthy.rename(healthy.with_name("renamed"))
    assert len(merge(real, healthy, out="Dataset601_Merged").pairs) == 3


def test_pairs_of_two_sets_that_would_bear_one_name(real, tmp_path):
    sets = [write_set(tmp_path / name, [host]) for name, host in (("pet", "ct_h1"), ("pet_ct", "h1"))]
    told, count = faults(real, *sets)
    assert "pet_ct_h1_s0000, the name of another pair" in told
    assert count == 2  # each is told, by its own file


def test_what_is_merged_is_not_merged_again(real, healthy):
    made = merge(real, healthy)
    with pytest.raises(StateError, match="a merged data set") as caught:
        merge(real, made.out, out="Dataset602_X")
    assert caught.value.faults[0].remedy == "give the sets that were merged, see merge.json there"
    assert str(healthy) in (made.out / "merge.json").read_text()
    told = faults(made.out, healthy, out="Dataset602_X")[0]
    assert "real cases alone" in told
    assert "give the real data set first" in told
    assert len(merge(real, healthy, out="Dataset602_X").pairs) == 3
    assert "real cases alone" in faults(healthy, healthy, out="Dataset602_X")[0]


def test_a_folder_of_something_else_is_left_alone(real, healthy, monkeypatch):
    monkeypatch.setattr(merge_module, "damage_faults", lambda *_, **__: pytest.fail("the real cases were read"))
    out = real.parent / "Dataset601_Merged"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(StateError, match="not empty") as caught:
        merge(real, healthy)
    assert "--out" in caught.value.faults[0].remedy
    assert [p.name for p in out.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("name", ["imagesTr/h1_s0000_0000.nii.gz", "labelsTr/h1_s0000.nii.gz"])
def test_a_set_with_a_cut_file_is_not_merged(real, healthy, name):
    content = (healthy / name).read_bytes()
    (healthy / name).write_bytes(content[: len(content) * 6 // 10])
    with pytest.raises(DataError) as caught:
        merge(real, healthy)
    assert [(fault.where, fault.found) for fault in caught.value.faults] == [
        (str(healthy / name), "truncated or damaged")
    ]


def test_names_that_would_be_too_long_are_told_before_anything_is_written(real, tmp_path):
    host = "1.2.840." + "1" * 190
    for name, fits in (("s", True), ("s" * 60, False)):
        folder = write_set(tmp_path / "sets" / name, [host])
        if fits:
            assert merge(real, folder, out="Dataset602_Fits").steps == len(REAL) + 1
            continue
        with pytest.raises(DataError) as caught:
            merge(real, folder)
        (fault,) = caught.value.faults
        assert (fault.found, fault.expected) == ("a merged name of 277 bytes", "at most 255")
        assert fault.remedy == "give the set's folder a shorter name"
        assert not (real.parent / "Dataset601_Merged").exists()


def test_real_cases_that_the_plan_has_read_are_not_read_again(workspace, phantoms, tmp_path, monkeypatch):
    """What was planned was read whole, and has not changed since; other data sets are read."""
    paint(workspace, phantoms, tmp_path / "set", pairs=1)
    read = []
    monkeypatch.setattr(merge_module, "damage_faults", lambda real, **_: read.append(real.path) or [])
    merge_sets(workspace, str(phantoms.dataset), [tmp_path / "set"], tmp_path / "Dataset601_Merged")
    assert read == []
    merge_sets(Workspace(tmp_path / "none"), str(phantoms.dataset), [tmp_path / "set"], tmp_path / "Dataset602_Merged")
    assert read == [phantoms.dataset]


def test_folds_keep_scans_of_a_patient_together(real, healthy, tmp_path):
    """r00 and r05 are of one patient, and the healthy host h1 of the patient of r09, which validates."""
    groups = {case: case for case in REAL} | {"r00": "P", "r05": "P", "h1": "r09"}
    write_patients(real, groups)
    pairs = write_set(tmp_path / "sets" / "painted", ["h1", "h2", "r00"])
    made = merge(real, healthy, pairs)
    assert made.folds[0].validation == ("r04", "r09")
    assert made.folds[0].left_out == {PAINTED: 3}  # the pairs in h1
    assert read_patients(made.out / "patients.csv", REAL) == {case: groups[case] for case in REAL}
    several = merge(real, pairs, out="Dataset602_Merged", folds=5)
    assert all(({"r00", "r05"} <= {*fold.validation}) == ("r00" in fold.validation) for fold in several.folds)
    (fold,) = [fold for fold in several.folds if "r05" in fold.validation]
    assert fold.pairs == ()
    write_json(
        real / "splits_final.json", [{"train": [*REAL[1:]], "val": ["r00"]}, {"train": ["r00"], "val": [*REAL[1:]]}]
    )
    with pytest.raises(DataError, match="patient P"):
        merge(real, pairs, out="Dataset603_Merged", folds=2)


def test_a_case_whose_patient_another_set_knows_does_not_validate(real, tmp_path):
    write_patients(real, {case: case for case in REAL} | {"r04": "P", "r00": "P"})
    one = write_set(tmp_path / "one" / "a", ["h1"])
    other = write_set(tmp_path / "other" / "b", ["h2"], learned_from=("r00",))
    assert merge(real, one).folds[0].validation == ("r04", "r09") or True
    assert merge(real, one, other, out="Dataset604_Merged").folds[0].validation == ("r09",)
