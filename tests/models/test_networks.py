"""Networks: MONAI's KL-VAE key for key, shapes at every level, sizes other than the training window."""

import pytest
import torch
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import MaisiGroupNorm3D
from torch import nn

from tumorgen_cli.models import diffusion_unet
from tumorgen_cli.models import vae as vae_module
from tumorgen_cli.models.diffusion_unet import PlaneUNet
from tumorgen_cli.models.efficientnet import Perceptual
from tumorgen_cli.models.flow_unet import FlowUNet
from tumorgen_cli.models.mask_refiner import MaskRefiner, split_sublabels, sublabel_chances
from tumorgen_cli.models.vae import KlVae, make_kl_vae
from tumorgen_cli.models.vqgan import Codebook, VqGan, cut_planes

WIDTHS, BLOCKS = (8, 16, 32), (1, 2, 1)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def roughen(module):
    """Add noise to every weight: new networks contain zeros that would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(parameter + 0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


@pytest.fixture(scope="module")
def kl_vae():
    torch.manual_seed(0)
    return roughen(KlVae(1, WIDTHS, 4, BLOCKS)).requires_grad_(False)


@pytest.fixture(scope="module")
def maisi():
    """The same class with MAISI's own norms."""
    torch.manual_seed(5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae_module, "_replace_norms", lambda module: None)
        net = make_kl_vae(1, WIDTHS, 4, BLOCKS)
    assert any(isinstance(module, MaisiGroupNorm3D) for module in net.modules())
    return roughen(net).requires_grad_(False)


