"""Painting inside MONAI's and TorchIO's chains: where the mask lies, what stays, seeds of runs and of workers."""

import pickle
import sys

import nibabel
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.transforms import Compose

from tumorgen_cli import api
from tumorgen_cli.api.transforms import PaintTumord
from tumorgen_cli.system.errors import DataError, NoPlaceError, PlanError, StateError


@pytest.fixture(scope="module")
def host(phantoms):
    """A healthy phantom as MONAI loads it: (1, X, Y, Z) float32 with its affine."""
    image = nibabel.load(min(phantoms.healthy.iterdir()))
    return MetaTensor(torch.from_numpy(image.get_fdata(dtype=np.float32))[None], affine=torch.tensor(image.affine))


@pytest.fixture
def options(workspace):
    return {"method": "syntumor", "work": workspace.root}


def check_pair(before, image, marked):
    """The image changed in the mask and only around it."""
    changed = np.asarray(before) != np.asarray(image)
    assert marked.any()
    assert changed[marked].mean() > 0.95
    at = np.argwhere(marked)
    around = np.zeros_like(marked)
    around[tuple(slice(max(0, low - 8), high + 9) for low, high in zip(at.min(0), at.max(0), strict=True))] = True
    assert not changed[~around].any()


def test_a_sample_is_painted_like_an_image_in_memory(host, options):
    labels = MetaTensor(torch.zeros(host.shape), affine=host.affine)
    labels[0, 0, 0, 0] = 5
    transform = PaintTumord(prob=1.0, label=2, **options).set_random_state(4)
    sample = transform({"image": host, "label": labels, "name": "a"})
    painted, marked = sample["image"], np.asarray(sample["label"])
    assert (painted.dtype, painted.shape, sample["name"]) == (host.dtype, host.shape, "a")
    assert isinstance(painted, MetaTensor)
    assert torch.equal(painted.affine, host.affine)
    assert torch.equal(sample["label"].affine, host.affine)
    assert set(np.unique(marked)) == {0, 2, 5}
    check_pair(host, painted, marked == 2)

    random = np.random.RandomState(4)
    random.rand()  # whether it is painted
    image = nibabel.Nifti1Image(host[0].numpy(), host.affine.numpy())
    pair = api.paint(image, device="cpu", seed=int(random.randint(2**31)), **options)
    np.testing.assert_array_equal(painted[0].numpy(), pair.image.get_fdata(dtype=np.float32))
    np.testing.assert_array_equal(marked[0] == 2, np.asarray(pair.mask.dataobj) > 0)


