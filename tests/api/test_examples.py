"""Every public function has an example that runs, in the workspace of a demo."""

import doctest

import pytest
from support.workspaces import lay_out_demo

from tumorgen_cli import api
from tumorgen_cli.api.transforms import PaintTumord

SHOWN = [getattr(api, name) for name in api.__all__ if not isinstance(getattr(api, name), type)] + [PaintTumord]


@pytest.fixture(scope="module")
def demo_folder(trained, phantoms, tmp_path_factory):
    """A folder with `tumorgen_demo`, a trained workspace with its phantoms."""
    folder = tmp_path_factory.mktemp("examples")
    lay_out_demo(trained, phantoms, folder)
    return folder


@pytest.mark.parametrize("shown", SHOWN, ids=lambda shown: shown.__name__)
def test_the_example_of(shown, demo_folder, monkeypatch):
    monkeypatch.chdir(demo_folder)
    monkeypatch.delenv("nnUNet_preprocessed", raising=False)
    (found,) = doctest.DocTestFinder(recurse=False).find(shown, shown.__name__, globs={})
    assert found.examples
    said = []
    failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(found, out=said.append)
    assert not failed, "".join(said)


def test_text_is_read_as_a_path():
    from pathlib import Path

    from tumorgen_cli.api.options import with_paths

    hosts = with_paths(api.HostOptions(healthy="scans", cases="train", roi=Path("rois")))
    assert (hosts.healthy, hosts.cases, hosts.roi, hosts.box) == (Path("scans"), "train", Path("rois"), None)
    assert with_paths(api.QualityOptions(judge="bundled")).judge == Path("bundled")
