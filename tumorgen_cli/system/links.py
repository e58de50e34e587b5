"""Puts a file into another folder: as a copy that may be edited, as a link, or as one file under two names.

A reflink is tried first: a file of its own whose blocks are shared until one of the two changes. Btrfs, XFS and APFS
have it, ext4 and most network file systems have not.
"""

from __future__ import annotations

import errno
import filecmp
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tumorgen_cli.system.files import atomic

_FICLONE = 0x40049409  # Linux's number for "share the blocks of that file"


def copy_file(source: Path, target: Path) -> None:
    """Make `target` a file of its own with the content of `source`; a change of one does not change the other.

    A target that is one already is left as it is.

    Raises:
        StateError: the target cannot be written.
    """
    is_own = target.is_file() and not target.is_symlink() and not target.samefile(source)
    if not (is_own and same_content(target, source)):
        _place(source, target, (_reflink, _copy))


def link_file(source: Path, target: Path) -> None:
    """Make `target` a reflink of `source`, else a symbolic link, else a copy. For files that nobody edits.

    A target with the same content is left as it is, unless it is another name of the same file.

    Raises:
        StateError: the target cannot be written.
    """
    if target.is_file() and (target.is_symlink() or not target.samefile(source)) and same_content(target, source):
        return
    _place(source, target, (_reflink, _symlink, _copy))


def share_file(source: Path, target: Path) -> None:
    """Make `target` a reflink of `source`, else another name of the same file, else a copy.

    For files that TumorGen wrote and that nobody edits: `target` stays when `source` is deleted. A target with the same
    content is left as it is.

    Raises:
        StateError: the target cannot be written.
    """
    if not (target.is_file() and same_content(target, source)):
        _place(source, target, (_reflink, os.link, _copy))


def same_content(one: Path, other: Path) -> bool:
    """Tell whether two files have the same content."""
    return one.samefile(other) or filecmp.cmp(one, other, shallow=False)


def describe_missing(path: Path) -> str:
    """Describe what is found where a file is missing: nothing, or a link that leads nowhere."""
    return f"a link to {path.readlink()}, which is not there" if path.is_symlink() else "no such file"


def _place(source: Path, target: Path, ways: Sequence[Callable[[Path, Path], object]]) -> None:
    """Try several ways to make `target` from `source`; only the last one may fail."""
    source = source.resolve()  # a link to a relative link would lead to another place from the target's folder
    *tries, last = ways
    with atomic(target) as temporary:
        for way in tries:
            try:
                way(source, temporary)
            except OSError:  # the file system has no such links
                temporary.unlink(missing_ok=True)
            else:
                return
        last(source, temporary)


def _reflink(source: Path, target: Path) -> None:
    import fcntl

    with source.open("rb") as read, target.open("wb") as write:
        fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    if not same_content(source, target):
        raise OSError(errno.EIO, "what is on disk is not what was written", str(target))


def _symlink(source: Path, target: Path) -> None:
    target.symlink_to(source)
