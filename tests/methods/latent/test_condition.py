"""TumorGen's condition: normal scores, characters for a box, the input channels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.workspaces import sampling_with

from tumorgen_cli.methods.latent.condition import Condition, Known, Wanted, draw_tumor, normal_scores
from tumorgen_cli.methods.latent.sampler import FlowSettings
from tumorgen_cli.methods.registry import find_method


@pytest.fixture(scope="module")
def make_condition(trained):
    flow = find_method("tumorgen")(trained.plan(), trained).config.flow
    return lambda channels=1, **changes: Condition(4, channels, replace(flow, **changes))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_normal_scores_have_no_unit():
    known = rng().lognormal(0, 2, (200, 2))
    scores = normal_scores(known, known)
    assert np.abs(scores.mean(0)).max() < 0.01
    np.testing.assert_allclose(scores.std(0), 1, atol=0.05)
    np.testing.assert_allclose(normal_scores(1000 * known + 7, 1000 * known + 7), scores, atol=1e-5)
    assert np.array_equal(np.argsort(scores[:, 0]), np.argsort(known[:, 0]))
    odd = np.array([[np.nan, known[:, 1].max() * 9]])
    assert normal_scores(odd, known)[0].tolist() == [0, scores[:, 1].max()]
    dull = np.stack([np.full(5, 3.0), np.full(5, np.nan)], 1)  # equal or unknown values carry no information
    assert not normal_scores(np.array([[4.0, 4.0]]), dull).any()
    assert not normal_scores(known[:1], known[:1]).any()  # a single tumor


def test_a_tumor_is_drawn_that_fits_the_box():
    extents = np.array([[20.0] * 3, [60.0] * 3, [110.0] * 3])
    known = Known(np.arange(3.0)[:, None].repeat(3, 1), extents, np.array([4e3, 1e5, 6e5]))

    def drawn(side, kind=None):
        generator = rng()
        return {draw_tumor(known, (side,) * 3, (15.0,) * 3, generator, kind, 0).character[0] for _ in range(50)}

    assert [drawn(side) for side in (35, 75, 125)] == [{0}, {1}, {2}]
    assert [drawn(side) for side in (2, 500)] == [{0}, {2}]  # fits none of them: the nearest in size
    assert drawn(55) == {0, 1}  # fits two of them
    assert drawn(125, "low-contrast") == {0}  # whatever the box
    assert draw_tumor(known, (75.0,) * 3, (15.0,) * 3, rng(), None, 0).fill == pytest.approx(1e5 / 75**3)
    assert draw_tumor(known, (2.0,) * 3, (15.0,) * 3, rng(), None, 0).fill == 1  # a box smaller than any tumor


PAPERS = {"character": False, "volume": False, "dropout": 0.0, "box_channel": False}


def test_a_condition_shows_what_is_told_in_the_box_alone(make_condition):
    condition = make_condition(channels=2, **{**PAPERS, "character": True, "volume": True, "dropout": 0.1})
    latent, box = torch.randn(2, 4, 8, 8, 8), torch.zeros(2, 1, 8, 8, 8)
    box[..., 2:5, 1:4, 3:6] = 1
    told = torch.randn(2, 8)
    out = condition(latent, box, told)
    assert out.shape[1] == condition.channels == 12
    torch.testing.assert_close(out[:, :4], latent * (1 - box))
    torch.testing.assert_close(out[:, 4:], box * told[..., None, None, None])


def test_untold_is_not_the_mean(make_condition):
    """Zeros, with a flag; a volume of 0 and an unknown trait are told."""
    condition = make_condition(**{**PAPERS, "character": True, "volume": True, "dropout": 0.1})
    known = np.arange(9.0, dtype=np.float32).reshape(3, 3)
    condition.learn(Known(known, np.full((3, 3), 20.0), np.full(3, 8.0)))
    assert condition.tell(None).tolist() == [0] * 5
    assert condition.tell(Wanted(np.array([np.nan] * 3), 0.0)).tolist() == [0, 0, 0, -2, 1]
    assert condition.tell(Wanted(known[1], 0.125)).tolist() == [0, 0, 0, 0, 1]
    high = condition.tell(Wanted(known[2], 1.0), 2.0)
    np.testing.assert_allclose(high, [*2 * normal_scores(known[2:], known)[0], 2, 1], rtol=1e-6)
    assert condition.tell(Wanted(known[2], 1.0), 100.0)[:3].tolist() == [4, 4, 4]  # bounded


def test_told_nothing_the_condition_is_the_papers(make_condition):
    latent, box = torch.randn(1, 4, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    plain, boxed = (make_condition(**{**PAPERS, "box_channel": channel}) for channel in (False, True))
    assert (plain.channels, boxed.channels) == (4, 5)
    assert plain.state_dict() == {}
    told = torch.from_numpy(boxed.tell(None))[None]
    assert torch.equal(boxed(latent, box, told), torch.cat([0 * latent, box], 1))
    assert plain.draw((1, 1, 1), (1, 1, 1), rng(), None, 0) is None


@pytest.mark.parametrize("count", [1, 40, 1000])
def test_known_tumors_are_saved_with_the_field(make_condition, count):
    """Every tumor once; of more tumors than rows, evenly spaced ones."""
    condition = make_condition(character=True)
    characters = np.arange(count, dtype=np.float32)[:, None].repeat(3, 1)
    condition.learn(Known(characters, np.full((count, 3), 20.0), 5 * characters[:, 0]))
    again = make_condition(character=True)
    again.load_state_dict(condition.state_dict())
    known = again.known()
    assert len(known.characters) == min(count, Condition.ROWS) == len(np.unique(known.characters[:, 0]))
    np.testing.assert_array_equal(known.volumes_mm3, 5 * known.characters[:, 0])
    assert known.characters.mean() == pytest.approx((count - 1) / 2, abs=3)
    drawn = [c.draw((30,) * 3, (5,) * 3, rng(4), None, 0) for c in (condition, again)]
    np.testing.assert_array_equal(*(c.tell(wanted) for c, wanted in zip((condition, again), drawn, strict=True)))


@pytest.mark.parametrize("emphasis", [0.0, 1.0, 1.5])
def test_what_is_told_changes_the_tumor_and_nothing_else(trained, emphasis):
    method = sampling_with(trained, emphasis=emphasis, guidance=1.0)
    sampler = method.sampler
    latent, box = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 8, 8, 8)
    box[..., 2:6, 3:6, 2:5] = 1
    known = method.condition.known().characters
    strong, weak = (
        sampler.sample(latent, box, Wanted(np.quantile(known, q, axis=0), 0.3), FlowSettings(4, 2, "euler"))
        for q in (1, 0)
    )
    assert ((strong - weak).abs()[(box > 0).expand_as(strong)].max() > 1e-3) == (emphasis > 0)
    torch.testing.assert_close(strong * (1 - box), weak * (1 - box), rtol=0, atol=0)