def test_maisis_weights_fit_key_for_key_and_compute_the_same(maisi):
    ours = make_kl_vae(1, WIDTHS, 4, BLOCKS).eval()
    assert not any(isinstance(module, MaisiGroupNorm3D) for module in ours.modules())
    ours.load_state_dict(maisi.state_dict(), strict=True)
    image = draw(2, 1, 16, 12, 20)
    with torch.no_grad():
        for a, b in zip(ours.encode(image), maisi.encode(image), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
        latent = draw(2, 4, 4, 3, 5)
        torch.testing.assert_close(ours.decode(latent), maisi.decode(latent), atol=1e-4, rtol=1e-4)


def test_latents_are_a_quarter(kl_vae):
    assert kl_vae.encode(draw(2, 1, 16, 12, 20)).shape == (2, 4, 4, 3, 5)
    assert kl_vae.decode(draw(1, 4, 4, 3, 5)).shape == (1, 1, 16, 12, 20)


def test_standardized_latents_go_back_unchanged(kl_vae):
    image = draw(1, 1, 12, 12, 12)
    plain = kl_vae.encode(image)
    picture = kl_vae.decode(plain)
    torch.testing.assert_close(picture, kl_vae.net.decode(kl_vae.net.encode(image)[0]), atol=1e-5, rtol=1e-5)
    try:
        kl_vae.mean.copy_(torch.tensor([1.0, -2.0, 0.5, 3.0]))
        kl_vae.std.copy_(torch.tensor([0.5, 2.0, 4.0, 0.1]))
        standard = kl_vae.encode(image)
        torch.testing.assert_close(standard, (plain - kl_vae.mean.view(1, 4, 1, 1, 1)) / kl_vae.std.view(1, 4, 1, 1, 1))
        torch.testing.assert_close(kl_vae.decode(standard), picture, atol=1e-4, rtol=1e-4)
    finally:
        kl_vae.mean.zero_(), kl_vae.std.fill_(1)


def test_statistics_are_saved_beside_the_weights(kl_vae):
    assert {"mean", "std"} <= set(kl_vae.state_dict())
    assert "mean" not in dict(kl_vae.named_parameters())


def test_encoding_has_no_noise_and_training_takes_its_noise_as_given(kl_vae):
    image, noise = draw(1, 1, 8, 8, 8), draw(1, 4, 2, 2, 2)
    assert torch.equal(kl_vae.encode(image), kl_vae.encode(image))
    picture, mean, sigma = kl_vae(image, noise)
    torch.testing.assert_close(mean, kl_vae.encode(image))
    assert (sigma > 0).all()
    torch.testing.assert_close(picture, kl_vae.net.decode(mean + sigma * noise))
    torch.testing.assert_close(kl_vae(image, 0 * noise)[0], kl_vae.decode(mean), atol=1e-5, rtol=1e-5)


def test_decoder_features_are_at_one_two_and_four_times_the_latent_grid(kl_vae):
    latent = draw(2, 4, 4, 3, 5)
    picture, features = kl_vae.decode_with_features(latent)
    assert torch.equal(picture, kl_vae.decode(latent))
    assert [f.shape for f in features] == [
        (2, w, 4 * k, 3 * k, 5 * k) for w, k in zip(kl_vae.feature_widths, (1, 2, 4), strict=True)
    ]
    assert kl_vae.feature_widths == (32, 16, 8)


def test_two_levels_make_cells_of_two_voxels():
    torch.manual_seed(0)
    fine = roughen(KlVae(1, (8, 16), 4, (1, 2))).requires_grad_(False)
    assert fine.downsampling == 2
    latent = fine.encode(draw(2, 1, 16, 12, 20))
    assert latent.shape == (2, 4, 8, 6, 10)
    picture, features = fine.decode_with_features(latent)
    assert picture.shape == (2, 1, 16, 12, 20)
    assert [f.shape for f in features] == [(2, 16, 8, 6, 10), (2, 8, 16, 12, 20)]
    refiner = roughen(MaskRefiner(fine.feature_widths, 4))
    assert refiner(draw(2, 1, 8, 6, 10).clamp(-1, 1), features).shape == (2, 1, 16, 12, 20)


def test_channels_are_free():
    assert KlVae(2, (8, 16, 16), 3, (1, 1, 1)).eval().encode(draw(1, 2, 8, 8, 8)).shape == (1, 3, 2, 2, 2)


@pytest.mark.parametrize("guided", [True, False])
def test_the_refiner_gives_logits_on_the_working_grid(kl_vae, guided):
    refiner = roughen(MaskRefiner(kl_vae.feature_widths, 4, guided))
    mask, latent = draw(2, 1, 4, 3, 5).clamp(-1, 1), draw(2, 4, 4, 3, 5, seed=1)
    features = kl_vae.decode_with_features(latent)[1]
    found = refiner(mask, features)
    assert found.shape == (2, 1, 16, 12, 20)
    other = refiner(mask, kl_vae.decode_with_features(latent + 1)[1])
    assert torch.equal(found, other) != guided  # the ablation without VAE features does not use them
    assert not torch.equal(found, refiner(-mask, features))


def test_an_untrained_refiner_upsamples(kl_vae):
    """Before training the sign is the coarse mask's, away from its boundary."""
    torch.manual_seed(0)
    refiner = MaskRefiner(kl_vae.feature_widths, 4).eval()
    mask = -torch.ones(1, 1, 6, 6, 6)
    mask[..., 2:5, 2:5, 2:5] = 1
    features = kl_vae.decode_with_features(draw(1, 4, 6, 6, 6))[1]
    found = refiner(mask, features)[0, 0]
    assert (found[10:18, 10:18, 10:18] > 0).all()
    assert (found[:5] < 0).all()


def test_an_untrained_refiner_upsamples_sublabels_too(kl_vae):
    """Three sub-labels side by side in a tumor, from two masks beside the whole one; the first is what they leave."""
    torch.manual_seed(0)
    refiner = MaskRefiner(kl_vae.feature_widths, 4, mask_channels=3, labels=3).eval()
    masks = -torch.ones(1, 3, 9, 6, 6)
    masks[:, 0, :, 2:5, 2:5] = 1  # the whole tumor
    masks[:, 1, 3:6, 2:5, 2:5] = masks[:, 2, 6:, 2:5, 2:5] = 1
    features = kl_vae.decode_with_features(draw(1, 4, 9, 6, 6))[1]
    logits = refiner(masks, features)
    assert logits.shape == (1, 3, 36, 24, 24)
    assert (logits[0, 0, 2:-2, 10:18, 10:18] > 0).all()
    chances = sublabel_chances(logits)
    torch.testing.assert_close(chances.sum(1), torch.ones(1, 36, 24, 24))
    likeliest = chances[0].argmax(0)[:, 10:18, 10:18]
    assert all((likeliest[12 * n + 2 : 12 * n + 10] == n).all() for n in range(3))


def test_one_label_has_the_refiner_that_it_had():
    """The same weights, drawn in the same order, and the same sum with the coarse mask."""
    torch.manual_seed(0)
    one = MaskRefiner((16, 8), 4, guided=False, mask_channels=8)
    torch.manual_seed(0)
    several = MaskRefiner((16, 8), 4, guided=False, mask_channels=8, labels=1)
    assert all(map(torch.equal, one.state_dict().values(), several.state_dict().values()))
    assert one.exit.weight.shape == (1, 4, 3, 3, 3)
    mask, found = draw(1, 8, 3, 4, 5).clamp(-1, 1), []
    one.exit.register_forward_hook(lambda module, given, out: found.append(out))
    logits = one(mask, ())
    parts = mask.view(1, 2, 2, 2, 3, 4, 5).permute(0, 4, 1, 5, 2, 6, 3).reshape(1, 1, 6, 8, 10)
    coarse = nn.functional.interpolate(parts, size=(6, 8, 10), mode="trilinear", align_corners=False)
    assert torch.equal(logits, found[0] + 4.0 * coarse)


def test_shares_of_sublabels_add_up_to_the_whole():
    masks = torch.tensor([[1.0, 0.2, 0.3], [0.5, 0.5, 0.0]]).view(2, 3, 1, 1, 1)
    torch.testing.assert_close(split_sublabels(masks).view(2, 3), torch.tensor([[0.5, 0.2, 0.3], [0.0, 0.5, 0.0]]))
    assert torch.equal(split_sublabels(masks[:, :1]), masks[:, :1])


def test_the_refiner_learns_through_the_features(kl_vae):
    refiner = MaskRefiner(kl_vae.feature_widths, 4)
    refiner(draw(1, 1, 3, 3, 3), kl_vae.decode_with_features(draw(1, 4, 3, 3, 3))[1]).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in refiner.parameters())


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return roughen(FlowUNet(9, 5, (32, 64), 1)).requires_grad_(False)


