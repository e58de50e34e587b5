"""No file is cut in silence: not by a limit of file sizes, and not by a full disk."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.faults import CHAIN, Outcome, Site, broken_volumes, contents, differences, run

pytestmark = pytest.mark.slow
KIB = 1024


def check(site: Site, name: str, ended: Outcome) -> None:
    """The command told its fault or finished; nothing is cut; with enough room it ends as it should."""
    assert "Traceback" not in ended.text, ended.text
    assert broken_volumes(site.place) == []
    if ended.ok:
        assert differences(site.left[name], contents(site.place)) == []
    else:
        assert ended.code == 1, ended.text
        assert "error:" in ended.text, ended.text
        assert "remedy:" in ended.text, ended.text
    again = site.run(name)
    assert again.ok, again.text
    assert differences(site.left[name], contents(site.place)) == []


@pytest.mark.parametrize("most_kib", [2, 30, 150])
@pytest.mark.parametrize("name", CHAIN)
def test_a_limit_of_file_sizes(site: Site, name: str, most_kib: int) -> None:
    site.back_to(name)
    check(site, name, site.run(name, most_bytes=most_kib * KIB))


@pytest.mark.parametrize("spare_kib", [8, 100, 600])
@pytest.mark.parametrize("name", CHAIN)
def test_a_full_disk(site: Site, name: str, spare_kib: int, tmp_path: Path) -> None:
    require_small_disks()
    site.back_to(name)
    check(site, name, run_on_small_disk(site, name, spare_kib, tmp_path))


def require_small_disks() -> None:
    """Skip where a process may not mount a file system of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no right to mount a small file system (unshare -rm)")


#: copies the site onto a file system with little room, runs the command there, and copies back what is there then
SMALL_DISK = """
set -e
site=$1; outside=$2; spare=$3; shift 3
cp -a "$site" "$outside/before"
mount -t tmpfs -o size=2g tmpfs "$site"
cp -a "$outside/before/." "$site"
used=$(df --output=used -k "$site" | tail -1)
mount -o remount,size=$((used + spare))k "$site"
cd "$site"
set +e
"$@"
code=$?
set -e
cp -a "$site" "$outside/after"
exit $code
"""


def run_on_small_disk(site: Site, name: str, spare_kib: int, outside: Path) -> Outcome:
    """Run a command of the chain where only `spare_kib` are free; afterwards the site holds what the command left."""
    wrapper = ("unshare", "-rm", "bash", "-c", SMALL_DISK, "bash", str(site.place), str(outside), str(spare_kib))
    ended = run([*wrapper, sys.executable, "-m", "tumorgen_cli.cli", *site.arguments(name)], site.place)
    shutil.rmtree(site.place)
    subprocess.run(["cp", "-a", str(outside / "after"), str(site.place)], check=True)
    return ended


def test_the_small_disk_is_small(site: Site, tmp_path: Path) -> None:
    require_small_disks()
    site.back_to("plan")
    code = "open('large', 'wb').write(bytes(10**6))"
    wrapper = ("unshare", "-rm", "bash", "-c", SMALL_DISK, "bash", str(site.place), str(tmp_path), "100")
    ended = run([*wrapper, sys.executable, "-c", code], site.place)
    assert "No space left" in ended.text
