"""Whatever a header, a JSON file or a plan holds: it is read as it should be, or refused with a `TumorgenError`."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as numbers

from tumorgen_cli.data.dataset import read_dataset
from tumorgen_cli.data.volumes import read_volume, write_volume
from tumorgen_cli.geometry import Grid
from tumorgen_cli.planning.plan import Plan, read_plan
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.system.errors import DataError, TumorgenError

HEADER = 348
#: examples share one folder and overwrite its files, so a fixture of the function's scope is right for all of them
many = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
TYPES = (np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64)


@st.composite
def volumes(draw: st.DrawFn) -> np.ndarray:
    dtype = draw(st.sampled_from(TYPES))
    shape = draw(st.tuples(*[st.integers(2, 6)] * 3))
    return draw(numbers.arrays(dtype, shape, elements=numbers.from_dtype(np.dtype(dtype), allow_nan=False)))


@st.composite
def grids(draw: st.DrawFn, shape: tuple[int, int, int]) -> Grid:
    spacing = tuple(draw(st.floats(0.2, 9.0)) for _ in range(3))
    origin = tuple(draw(st.floats(-500, 500)) for _ in range(3))
    matrix = np.array([draw(st.floats(-1, 1)) for _ in range(9)]).reshape(3, 3) + 2 * np.eye(3)
    turn, _ = np.linalg.qr(matrix)
    return Grid(shape, spacing, origin, tuple(map(float, turn.ravel())))


@many
@given(data=st.data())
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".nrrd"])
def test_what_is_written_is_read_again(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    voxels = data.draw(volumes())
    grid = data.draw(grids(voxels.shape))
    path = tmp_path / f"scan{ending}"
    write_volume(path, voxels, grid)
    found, found_grid = read_volume(path)
    np.testing.assert_array_equal(found, voxels)
    assert found.dtype == voxels.dtype
    np.testing.assert_allclose(found_grid.spacing_mm, grid.spacing_mm, rtol=1e-5)
    np.testing.assert_allclose(found_grid.origin_mm, grid.origin_mm, atol=1e-3)
    np.testing.assert_allclose(found_grid.direction, grid.direction, atol=1e-5)


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "scan.nii.gz"
    write_volume(
        path, np.arange(240, dtype=np.int16).reshape(6, 8, 5), Grid((6, 8, 5), (1.5, 2.0, 3.0), (4.0, 5.0, 6.0))
    )
    return path


@many
@given(share=st.floats(0, 0.999))
def test_a_cut_file_is_refused(tmp_path: Path, scan: Path, share: float) -> None:
    whole = scan.read_bytes()
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DataError):
        read_volume(cut)


@settings(many, max_examples=200)
@given(at=st.integers(0, HEADER - 1), byte=st.integers(0, 255))
def test_a_header_is_read_or_refused(tmp_path: Path, scan: Path, at: int, byte: int) -> None:
    raw = bytearray(gzip.decompress(scan.read_bytes()))
    raw[at] = byte
    spoiled = tmp_path / "spoiled.nii.gz"
    spoiled.write_bytes(gzip.compress(bytes(raw), 1))
    try:
        voxels, grid = read_volume(spoiled)
    except DataError as error:
        assert "spoiled.nii.gz" in str(error)  # noqa: PT017 - a header that is accepted is fine as well
        return
    assert voxels.shape == grid.shape
    assert min(grid.spacing_mm) > 0
    assert np.isfinite([*grid.spacing_mm, *grid.origin_mm, *grid.direction]).all()


@many
@given(
    key=st.sampled_from(["labels", "channel_names", "file_ending", "numTraining", "overwrite_image_reader_writer"]),
    value=JSON,
)
def test_a_dataset_json_is_read_or_refused(phantom_set: Path, key: str, value: Any) -> None:
    path = phantom_set / "dataset.json"
    whole = path.read_text(encoding="utf-8")
    path.write_text(json.dumps({**json.loads(whole), key: value}), encoding="utf-8")
    try:
        read_dataset(phantom_set)
    except TumorgenError as error:
        assert error.faults  # noqa: PT017 - any value that is accepted is fine as well
    finally:
        path.write_text(whole, encoding="utf-8")


@pytest.fixture
def phantom_set(phantoms: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(phantoms.dataset, tmp_path / phantoms.dataset.name))


def leaves(value: Any, at: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where the values of a plan are."""
    if not isinstance(value, dict) or not value:
        return [at]
    return [place for key, part in value.items() for place in leaves(part, (*at, key))]


@settings(many, max_examples=120)
@given(data=st.data())
def test_a_plan_is_read_or_refused(workspace: Workspace, tmp_path: Path, data: st.DataObject) -> None:
    value = json.loads(workspace.plan_file.read_text(encoding="utf-8"))
    place = data.draw(st.sampled_from(leaves({key: part for key, part in value.items() if key != "decisions"})))
    inside = value
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = data.draw(JSON)
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    try:
        plan = read_plan(path)
    except TumorgenError as error:
        assert "plan.json" in str(error)  # noqa: PT017 - a plan that is accepted is fine as well
        return
    assert isinstance(plan, Plan)
    assert plan.paste.draws > 0
    assert all(0 < s < 1e4 for s in plan.window.spacing_mm)