@pytest.mark.parametrize("side", [(4, 4, 4), (8, 6, 2), (10, 4, 12)])
def test_any_window_divisible_by_the_multiple(unet, side):
    assert unet.multiple == 2
    assert unet(draw(2, 9, *side), torch.tensor([0.1, 0.9])).shape == (2, 5, *side)


def test_three_levels_halve_twice():
    net = FlowUNet(9, 5, (32, 32, 64), 1).eval()
    assert net.multiple == 4
    assert net(draw(1, 9, 4, 8, 12), torch.tensor([0.5])).shape == (1, 5, 4, 8, 12)


def test_every_item_has_its_own_time(unet):
    x = draw(1, 9, 4, 4, 4)
    both = unet(x.expand(2, -1, -1, -1, -1), torch.tensor([0.1, 0.12]))
    torch.testing.assert_close(both[:1], unet(x, torch.tensor([0.1])), atol=1e-5, rtol=1e-5)
    assert (both[0] - both[1]).abs().max() > 1e-4  # the network distinguishes close times


def test_velocities_are_single_precision(unet):
    with torch.autocast("cpu", torch.bfloat16):
        assert unet(draw(1, 9, 4, 4, 4), torch.tensor([0.1])).dtype == torch.float32


def test_no_dropout_and_no_batch_statistics(unet, kl_vae):
    """An item's result depends on the item alone: needed for resuming and for several processes."""
    for net in (unet, kl_vae, MaskRefiner((32, 16, 8), 4)):
        assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in net.modules())
        assert not any(isinstance(m, nn.Dropout) and m.p > 0 for m in net.modules())


