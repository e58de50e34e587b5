"""merge."""

import json

from support.command_line import call, told


def test_from_pairs_to_a_merged_set(workspace, phantoms, tmp_path, monkeypatch):
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    pairs, out = tmp_path / "pairs", tmp_path / "raw" / "Dataset601_Merged"
    call(
        "synthesize",
        "-w",
        workspace.root,
        "--healthy",
        phantoms.healthy,
        "-n",
        2,
        "--method",
        "syntumor",
        "--out",
        pairs,
        "--device",
        "cpu",
    )
    result = call("merge", phantoms.dataset, pairs, "--out", out, "--oversample", 2)
    assert "nnUNetv2_plan_and_preprocess -d 601" in told(result)
    assert "copies the folds" in told(result)
    found = json.loads(call("merge", phantoms.dataset, pairs, "--out", out, "--oversample", 2, "--json").stdout)
    (fold,) = found["folds"]
    assert tuple(fold["validation"]) == workspace.splits().test
    assert tuple(fold["train"]) == workspace.splits().train
    assert (len(fold["pairs"]), fold["real_share"]) == (2, round(10 / 12, 4))
    (written,) = json.loads((out / "splits_final.json").read_text())
    assert len(written["train"]) == 12
    six = call("merge", phantoms.dataset, pairs, "--out", tmp_path / "Dataset602_Six", "--folds", 6)
    assert "no pair to learn from in fold" in told(six)
    assert "DatasetNNN_Name" in told(call("merge", phantoms.dataset, pairs, "--out", tmp_path / "merged", code=1))
    for name in ("nnUNet_raw", "nnUNet_results"):
        monkeypatch.delenv(name, raising=False)
    named = call("merge", phantoms.dataset, pairs, "--out", "Dataset603_Named", "-w", tmp_path / "work")
    assert (tmp_path / "work" / "nnunet" / "nnUNet_raw" / "Dataset603_Named" / "dataset.json").is_file()
    assert f"nnUNet_results={tmp_path / 'work' / 'nnunet' / 'nnUNet_results'}" in told(named).replace("\n", "")
