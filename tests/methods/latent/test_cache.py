"""Candidates, and the cache of encoded windows."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tumorgen_cli.methods.latent.autoencoder import load_cases
from tumorgen_cli.methods.latent.cache import LatentCache, candidate_window, find_candidates
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.metrics.traits import describe_traits
from tumorgen_cli.preprocessing.intensity import unscale
from tumorgen_cli.system.errors import DataError


def test_candidates(trained):
    cases = load_cases(trained, trained.splits().train)
    found = find_candidates(cases)
    assert len({c.name for c in found}) == len(found) == sum(len(case.record.components) for case in cases)
    none = [
        replace(c, record=replace(c.record, components=tuple(replace(x, fits=False) for x in c.record.components)))
        for c in cases
    ]
    with pytest.raises(DataError, match="Nothing to learn from"):
        find_candidates(none)


def test_the_cache_is_resumed_and_replaced(trained, tmp_path):
    plan = trained.plan()
    method = find_method("tumorgen")(plan, trained)
    candidates = find_candidates(load_cases(trained, trained.splits().train))[:3]
    cache = LatentCache(tmp_path, candidates, 2, "weights a")
    made = cache.build(method.vae.eval(), plan, "cpu", lambda *_: None)
    latents, packed = made.latents, made.masks
    assert latents.shape == (3, 2, 4, 8, 8, 8)
    masks, characters = np.unpackbits(packed, axis=-1), made.characters
    assert masks.shape == (3, 2, 32, 32, 32)
    assert masks[:, 0].any((1, 2, 3)).all()
    window = candidate_window(plan, candidates[1], 1)
    image, mask = window.image, window.mask
    assert made.contexts is None
    np.testing.assert_array_equal(made.window(1, 1).context, latents[1, 1])
    np.testing.assert_array_equal(masks[1, 1], mask)
    limits = np.array(candidates[1].case.record.limits, np.float32)
    described = describe_traits(
        unscale(image, plan.channels, limits), mask, plan.window.spacing_mm, np.zeros(1)
    )  # in the scan's units
    assert characters.shape == (3, 2, 3)
    np.testing.assert_array_equal(characters[1, 1], described)
    with torch.inference_mode():
        np.testing.assert_allclose(
            latents[1, 1], method.vae.encode(torch.from_numpy(image)[None])[0].numpy(), atol=1e-5
        )

    stamps = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npz")}
    missing, cut, flipped = (tmp_path / f"{candidate.name}.npz" for candidate in candidates)
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:-100])
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 1
    flipped.write_bytes(content)
    again = LatentCache(tmp_path, candidates, 2, "weights a").build(method.vae, plan, "cpu", lambda *_: None)
    np.testing.assert_array_equal(again.latents, latents)
    assert all(p.stat().st_mtime_ns != stamps[p.name] for p in tmp_path.glob("*.npz"))
    stamps = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("*.npz")}
    LatentCache(tmp_path, candidates, 2, "weights a").build(method.vae, plan, "cpu", lambda *_: None)
    assert all(p.stat().st_mtime_ns == stamps[p.name] for p in tmp_path.glob("*.npz"))
    (tmp_path / "latents.json").write_text("{")  # damaged: all are made again
    LatentCache(tmp_path, candidates, 2, "weights a").build(method.vae, plan, "cpu", lambda *_: None)
    assert all(p.stat().st_mtime_ns != stamps[p.name] for p in tmp_path.glob("*.npz"))
    LatentCache(tmp_path, candidates[:2], 1, "weights b").build(method.vae, plan, "cpu", lambda *_: None)
    assert len(list(tmp_path.glob("*.npz"))) == 2  # made from other weights: all were replaced


def test_a_masked_context_is_the_image_without_the_tumors_voxels(trained, tmp_path):
    plan = trained.plan()
    method = find_method("tumorgen")(plan, trained)
    candidate = find_candidates(load_cases(trained, trained.splits().train))[0]
    window = candidate_window(plan, candidate, 1, masked=True)
    assert window.mask.any()
    np.testing.assert_array_equal(window.context[0], np.where(window.mask, 0, window.image[0]))
    cache = LatentCache(tmp_path, [candidate], 2, "weights", masked=True)
    found = cache.build(method.vae.eval(), plan, "cpu", lambda *_: None).window(0, 1)
    with torch.inference_mode():
        expected = method.vae.encode(torch.from_numpy(window.context)[None])[0].numpy()
    np.testing.assert_allclose(found.context, expected, atol=1e-5)
    assert not np.array_equal(found.context, found.latent)


def test_a_box_holds_one_tumor_and_its_neighbors_stay(trained):
    """The tumor is removed from the context; a neighbor is not, and is no part of the mask."""
    plan = trained.plan()
    found = find_candidates(load_cases(trained, trained.splits().train))[0]
    other = np.asarray(found.case.tumors).copy()
    place = found.component.box.stop[0] + 8  # two cells away, so that it is not in the tumor's cells
    assert place + 3 < other.shape[0]
    middle = tuple(int(c) for c in found.component.box.center[1:])
    other[place : place + 3, middle[0] : middle[0] + 3, middle[1] : middle[1] + 3] = 99
    image = np.asarray(found.case.image).copy()
    image[0, other > 0] = 0.9 * found.case.record.limits[0][1]
    candidate = replace(found, case=replace(found.case, tumors=other, image=image))
    everything, one = candidate_window(plan, candidate, 0), candidate_window(plan, candidate, 0, 4)
    assert everything.context is None
    assert not everything.others.any()
    np.testing.assert_array_equal(everything.mask, one.mask | one.others)
    assert one.others.sum() == 27
    np.testing.assert_array_equal(one.context[:, one.others > 0], one.image[:, one.others > 0])
    assert one.context[0, one.mask > 0].mean() < one.image[0, one.mask > 0].mean() - 0.2