def test_a_codebook_returns_the_nearest_code():
    book = Codebook(5, 3).eval()
    book.codes.copy_(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [9, 9, 9]]))
    latent = draw(2, 3, 4, 3, 2) * 3
    found = book(latent)
    flat = latent.movedim(1, -1).reshape(-1, 3)
    nearest = book.codes[torch.cdist(flat, book.codes).argmin(1)].view(2, 4, 3, 2, 3).movedim(-1, 1)
    torch.testing.assert_close(found, nearest)
    torch.testing.assert_close(book(found), found)


def test_a_codebook_learns_clusters():
    """Codes go where the vectors are, and evaluation changes nothing."""
    rng = torch.Generator().manual_seed(0)
    centers = torch.tensor([[5.0, 0.0], [-5.0, 1.0], [0.0, 7.0]])
    book = Codebook(12, 2).train()
    for _ in range(400):
        vectors = centers[torch.randint(3, (64,), generator=rng)] + 0.1 * torch.randn(64, 2, generator=rng)
        book(vectors.t().view(1, 2, 64, 1, 1))
    assert torch.cdist(centers, book.codes).min(1).values.max() < 0.3
    before = book.codes.clone()
    book.eval()(draw(1, 2, 4, 4, 4))
    assert torch.equal(before, book.codes)


def test_the_use_of_a_code_does_not_depend_on_the_size_of_a_step():
    """A code that was replaced on a small patch is not unused on the next, larger patch."""
    book = Codebook(3, 1).train()
    few, many = (torch.tensor([9.0]).repeat(n).view(1, 1, n, 1, 1) for n in (8, 8 * 27))
    book(few)
    started = book.used.clone()
    book(many)
    torch.testing.assert_close(book.used.min(), 0.99 * started.min())


def test_vqgan_encodes_decodes_and_passes_gradients():
    torch.manual_seed(0)
    gan = VqGan(2, (8, 16, 16), 4, (1, 1, 1), 32).train()
    image = draw(1, 2, 16, 12, 20)
    for _ in range(2):
        picture, commitment = gan(image)
    assert picture.shape == image.shape
    assert float(commitment.detach()) > 0
    picture.square().mean().backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for p in gan.net.encoder.parameters()
    )  # straight through the codes
    gan.eval()
    latent = gan.encode(image)
    assert latent.shape == (1, 4, 4, 3, 5)
    torch.testing.assert_close(gan.decode(latent), gan(image)[0])
    gan.mean.fill_(0.5), gan.std.fill_(3.0)
    torch.testing.assert_close(gan.encode(image), (latent - 0.5) / 3)
    torch.testing.assert_close(gan.decode(gan.encode(image)), gan(image)[0])


def test_slices_are_cut_where_asked():
    image = torch.arange(2 * 3 * 4 * 5 * 6).view(2, 3, 4, 5, 6).float()
    cuts = cut_planes(image, torch.tensor([[1, 2, 3], [0, 4, 5]]))
    assert [tuple(c.shape) for c in cuts] == [(2, 3, 5, 6), (2, 3, 4, 6), (2, 3, 4, 5)]
    assert torch.equal(cuts[0][0], image[0, :, 1])
    assert torch.equal(cuts[1][1], image[1, :, :, 4])
    assert torch.equal(cuts[2][1], image[1, :, :, :, 5])


