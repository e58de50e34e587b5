"""No length is tuned to one data set: lengths of plans follow the data, and constants in mm or ml are named here."""

import ast
import re
from pathlib import Path

import numpy as np

import tumorgen_cli
from tumorgen_cli.data import channels
from tumorgen_cli.geometry import Box, Grid
from tumorgen_cli.methods.registry import METHODS, find_method
from tumorgen_cli.planning.fingerprint import PERCENTILES, CaseFacts, ChannelFacts, Fingerprint, TumorFacts
from tumorgen_cli.planning.plan import make_plan
from tumorgen_cli.system.devices import DeviceBudget
from tumorgen_cli.system.json_records import to_plain

#: fields of plans that are equal for all data, and why
FIELDS = {
    "mask.radii_mm": "published size classes of SynTumor; they choose deformation and edge, sizes follow the place",
    "texture.cloud_mm": "published by SynTumor, a rival; Pixel2Cancer and FreeTumor, rivals, take it over",
    "texture.grain_mm": "published by SynTumor, a rival; Pixel2Cancer and FreeTumor, rivals, take it over",
    "pixel2cancer.cell_mm": "published by Pixel2Cancer, a rival",
    "pixel2cancer.death_mm": "published by Pixel2Cancer, a rival",
    "syntumor.edge_mm": "published by SynTumor, a rival; at least half a working voxel",
    "difftumor.sampling.edge_mm": "published by DiffTumor, a rival",
    "difftumor.early_mm": "published by DiffTumor, a rival: the early stage of TNM",
}
#: constants of the package in mm or ml, and why they are none of a data set
CONSTANTS = {
    "data/dicom.py:_ROUNDING_MM": "the rounding of positions in DICOM tags",
    "methods/difftumor/config.py:_CELL_MM": "the cell that DiffTumor, a rival, publishes; coarser ones are halved",
    "methods/freetumor/config.py:_VOXEL_MM": "voxels in which FreeTumor's public code, a rival, gives its blurs",
    "planning/rules.py:PAPER_CELL_ML": "the cell of the paper, from which the number of latent channels is scaled",
}


def planned(name, shape, spacing, diameters):
    grid = Grid(shape, spacing)
    tumors = tuple(
        TumorFacts(Box((0, 0, 0), (2, 2, 2)), np.pi * d**3 / 6000, (d,) * 3, (5.0,), (3.0,), (0.5,) * 3)
        for d in map(float, diameters)
    )
    cases = tuple(CaseFacts(f"c{i}", grid, (each,)) for i, each in enumerate(tumors))
    levels = dict(zip((f"{p:g}" for p in PERCENTILES), np.linspace(0, 16, len(PERCENTILES)).tolist(), strict=True))
    facts = (ChannelFacts(name, levels, levels),)
    found = Fingerprint("D", "/d", "h", ".nii.gz", {"background": 0, "tumor": 1}, "tumor", 1, facts, cases)
    sections = {method: find_method(method).plan_section for method in METHODS}
    plan = to_plain(make_plan(found, [case.case for case in cases], DeviceBudget("cpu", 16.0, 1.0), sections))
    return {key: value for key, value in leaves(plan) if re.search(r"_(mm|ml)$", key)}


def leaves(tree, path=""):
    for key, value in tree.items():
        if key != "decisions":
            yield from leaves(value, f"{path}.{key}") if isinstance(value, dict) else [(f"{path}.{key}", value)]


def test_lengths_of_plans_follow_the_data():
    """Sarcomas on PET, nodules in chest CT, lesions in MR brains: what is equal in all three is a constant."""
    assert channels.is_pet("PET")
    pet = planned("PET", (60, 56, 110), (5.5, 5.5, 3.27), range(40, 170, 10))
    ct = planned("CT", (320, 320, 260), (0.8, 0.8, 1.25), range(5, 31))
    brain = planned("FLAIR", (160, 190, 170), (1.0, 1.0, 1.0), (3, 3, 4, 4, 5, 5, 6, 8, 12))
    assert {key.removeprefix(".") for key in pet} >= {"paste.feather_mm", "paste.heal_mm", "tolerance_mm"}
    constant = {key for key in pet if pet[key] == ct.get(key) == brain.get(key)}
    assert {key for key in constant if not any(key.endswith(name) for name in FIELDS)} == set()
    assert all(any(key.endswith(name) for key in constant | set(pet)) for name in FIELDS)  # none is outdated
    for key in ("paste.feather_mm", "paste.heal_mm", "paste.smallest_ml"):
        assert pet[f".{key}"] > max(ct[f".{key}"], brain[f".{key}"]), key


def test_constants_of_the_package_in_mm_or_ml_are_named():
    folder = Path(tumorgen_cli.__file__).parent
    found = set()
    for path in sorted(folder.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            found |= {f"{path.relative_to(folder)}:{name}" for name in names if re.search(r"_(MM|ML)$", name)}
    assert {name for name in found if "phantom" not in name} == set(CONSTANTS)
