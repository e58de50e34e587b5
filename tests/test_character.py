"""A tumor's character, and how the vector field is told one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tumorgen_cli.character import KINDS, describe_character, of_kind, rim_and_core
from tumorgen_cli.vector_field import Condition, disturbed

SPACING = (2.0, 2.0, 2.0)


def ball(radius, side=32):
    axes = np.ogrid[:side, :side, :side]
    return sum((a - side / 2 + 0.5) ** 2 for a in axes) <= radius**2


def condition(config, character=True, box_channel=False):
    return Condition(4, 1, config(character=character, box_channel=box_channel))


@pytest.fixture
def config(trained):
    from dataclasses import replace

    from tumorgen_cli.methods import find_method

    flow = find_method("tumorgen")(trained.plan(), trained).config.flow
    return lambda **changes: replace(flow, **changes)


def test_contrast_spread_and_core():
    mask = ball(9)
    flat = np.where(mask, 0.5, -0.75)[None].astype(np.float32)
    np.testing.assert_allclose(describe_character(flat, mask, SPACING), [1.25, 0, 0], atol=1e-6)
    dark_core = np.where(ball(7), -0.5, flat)
    contrast, spread, core = describe_character(dark_core, mask, SPACING)
    inside = dark_core[0][mask]
    assert contrast == pytest.approx(inside.mean() + 0.75, abs=1e-5)
    assert spread == pytest.approx(inside.std(), abs=1e-5)
    assert core == pytest.approx(-1, abs=0.05)
    two = describe_character(np.concatenate([flat, dark_core]), mask, SPACING)
    np.testing.assert_allclose(two, [1.25, 0, 0, contrast, spread, core], atol=1e-6)  # channel by channel


def test_what_has_no_surroundings_or_no_core():
    image = np.random.default_rng(0).standard_normal((1, 8, 8, 8)).astype(np.float32)
    assert describe_character(image, np.ones((8, 8, 8)), SPACING)[0] == 0
    single = np.zeros((8, 8, 8), bool)
    single[4, 4, 4] = True
    assert rim_and_core(single, SPACING) is None
    assert describe_character(image, single, SPACING)[2] == 0
    with pytest.raises(ValueError, match="empty"):
        describe_character(image, single & False, SPACING)


def test_a_condition_shows_the_character_in_the_box_alone(config):
    told = condition(config)
    characters = np.random.default_rng(0).standard_normal((5, 3, 3)).astype(np.float32)
    told.learn(characters, np.full((5, 3), 20.0))
    latent, box = torch.randn(2, 4, 8, 8, 8), torch.zeros(2, 1, 8, 8, 8)
    box[..., 2:5, 1:4, 3:6] = 1
    asked = torch.from_numpy(characters[:2, 0])
    out = told(latent, box, asked)
    assert out.shape[1] == told.channels == 7
    torch.testing.assert_close(out[:, :4], latent * (1 - box))
    every = characters.reshape(-1, 3)
    standard = (asked - torch.from_numpy(every.mean(0))) / torch.from_numpy(every.std(0))
    torch.testing.assert_close(out[:, 4:], box * standard[..., None, None, None])
    with pytest.raises(ValueError, match="needs one"):
        told(latent, box, None)


def test_without_characters_the_condition_is_the_papers(config):
    latent, box = torch.randn(1, 4, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    bare, boxed = condition(config, False), condition(config, False, True)
    assert (bare.channels, boxed.channels) == (4, 5)
    assert bare.state_dict() == {}
    assert torch.equal(boxed(latent, box, None), torch.cat([0 * latent, box], 1))
    assert bare.draw((1, 1, 1), (1, 1, 1), np.random.default_rng(0)) is None


def test_characters_are_drawn_from_tumors_that_the_box_may_have_been_put_around(config):
    told = condition(config)
    kinds = np.repeat(np.arange(3, dtype=np.float32), 3).reshape(3, 1, 3)  # tumor k is k, k, k
    told.learn(np.repeat(kinds, 2, 1), np.array([[20.0] * 3, [60.0] * 3, [110.0] * 3]))

    def drawn(side, count=300):
        rng = np.random.default_rng(0)
        return np.bincount([int(told.draw((side,) * 3, (15.0,) * 3, rng)[0]) for _ in range(count)], minlength=3) / count

    assert set(told.known[:, 0].tolist()) == {0, 1, 2}
    for side, kind in ((35, 0), (75, 1), (125, 2)):
        assert drawn(side)[kind] > 0.98
    assert drawn(500).min() > 0.2  # like none of them: any
    again = condition(config)
    again.load_state_dict(told.state_dict())
    assert np.array_equal(again.draw((75,) * 3, (15,) * 3, np.random.default_rng(4)), [1, 1, 1])


def test_hard_kinds():
    ramp = np.linspace(0.1, 1, 11, dtype=np.float32)
    characters = np.stack([ramp, ramp[::-1], ramp - 0.5], 1)  # the weakest stand out least, are most uneven and have the darkest cores
    for kind in KINDS:
        assert np.flatnonzero(of_kind(characters, kind)).tolist() == [0, 1, 2]
    dark = characters * np.array([-1, 1, 1])
    assert np.flatnonzero(of_kind(dark, "low-contrast")).tolist() == [0, 1, 2]  # tumors darker than their surroundings
    assert of_kind(characters[:1], "necrotic").all()  # never none


def test_a_kind_can_be_asked_for(config):
    told = condition(config)
    characters = np.random.default_rng(0).standard_normal((40, 1, 3)).astype(np.float32)
    told.learn(characters, np.full((40, 3), 20.0))
    bound = np.percentile(told.known[:, 2], 20)
    cores = [told.draw((30,) * 3, (15,) * 3, np.random.default_rng(n), "necrotic")[2] for n in range(30)]
    assert max(cores) <= bound
    assert len(set(cores)) > 4
    assert max(told.draw((30,) * 3, (15,) * 3, np.random.default_rng(n))[2] for n in range(30)) > bound


def test_more_tumors_than_rows_are_thinned_evenly(config):
    told = condition(config)
    told.learn(np.arange(1000, dtype=np.float32)[:, None, None].repeat(3, 2), np.ones((1000, 3)))
    assert len(set(told.known[:, 0].tolist())) == Condition.ROWS
    assert told.known[:, 0].mean() == pytest.approx(499.5, abs=3)


def test_a_disturbed_mask_grows_and_shrinks_where_it_is():
    mask = F.interpolate(torch.from_numpy(ball(4, 16)).float()[None, None], size=16) * 2 - 1
    up, down = (disturbed(mask, torch.full((1, 1, 4, 4, 4), push)) for push in (1.5, -1.5))
    assert (up > 0).sum() > (mask > 0).sum() > (down > 0).sum()
    far = F.max_pool3d((mask > -0.9).float(), 3, 1, 1) == 0
    assert torch.equal(up[far], mask[far])
    assert torch.equal(disturbed(mask, torch.zeros(1, 1, 4, 4, 4)), mask)
    assert up.abs().max() <= 1
