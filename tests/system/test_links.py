"""Files put into another folder: what may be edited is a file of its own."""

import os

import pytest

from tumorgen_cli.system import links


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "from" / "a.nii.gz"
    path.parent.mkdir()
    path.write_bytes(b"voxels")
    return path


@pytest.fixture
def no_reflinks(monkeypatch):
    def refuse(*_):
        raise OSError("no reflinks here")

    monkeypatch.setattr(links, "_reflink", refuse)


def test_a_copy_may_be_edited(source, tmp_path):
    target = tmp_path / "to" / "b.nii.gz"
    links.copy_file(source, target)
    assert target.read_bytes() == b"voxels"
    assert not target.is_symlink()
    with target.open("r+b") as stream:  # in place, as an editor of masks may write
        stream.write(b"edited")
    assert source.read_bytes() == b"voxels"


@pytest.mark.parametrize("make", [os.link, os.symlink])
def test_another_name_of_the_source_becomes_a_copy(source, tmp_path, make):
    target = tmp_path / "b.nii.gz"
    make(source, target)
    links.copy_file(source, target)
    assert not target.is_symlink()
    assert not target.samefile(source)
    assert target.read_bytes() == b"voxels"
    written = target.stat().st_mtime_ns, target.stat().st_ino
    links.copy_file(source, target)
    assert (target.stat().st_mtime_ns, target.stat().st_ino) == written  # it is left as it is


@pytest.mark.usefixtures("no_reflinks")
def test_a_link_leads_to_the_file_itself(source, tmp_path):
    (tmp_path / "relative.nii.gz").symlink_to("from/a.nii.gz")
    target = tmp_path / "to" / "b.nii.gz"
    target.parent.mkdir()
    os.link(source, target)
    links.link_file(tmp_path / "relative.nii.gz", target)
    assert target.is_symlink()
    assert target.readlink() == source.resolve()
    assert [path.name for path in target.parent.iterdir()] == ["b.nii.gz"]
    source.unlink()
    assert links.describe_missing(target) == f"a link to {source}, which is not there"
    assert links.describe_missing(source) == "no such file"


@pytest.mark.usefixtures("no_reflinks")
def test_a_shared_file_outlives_its_source(source, tmp_path):
    target = tmp_path / "b.nii.gz"
    links.share_file(source, target)
    assert target.samefile(source)
    source.unlink()
    assert target.read_bytes() == b"voxels"


def test_without_any_links_there_are_copies(source, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("no links here")

    monkeypatch.setattr(links, "_reflink", refuse)
    monkeypatch.setattr(links, "_symlink", refuse)
    monkeypatch.setattr(links.os, "link", refuse)
    for number, place in enumerate((links.link_file, links.share_file, links.copy_file)):
        target = tmp_path / f"{number}.nii.gz"
        place(source, target)
        assert target.read_bytes() == b"voxels"
        assert not target.is_symlink()
        assert not target.samefile(source)
