"""A synthetic scan says so in its own header and in dataset.json, wherever it is taken."""

import json

import nibabel
import numpy as np
import pytest
from support.command_line import call

from tumorgen_cli import api
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.synthesis.set_files import SYNTHETIC


def descriptions(folder):
    files = sorted([*(folder / "imagesTr").iterdir(), *(folder / "labelsTr").iterdir()])
    return {path.name: nibabel.load(path).header["descrip"].item().decode() for path in files}


def test_a_pair_says_so_in_every_set(workspace, phantoms, tmp_path):
    """In the set, in the filtered set and beside real cases, which say nothing; dataset.json counts them."""
    work = tmp_path / "work"
    work.mkdir()
    shared = workspace.shared_in(work)
    hosts = api.HostOptions(healthy=phantoms.healthy)
    made = api.synthesize(hosts, 2, method="syntumor", work=shared.root, out=tmp_path / "pairs", device="cpu")
    assert made.tally.pairs == 2
    assert set(descriptions(tmp_path / "pairs").values()) == {SYNTHETIC}
    counted = {"pairs": 2, "of_cases": 2, "made_by": "tumorgen", "listed_in": "provenance.jsonl"}
    assert json.loads((tmp_path / "pairs" / "dataset.json").read_text())["synthetic"] == counted
    quality = api.QualityOptions(keep=0.0, judge="bundled", p_alone=True)
    kept = api.filter_pairs(tmp_path / "pairs", quality, out=tmp_path / "kept", work=shared.root, device="cpu")
    assert set(descriptions(tmp_path / "kept").values()) == {SYNTHETIC}
    for folder in ("pairs", "kept"):
        assert "2 synthetic pairs" in (tmp_path / folder / "SET_CARD.md").read_text()
    found = json.loads((tmp_path / "kept" / "dataset.json").read_text())["synthetic"]
    assert (found["pairs"], found["of_cases"]) == (kept.kept, kept.kept)
    out = tmp_path / "Dataset601_Merged"
    call("merge", phantoms.dataset, tmp_path / "pairs", "--out", out, "-w", shared.root)
    texts = descriptions(out)
    assert {name for name, text in texts.items() if text == SYNTHETIC} == {n for n in texts if n.startswith("pairs_")}
    assert {text for text in texts.values() if text != SYNTHETIC} == {""}
    found = json.loads((out / "dataset.json").read_text())["synthetic"]
    assert (found["pairs"], found["of_cases"]) == (2, len(texts) // 2)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_header_changes_no_voxel(ending, grid, tmp_path):
    array = np.random.default_rng(0).normal(size=grid.shape).astype(np.float32)
    for name, about in (("plain", ""), ("told", SYNTHETIC)):
        write_volume(tmp_path / f"{name}{ending}", array, grid, about=about)
    (plain, one), (told, other) = (read_volume(tmp_path / f"{name}{ending}") for name in ("plain", "told"))
    assert np.array_equal(plain, told)
    assert one == other
    if ending in (".nrrd", ".mha"):
        start = (tmp_path / f"told{ending}").read_bytes()[:2000]
        assert SYNTHETIC.encode() in start
    assert len(SYNTHETIC) < 80