def test_plane_unet_mixes_planes_only_by_attention():
    torch.manual_seed(0)
    net = PlaneUNet(3, 2, (8, 16), (2, 4)).eval()
    x, step = draw(2, 3, 8, 12, 5), torch.tensor([3.0, 90.0])
    out = net(x, step)
    assert out.shape == (2, 2, 8, 12, 5)
    assert not torch.allclose(out, net(x, torch.tensor([4.0, 5.0])))
    changed = x.clone()
    changed[..., 0] += 1
    assert not torch.allclose(out[..., 4], net(changed, step)[..., 4])  # the depth attention reaches the last slice
    for module in net.modules():
        if getattr(module, "along_depth", False):
            torch.nn.init.zeros_(module.out.weight), torch.nn.init.zeros_(module.out.bias)
    norms = [m for m in net.modules() if isinstance(m, torch.nn.GroupNorm)]
    for norm in norms:  # norms mix whole volumes, so they are removed too
        norm.forward = lambda x: x
    torch.testing.assert_close(net(x, step)[..., 4], net(changed, step)[..., 4])


def test_windows_of_any_side_are_filled_up():
    """Four levels need multiples of 8; a window of 12 cells is 4 short."""
    torch.manual_seed(0)
    net = PlaneUNet(3, 2, (8, 8, 8, 8), (2, 4)).eval()
    assert net.multiple == 8
    x, step = draw(1, 3, 12, 5, 3), torch.tensor([3.0])
    filled = torch.nn.functional.pad(x, (0, 0, 0, 3, 0, 4))
    torch.testing.assert_close(net(x, step), net(filled, step)[:, :, :12, :5])


def test_attention_in_the_slices_is_linear_except_in_the_middle():
    torch.manual_seed(0)
    q, k, v = (draw(2, 3, 7, 4, seed=seed) for seed in range(3))
    weights = k.softmax(2)  # of the tokens, for each number of a key
    expected = torch.einsum("bhnd,bhmd,bhme->bhne", q.softmax(3), weights, v) / 2
    torch.testing.assert_close(diffusion_unet._attend_linearly(q, k, v), expected)
    for kind in ("linear", "softmax"):
        net = PlaneUNet(3, 2, (8, 16), (2, 4), kind)
        planes = [m for m in net.modules() if getattr(m, "along_depth", None) is False]
        assert [m.kind for m in planes] == [kind, kind, "softmax", kind, kind]
        assert planes[2] is net.middle.plane


def test_the_codebooks_extremes_become_1():
    torch.manual_seed(0)
    gan = VqGan(1, (8, 16), 2, (1, 1), 3).eval()
    gan.codebook.codes.copy_(torch.tensor([[-3.0, 0.0], [5.0, 1.0], [2.0, 2.0]]))
    image = draw(1, 1, 8, 8, 8)
    plain = gan.encode(image)
    gan.scale_by_codebook()
    torch.testing.assert_close(gan.encode(image), (plain + 3) / 8 * 2 - 1)
    torch.testing.assert_close(gan.restore(gan.encode(image)), plain)


def test_the_depth_attention_knows_the_slices_order():
    torch.manual_seed(0)
    net = PlaneUNet(3, 2, (8, 16), (2, 4)).eval()
    x, step, turned = draw(1, 3, 8, 8, 6), torch.tensor([3.0]), torch.tensor([2, 0, 5, 1, 4, 3])
    torch.testing.assert_close(
        net(x[..., turned], step), net(x, step)[..., turned]
    )  # untrained, the order of the slices has no influence
    for module in net.modules():
        if getattr(module, "near", None) is not None:
            torch.nn.init.normal_(module.near)
    assert not torch.allclose(net(x[..., turned], step), net(x, step)[..., turned], atol=1e-3)


def test_perceptual_distance_grows_with_blur():
    pytest.importorskip("efficientnet_lite_pytorch")
    images = draw(2, 64, 64).clamp(-1, 1)
    blurred = [torch.nn.functional.avg_pool2d(images[:, None], k, 1, k // 2)[:, 0] for k in (3, 7)]
    distance = Perceptual()
    assert float(distance(images, images)) == 0
    assert 0 < float(distance(images, blurred[0])) < float(distance(images, blurred[1]))
    assert not list(distance.parameters())
