"""A tumor's character, which tumors are hard, and how the vector field is told."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.workspaces import sampling_with

from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.methods.tumorgen.objectives import Condition, draw_character, normal_scores
from tumorgen_cli.metrics.statistics import describe_tumor
from tumorgen_cli.metrics.traits import core_ratio, describe_traits, hard_limit, is_hard

SPACING = (2.0, 2.0, 2.0)
NOTHING = np.zeros(1)


def ball(radius, side=32):
    axes = np.ogrid[:side, :side, :side]
    return sum((a - side / 2 + 0.5) ** 2 for a in axes) <= radius**2


@pytest.fixture(scope="module")
def make_condition(trained):
    flow = find_method("tumorgen")(trained.plan(), trained).config.flow
    return lambda channels=1, **changes: Condition(4, channels, replace(flow, **changes))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_contrast_heterogeneity_and_core():
    mask = ball(9)
    flat = np.where(mask, 5.0, 2.0)[None].astype(np.float32)
    np.testing.assert_allclose(describe_traits(flat, mask, SPACING, NOTHING), [3, 0, 1], atol=1e-6)
    dark = np.where(ball(7), 1.0, flat).astype(np.float32)  # the deepest third and more
    contrast, cv, core = describe_traits(dark, mask, SPACING, NOTHING)
    inside = dark[0][mask]
    assert contrast == pytest.approx(inside.mean() - 2, abs=1e-5)
    assert cv == pytest.approx(inside.std() / inside.mean(), abs=1e-5)
    assert core == pytest.approx(1 / 5, abs=0.05)
    both = describe_traits(np.concatenate([flat, dark]), mask, SPACING, np.zeros(2))
    np.testing.assert_allclose(both, [3, 0, 1, contrast, cv, core], atol=1e-6)  # channel by channel


def test_it_is_what_the_report_says(trained):
    image = rng().gamma(2.0, 2.0, (1, 24, 24, 24)).astype(np.float32)
    told = describe_tumor(image[0], ball(6, 24), SPACING, 0.0)
    found = describe_traits(image, ball(6, 24), SPACING, NOTHING)
    np.testing.assert_allclose(found, [told.contrast, told.heterogeneity, told.core_ratio], rtol=1e-6)


def test_what_cannot_be_told_is_nan():
    image = rng().uniform(1, 2, (1, 8, 8, 8)).astype(np.float32)
    assert np.isnan(describe_traits(image, np.ones((8, 8, 8)), SPACING, NOTHING)[0])  # no surroundings
    single = np.zeros((8, 8, 8), bool)
    single[4, 4, 4] = True
    assert np.isnan(core_ratio(image[0], single, SPACING))
    assert np.isnan(describe_traits(-image, single, SPACING, NOTHING)[1])
    with pytest.raises(ValueError, match="empty"):
        describe_traits(image, single & False, SPACING, NOTHING)


def test_hard_kinds():
    """Weak contrast of either sign, dark cores, uneven ones; what is not known is never hard."""
    ramp = np.linspace(0.1, 1, 11)
    for kind, values in (("low-contrast", ramp), ("low-contrast", -ramp), ("necrotic", ramp), ("heterogeneous", -ramp)):
        limit = hard_limit(kind, np.append(values, np.nan))
        assert np.flatnonzero(is_hard(kind, np.append(values, np.nan), limit)).tolist() == [0, 1, 2]
    assert np.isnan(hard_limit("necrotic", np.array([np.nan])))
    assert is_hard("necrotic", np.array([0.5]), hard_limit("necrotic", np.array([0.5]))).all()  # never none of one


def test_normal_scores_have_no_unit():
    known = rng().lognormal(0, 2, (200, 2))
    scores = normal_scores(known, known)
    assert np.abs(scores.mean(0)).max() < 0.01
    np.testing.assert_allclose(scores.std(0), 1, atol=0.05)
    np.testing.assert_allclose(normal_scores(1000 * known + 7, 1000 * known + 7), scores, atol=1e-5)
    assert np.array_equal(np.argsort(scores[:, 0]), np.argsort(known[:, 0]))
    odd = np.array([[np.nan, known[:, 1].max() * 9]])
    assert normal_scores(odd, known)[0].tolist() == [0, scores[:, 1].max()]
    dull = np.stack(
        [np.full(5, 3.0), np.full(5, np.nan)], 1
    )  # all alike, or not known: tells nothing, whatever is asked
    assert not normal_scores(np.array([[4.0, 4.0]]), dull).any()
    assert not normal_scores(known[:1], known[:1]).any()  # a single tumor


def test_characters_are_those_of_tumors_that_the_box_may_have_been_put_around():
    known = np.arange(3.0)[:, None].repeat(3, 1)
    extents = np.array([[20.0] * 3, [60.0] * 3, [110.0] * 3])

    def drawn(side, kind=None):
        generator = rng()
        return {draw_character(known, extents, (side,) * 3, (15.0,) * 3, generator, kind, 0)[0] for _ in range(50)}

    assert [drawn(side) for side in (35, 75, 125)] == [{0}, {1}, {2}]
    assert [drawn(side) for side in (2, 500)] == [{0}, {2}]  # like none of them: the nearest in size
    assert drawn(55) == {0, 1}  # like two of them
    assert drawn(125, "low-contrast") == {0}  # whatever the box


def test_a_condition_shows_the_character_in_the_box_alone(make_condition):
    told = make_condition(channels=2, character=True, box_channel=False)
    latent, box = torch.randn(2, 4, 8, 8, 8), torch.zeros(2, 1, 8, 8, 8)
    box[..., 2:5, 1:4, 3:6] = 1
    asked = torch.randn(2, 6)
    out = told(latent, box, asked)
    assert out.shape[1] == told.channels == 10
    torch.testing.assert_close(out[:, :4], latent * (1 - box))
    torch.testing.assert_close(out[:, 4:], box * asked[..., None, None, None])
    with pytest.raises(ValueError, match="needs one"):
        told(latent, box, None)


def test_without_characters_the_condition_is_the_papers(make_condition):
    latent, box = torch.randn(1, 4, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    bare, boxed = (make_condition(character=False, box_channel=channel) for channel in (False, True))
    assert (bare.channels, boxed.channels) == (4, 5)
    assert bare.state_dict() == {}
    assert torch.equal(boxed(latent, box, None), torch.cat([0 * latent, box], 1))
    assert bare.draw((1, 1, 1), (1, 1, 1), rng(), None, 0) is None


@pytest.mark.parametrize("count", [1, 40, 1000])
def test_what_is_learnt_is_saved_with_the_field(make_condition, count):
    """Every tumor once; of more than there is room for, some from all over."""
    told = make_condition(character=True)
    characters = np.arange(count, dtype=np.float32)[:, None].repeat(3, 1)
    told.learn(characters, np.full((count, 3), 20.0))
    again = make_condition(character=True)
    again.load_state_dict(told.state_dict())
    known, extents = again.known()
    assert len(known) == len(extents) == min(count, Condition.ROWS) == len(np.unique(known[:, 0]))
    assert known.mean() == pytest.approx((count - 1) / 2, abs=3)
    np.testing.assert_array_equal(told.standard(characters), again.standard(characters))
    assert np.array_equal(
        told.draw((30,) * 3, (5,) * 3, rng(4), None, 0), again.draw((30,) * 3, (5,) * 3, rng(4), None, 0)
    )


@pytest.mark.parametrize("emphasis", [0.0, 1.0, 1.5])
def test_a_character_changes_the_tumor_and_nothing_else(trained, emphasis):
    method = sampling_with(trained, emphasis=emphasis)
    told = []
    method.condition.register_forward_pre_hook(lambda module, args: told.append(args[2].numpy()[0]))
    latent, box = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(1, 1, 8, 8, 8)
    box[..., 2:6, 3:6, 2:5] = 1
    known = method.condition.known()[0]
    strong, weak = (
        method._sample(latent, box, method._first_told(np.quantile(known, q, axis=0)), 4, 2, "euler") for q in (1, 0)
    )
    np.testing.assert_allclose(told[0], emphasis * method.condition.standard(np.quantile(known, 1, axis=0)), rtol=1e-6)
    assert ((strong - weak).abs()[(box > 0).expand_as(strong)].max() > 1e-3) == (emphasis > 0)
    torch.testing.assert_close(strong * (1 - box), weak * (1 - box), rtol=0, atol=0)