def test_a_seed_gives_one_series_of_samples(host, options):
    def series(seed):
        chain = Compose([PaintTumord(prob=0.5, **options)]).set_random_state(seed)
        return [chain({"image": host})["label"].numpy() for _ in range(6)]

    first, again, other = series(1), series(1), series(2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
    assert 0 < sum(labels.any() for labels in first) < 6
    masks = [labels for labels in first if labels.any()]
    assert len({labels.tobytes() for labels in masks}) == len(masks)


def test_a_sample_that_is_not_painted_stays_and_has_a_label(host, options):
    sample = PaintTumord(prob=0.0, **options)({"image": host})
    assert sample["image"] is host
    assert sample["label"].shape == host.shape
    assert (sample["label"].dtype, bool(sample["label"].any())) == (torch.uint8, False)


@pytest.mark.parametrize("dtype", ["int16", "int64", "float16", "float64"])
def test_plain_arrays_keep_their_type(host, options, dtype):
    """Types that NIfTI files do not have, too, with and without a geometry."""
    array = host.numpy().astype(dtype) if dtype != "int16" else np.rint(host.numpy() * 10).astype(dtype)
    array = np.rint(host.numpy() * 10).astype(dtype) if dtype == "int64" else array
    more = {"trust_units": True, "spacing_mm": np.linalg.norm(host.affine[:3, :3].numpy(), axis=0)}
    sample = PaintTumord(prob=1.0, **more, **options).set_random_state(4)({"image": array})
    assert isinstance(sample["image"], np.ndarray)
    assert sample["image"].dtype == array.dtype
    check_pair(array, sample["image"], sample["label"] == 1)
    if dtype in ("int64", "float16"):
        of_tensor = MetaTensor(torch.from_numpy(array), affine=host.affine)
        found = PaintTumord(prob=1.0, **more, **options).set_random_state(4)({"image": of_tensor})["image"]
        assert found.dtype == of_tensor.dtype
    with pytest.raises(PlanError, match="spacing is not clear"):
        PaintTumord(prob=1.0, **options)({"image": array})


def test_a_region_holds_the_tumors(host, options):
    region = torch.zeros(host.shape)
    region[0, 10:24, 10:24, 10:24] = 1
    transform = PaintTumord(prob=1.0, region_key="organ", **options).set_random_state(4)
    marked = transform({"image": host, "organ": region})["label"].numpy() == 1
    assert marked[region.numpy() == 1].sum() >= 0.95 * marked.sum() > 0


@pytest.mark.parametrize("what", ["air", "region"])
def test_without_a_place_a_sample_stays_or_the_error_is_raised(host, options, what):
    sample = {"image": host * 0} if what == "air" else {"image": host, "organ": host * 0}
    key = "organ" if what == "region" else None
    kept = PaintTumord(prob=1.0, region_key=key, **options)(sample)
    assert torch.equal(kept["image"], sample["image"])
    assert not kept["label"].any()
    with pytest.raises(DataError if what == "air" else NoPlaceError, match=r"every voxel is 0|no voxel set"):
        PaintTumord(prob=1.0, region_key=key, no_place="raise", **options)(sample)


def test_each_worker_has_a_seed_of_its_own(host, options):
    """MONAI's loader, twice from one seed: the same samples again, and another one from each worker."""

    def epoch():
        torch.manual_seed(3)
        data = Dataset([{"image": host}] * 2, PaintTumord(prob=1.0, **options))
        return [batch["label"].numpy() for batch in DataLoader(data, num_workers=2, batch_size=1)]

    first, again = epoch(), epoch()
    assert all(labels.any() for labels in first)
    assert not np.array_equal(*first)
    np.testing.assert_array_equal(first, again)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # networks that were trained for four steps
def test_loading_networks_leaves_the_random_numbers_of_the_caller(trained, host):
    """They are made from a seed of their own; else every worker would go on from the same random numbers."""
    torch.manual_seed(9)
    before = torch.get_rng_state()
    PaintTumord(prob=1.0, method="tumorgen", work=trained.root)({"image": host})
    assert torch.equal(torch.get_rng_state(), before)


def test_an_installed_model_paints(workspace, host, options, tmp_path, monkeypatch):
    monkeypatch.setenv("TUMORGEN_MODELS", str(tmp_path / "models"))
    made = api.export_model(tmp_path / "phantoms.zip", "syntumor", work=workspace.root, device="cpu")
    api.install_model(made.path, "phantoms")
    transform = PaintTumord(prob=1.0, model="phantoms", work=tmp_path / "nothing").set_random_state(4)
    sample = pickle.loads(pickle.dumps(transform))({"image": host})  # as to a worker process
    check_pair(host, sample["image"], sample["label"].numpy() == 1)
    assert not (tmp_path / "nothing").exists()
    with pytest.raises(PlanError, match="A model has one method"):
        PaintTumord(prob=1.0, model="phantoms", method="copypaste")({"image": host})
    with pytest.raises(StateError, match="not installed"):
        PaintTumord(prob=1.0, model="phantom")({"image": host})


def test_what_cannot_be_painted_is_said_and_mended_as_told(host, options):
    one = PaintTumord(prob=1.0, **options)
    same = "give image, label and region the same crops and resampling, and make labels one-hot after this transform"
    moved = MetaTensor(torch.zeros(host.shape), affine=host.affine + torch.eye(4))
    for sample, remedy in [
        ({"scan": host}, "set image_key="),
        ({"image": host[0]}, "put EnsureChannelFirstd before this transform"),
        ({"image": host, "label": torch.zeros(2, *host.shape[1:])}, same),
        ({"image": host, "label": moved}, same),
    ]:
        with pytest.raises(DataError) as error:
            one(sample)
        assert [fault.remedy for fault in error.value.faults] == [remedy]
    assert PaintTumord("scan", prob=1.0, **options)({"scan": host})["label"].any()
    with pytest.raises(TypeError, match="probability"):
        PaintTumord(probability=1.0)
    with pytest.raises(TypeError, match="seed"):
        PaintTumord(seed=1)


def test_without_torchio_the_command_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchio", None)
    monkeypatch.delitem(sys.modules, "tumorgen_cli.api.torchio", raising=False)
    with pytest.raises(StateError, match="A package is missing") as error:
        import tumorgen_cli.api.torchio  # noqa: F401
    assert error.value.faults[0].remedy == "pip install 'torchio>=1.2'"


@pytest.fixture
def torchio():
    return pytest.importorskip("torchio", reason="the extra torchio is not installed", exc_type=ImportError)


def subject_of(torchio, host, **images):
    return torchio.Subject(image=torchio.ScalarImage(tensor=host.numpy(), affine=host.affine.numpy()), **images)


def test_a_subject_is_painted(torchio, host, options):
    from tumorgen_cli.api.torchio import PaintTumor

    chain = torchio.Compose([PaintTumor(p=1, label=3, **options), torchio.RandomFlip()])
    painted = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        subject = subject_of(torchio, host)
        found = chain.transforms[0](subject)
        check_pair(host, found.image.numpy(), found.label.numpy() == 3)
        assert isinstance(found.label, torchio.LabelMap)
        np.testing.assert_array_equal(found.label.affine, host.affine.numpy())
        assert "label" not in subject
        painted.append(found.label.numpy())
    assert np.array_equal(painted[0], painted[1])
    assert not np.array_equal(painted[0], painted[2])
    assert chain(subject_of(torchio, host)).label.numpy().any()
    kept = PaintTumor(p=0, **options)(subject_of(torchio, host))
    assert not kept.label.numpy().any()
    np.testing.assert_array_equal(kept.image.numpy(), host.numpy())


def test_the_label_and_region_of_a_subject(torchio, host, options):
    from tumorgen_cli.api.torchio import PaintTumor

    affine, old, region = host.affine.numpy(), torch.zeros(host.shape), torch.zeros(host.shape)
    old[0, 0, 0, 0], region[0, 10:24, 10:24, 10:24] = 5, 1
    maps = {
        "label": torchio.LabelMap(tensor=old, affine=affine),
        "organ": torchio.LabelMap(tensor=region, affine=affine),
    }
    found = PaintTumor(p=1, region_key="organ", **options)(subject_of(torchio, host, **maps))
    marked = found.label.numpy() == 1
    assert found.label.numpy()[0, 0, 0, 0] == 5
    assert marked[region.numpy() == 1].sum() >= 0.95 * marked.sum() > 0
    with pytest.raises(DataError, match="set region_key="):
        PaintTumor(p=1, region_key="liver", **options)(subject_of(torchio, host))


def test_each_worker_of_torchio_has_a_seed_of_its_own(torchio, host, options):
    from tumorgen_cli.api.torchio import PaintTumor

    def epoch():
        torch.manual_seed(3)
        data = torchio.SubjectsDataset([subject_of(torchio, host)] * 2, PaintTumor(p=1, **options))
        loader = torchio.SubjectsLoader(data, num_workers=2, batch_size=1)
        return [batch["label"]["data"].numpy() for batch in loader]

    first, again = epoch(), epoch()
    assert all(labels.any() for labels in first)
    assert not np.array_equal(*first)
    np.testing.assert_array_equal(first, again)
