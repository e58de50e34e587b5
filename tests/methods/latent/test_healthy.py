"""Windows without tumors: places of a tumor's size in the body, encoded once, of the scans that are there."""

import shutil

import numpy as np
import pytest

from tumorgen_cli.data.body import body_mask
from tumorgen_cli.methods.latent import healthy
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.pipeline import preprocess
from tumorgen_cli.planning.workspace import Workspace
from tumorgen_cli.preprocessing.healthy import open_healthy


@pytest.fixture
def method(workspace, phantoms, tmp_path):
    found = Workspace(tmp_path / "work")
    shutil.copytree(workspace.root, found.root)
    preprocess.preprocess_healthy(found, phantoms.healthy, 0)
    return find_method("tumorgen")(found.plan(), found)


class Means:
    """Encodes into means of cells, and counts."""

    calls = 0

    def encode(self, image):
        self.calls += 1
        return image.unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4).mean((-1, -2, -3))


def test_windows_show_healthy_scans_and_a_place_of_a_tumors_size(method):
    shapes = healthy.tumor_shapes(method)
    windows = [*healthy.healthy_windows(method, 12)]
    assert len(windows) == 12
    assert sorted({window.name for window in windows}) == ["Healthy_000", "Healthy_001"]
    for window in windows:
        assert window.image.shape == (1, *method.plan.window.shape)
        assert window.image.dtype == np.float32
        assert np.abs(window.image).max() <= 1
        assert 0.3 * min(map(np.prod, shapes)) <= window.place.sum() <= 1.9 * max(map(np.prod, shapes))  # 0.85 to 1.15
    assert len({window.image.tobytes() for window in windows}) == 12
    again = [*healthy.healthy_windows(method, 12)]
    assert all(np.array_equal(a.image, b.image) for a, b in zip(windows, again, strict=True))


def test_places_lie_in_the_body(method):
    case = open_healthy(method.workspace, method.plan)[0]
    body = body_mask(np.asarray(case.image[0]))
    rng = np.random.default_rng(0)
    shown = [healthy.draw_healthy_window(case, [(3, 3, 3)], method.plan, rng) for _ in range(8)]
    values = [window.image[0][window.place > 0].mean() for window in shown]
    limits = case.record.limits[0]
    inside = 2 * np.sqrt(np.clip((np.percentile(case.image[0][body], 5) - limits[0]) / (limits[1] - limits[0]), 0, 1))
    assert np.mean([value > inside - 1 - 0.3 for value in values]) >= 0.75


def test_more_scans_than_windows_are_taken_at_even_distances(method):
    for number in range(2, 9):
        folder = method.workspace.unlabeled / f"Healthy_{number:03d}"
        shutil.copytree(method.workspace.unlabeled / "Healthy_000", folder)
        record = (folder / "case.json").read_text().replace('"Healthy_000"', f'"Healthy_{number:03d}"')
        (folder / "case.json").write_text(record)
    scans = healthy.Scans(sorted(method.workspace.unlabeled.iterdir()))
    shapes = healthy.tumor_shapes(method)
    names = [healthy.draw_numbered_window(scans, shapes, method.plan, 3, number).name for number in range(3)]
    assert names == ["Healthy_000", "Healthy_004", "Healthy_008"]


def test_latents_are_encoded_once_and_resumed(method):
    encoder = Means()
    first = healthy.healthy_latents(method, encoder, "hash", 6)
    assert (len(first), encoder.calls) == (6, 6)
    windows = [*healthy.healthy_windows(method, 6)]
    np.testing.assert_allclose(first.latents[2, 0, 1, 2, 3], windows[2].image[0, 4:8, 8:12, 12:16].mean(), rtol=1e-5)
    latent, place = first.draw(np.random.default_rng(0))
    assert any(np.array_equal(place, window.place) for window in windows)
    assert latent.shape == (1, *(n // 4 for n in method.plan.window.shape))
    folder = method.folder("healthy_latents")
    (folder / "000003.npz").write_bytes(b"half")
    again = healthy.healthy_latents(method, encoder, "hash", 6)
    assert encoder.calls == 7
    np.testing.assert_array_equal(first.latents, again.latents)
    healthy.healthy_latents(method, encoder, "other weights", 6)
    assert encoder.calls == 13


def test_latents_follow_the_content_of_the_scans(method, phantoms):
    encoder = Means()
    healthy.healthy_latents(method, encoder, "hash", 2)
    shutil.rmtree(method.workspace.unlabeled / "Healthy_001")
    assert len(healthy.healthy_latents(method, encoder, "hash", 2)) == 2
    assert encoder.calls == 4
    shutil.rmtree(method.workspace.unlabeled)
    assert healthy.healthy_latents(method, encoder, "hash", 2) is None
    assert [*healthy.healthy_windows(method, 2)] == []
