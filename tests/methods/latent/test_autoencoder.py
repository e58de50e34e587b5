"""Initial weights from checkpoints, losses in closed form, training patches, latent statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tumorgen_cli.methods.latent import autoencoder as ae
from tumorgen_cli.methods.latent.scans import TrainingScans, statistic_windows
from tumorgen_cli.methods.registry import find_method
from tumorgen_cli.methods.tumorgen.method import TumorGen
from tumorgen_cli.models.vae import KlVae
from tumorgen_cli.system.errors import PlanError, StateError
from tumorgen_cli.system.json_records import from_plain

SMALL = (1, (8, 16, 32), 4, (1, 1, 1))


def vae(seed, *shape):
    torch.manual_seed(seed)
    return KlVae(*(shape or SMALL))


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_initial_weights_from_every_kind_of_file(tmp_path):
    source = vae(1)
    state = source.net.state_dict()
    save_file(state, tmp_path / "maisi.safetensors")
    save_file({f"vae.{k}": v for k, v in source.state_dict().items()}, tmp_path / "ours.safetensors")
    torch.save(state, tmp_path / "bare.pt")
    torch.save(
        {"autoencoder_state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, tmp_path / "nested.pth"
    )
    torch.save({"state_dict": state}, tmp_path / "state.ckpt")
    for name in ("maisi.safetensors", "ours.safetensors", "bare.pt", "nested.pth", "state.ckpt"):
        target = vae(2)
        assert not same(target.net, source.net)
        ae.load_initial(target, tmp_path / name)
        assert same(target.net, source.net), name


def test_the_levels_must_fit_the_downsampling(workspace):
    section = workspace.plan().methods["tumorgen"]["vae"]
    fine = {**section, "downsampling": 2, "widths": [8, 16], "res_blocks": [1, 1]}
    assert from_plain(ae.VaeConfig, fine).network(1).downsampling == 2
    assert from_plain(ae.VaeConfig, section).network(1).downsampling == section["downsampling"] == 4
    for changes in ({"downsampling": 2}, {**fine, "downsampling": 4}, {**fine, "res_blocks": [1, 1, 1]}):
        with pytest.raises(PlanError, match="levels of the VAE do not fit its downsampling") as error:
            from_plain(ae.VaeConfig, {**section, **changes})
        assert "set methods.tumorgen.vae.downsampling" in error.value.faults[0].remedy


def test_other_widths_are_refused_tensor_by_tensor(tmp_path):
    source = vae(1, 1, (8, 16, 16), 4, (1, 1, 1))
    save_file(source.net.state_dict(), tmp_path / "other.safetensors")
    target = vae(2)
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(StateError, match=r"does not fit the plan \(\d+ tensors\)") as error:
        ae.load_initial(target, tmp_path / "other.safetensors")
    assert len(error.value.faults) == 12  # many more differ; twelve are listed
    for fault in error.value.faults:
        key = fault.where.removeprefix("other.safetensors: ")
        assert fault.expected.removeprefix("a tensor of ") == str(tuple(before[f"net.{key}"].shape))
        assert fault.found == "missing" or fault.found == str(tuple(source.net.state_dict()[key].shape))
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())  # nothing half loaded


def test_a_missing_tensor_is_named(tmp_path):
    state = vae(1).net.state_dict()
    gone = next(iter(state))
    torch.save({k: v for k, v in state.items() if k != gone}, tmp_path / "a.pt")
    with pytest.raises(StateError) as error:
        ae.load_initial(vae(2), tmp_path / "a.pt")
    (fault,) = error.value.faults
    assert (fault.where, fault.found) == (f"a.pt: {gone}", "missing")
    assert fault.remedy.startswith("plan with the checkpoint's levels (for MAISI's, --set methods.tumorgen.vae.")


def test_what_is_no_checkpoint(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"not tensors")
    (tmp_path / "b.pt").write_bytes(b"nor this")
    torch.save(nn.Linear(2, 2), tmp_path / "c.pt")  # a pickled class: code, which is not run
    torch.save([torch.zeros(2)], tmp_path / "d.pt")  # tensors, but no names
    for name in ("a.safetensors", "b.pt", "c.pt", "d.pt", "none.pt"):
        with pytest.raises(StateError, match=name) as error:
            ae.load_initial(vae(2), tmp_path / name)
    said = "save the weights alone (safetensors.torch.save_file(model.state_dict(), FILE))"
    assert error.value.faults[0].remedy == said
    source, target = vae(1), vae(2)
    save_file(source.net.state_dict(), tmp_path / "FILE.safetensors")
    ae.load_initial(target, tmp_path / "FILE.safetensors")
    assert same(target.net, source.net)


class Echo(nn.Module):
    """Returns the image plus a constant, with mean 1 and sigma 2."""

    def forward(self, image, noise):
        return image + 0.5, torch.ones_like(noise), torch.full_like(noise, 2.0)


def test_the_vaes_loss_by_hand(trained):
    config = replace(
        TumorGen(trained.plan(), trained).config.vae, square_weight=2.0, gradient_weight=3.0, kl_weight=0.1
    )
    batch = {"image": torch.randn(2, 1, 8, 8, 8), "noise": torch.randn(2, 4, 2, 2, 2)}
    loss, terms = ae.VaeObjective(Echo(), config, None)(batch)
    kl = 0.5 * (1 + 4 - 1 - 2 * np.log(2))
    assert {k: float(v) for k, v in terms.items()} == pytest.approx(
        {"l1": 0.5, "square": 0.25, "gradient": 0.0, "kl": kl}, abs=1e-6
    )
    assert float(loss) == pytest.approx(0.5 + 2 * 0.25 + 0.1 * kl, rel=1e-6)


def test_gradient_difference():
    ramp = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 4, 4)
    assert float(ae.gradient_difference(ramp, torch.zeros_like(ramp))) == pytest.approx(1 / 3)
    assert float(ae.gradient_difference(ramp, ramp + 7)) == 0


def test_the_critic_trains_itself_alone(trained):
    config = replace(TumorGen(trained.plan(), trained).config.vae, adversarial_weight=0.1)
    small, critic = vae(0), ae.make_critic(1)
    batch = {"image": torch.randn(1, 1, 32, 32, 32), "noise": torch.randn(1, 4, 8, 8, 8)}
    assert not any(p is q for p in ae.VaeObjective(small, config, critic).parameters() for q in critic.parameters())
    loss, terms = ae.VaeObjective(small, config, critic)(batch)
    loss.backward()
    assert "fool" in terms
    assert all(p.grad is None for p in critic.parameters())
    small.zero_grad()
    ae.CriticObjective(critic, small)(batch)[0].backward()
    assert all(p.grad is None or not p.grad.any() for p in small.parameters())
    assert any(p.grad is not None and p.grad.any() for p in critic.parameters())


def test_items_are_functions_of_their_number(trained):
    plan = trained.plan()
    config = TumorGen(plan, trained).config.vae
    scans = TrainingScans(ae.load_cases(trained, trained.splits().train))
    item = ae.vae_item(scans, plan, config, 5)
    first, again, other = item(7), ae.vae_item(scans, plan, config, 5)(7), item(8)
    assert first["noise"].shape == (4, *(n // 4 for n in first["image"].shape[1:]))
    assert all(array.dtype == np.float32 for array in first.values())
    assert np.abs(first["image"]).max() <= 1
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
        assert not np.array_equal(first[key], other[key])
    assert not np.array_equal(ae.vae_item(scans, plan, config, 6)(7)["image"], first["image"])


def test_patches_of_every_size_also_larger_than_the_scan_alike_within_a_step(trained):
    plan = trained.plan()
    config = replace(TumorGen(plan, trained).config.vae, patch=(64, 48, 16), batch=2)
    item = ae.vae_item(TrainingScans(ae.load_cases(trained, trained.splits().train)), plan, config, 0)
    shapes = []
    for step in range(16):
        pair = [item(2 * step), item(2 * step + 1)]
        shape = pair[0]["image"].shape[1:]
        assert all(
            each["image"].shape == (1, *shape) and each["noise"].shape == (4, *(n // 4 for n in shape)) for each in pair
        )
        shapes.append(shape)
    assert [set(sides) for sides in zip(*shapes, strict=True)] == [{32, 48, 64}, {32, 48}, {16}]


def test_latents_are_measured_to_mean_0_and_spread_1(trained):
    plan = trained.plan()
    method = find_method("tumorgen")(plan, trained)
    scans = TrainingScans(ae.load_cases(trained, trained.splits().train))
    windows = [*statistic_windows(method, scans)]
    ae.measure_latent_statistics(method.vae, windows, plan, "cpu")
    with torch.inference_mode():
        z = torch.cat([method.vae.encode(torch.from_numpy(each)[None]).flatten(2) for each in windows], 2).double()
    torch.testing.assert_close(z.mean((0, 2)), torch.zeros(4).double(), atol=1e-3, rtol=0)
    torch.testing.assert_close(z.std((0, 2)), torch.ones(4).double(), atol=1e-2, rtol=0)
