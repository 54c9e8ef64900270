"""The files of a folder of images, and why each of the others is passed over. Nothing is opened."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from sgm_core.pictures.files import FORMATS

TEXTS = (".json", ".txt")
"""Endings of what stands beside an image."""

SPECIAL = {stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device"}


class Walk(NamedTuple):
    """What lies in a folder, at any depth; paths are sorted.

    Attributes:
        images: files that end as pictures do.
        tables: those that are called as the walk was told.
        texts: what may stand beside an image, by its path with the ending in small letters.
        passed: reason -> names of the files and folders that are left out for it.
    """

    images: list[Path]
    tables: list[Path]
    texts: dict[Path, Path]
    passed: dict[str, list[str]]


@cache
def suffixes() -> frozenset[str]:
    """The endings of the files that are read: .avif, .png, ..."""
    known = Image.registered_extensions()
    return frozenset(suffix for suffix, format_ in known.items() if format_ in (*FORMATS, "MPO"))


UNUSED = "neither captions nor columns are asked for"


def walk(root: Path, table: str, follow_links: bool = False) -> Walk:
    """Find the images of a folder.

    Args:
        root: the folder.
        table: name of the files with a line for each image, in any folder.
        follow_links: also those that leave the folder. A folder that others have made must not bring in what lies
            elsewhere, so they are passed over by default.
    """
    found = Walk([], [], {}, {})
    real_root = None if follow_links else os.path.realpath(root)
    visited = set[str]()
    waiting, links = [root], list[Path]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.pop()  # a link may lead to what has a name of its own
        real = os.path.realpath(folder)
        if real in visited:
            _pass(found, "a link to a folder that is read already", folder, root, "/")
            continue
        visited.add(real)
        try:
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            _pass(found, f"cannot be read: {error.strerror}", folder, root, "/")
            continue
        for entry in listed:
            path = folder / entry.name
            suffix = path.suffix.lower()
            kind, reason = _kind(entry, real_root)
            if reason:
                _pass(found, reason, path, root, "/" if kind == stat.S_IFDIR else "")
            elif kind == stat.S_IFDIR:
                (links if entry.is_symlink() else waiting).append(path)
            elif entry.name == table:
                found.tables.append(path)
            elif suffix in suffixes():
                found.images.append(path)
            elif suffix in TEXTS:
                found.texts[path.with_suffix(suffix)] = path
            else:
                _pass(found, f"{suffix} is no picture that is read" if suffix else "no ending", path, root)
    for paths in (found.images, found.tables):
        paths.sort(key=lambda path: path.relative_to(root).as_posix())
    return found


def pass_over_texts(found: Walk, root: Path, used: bool) -> None:
    """Note the texts that belong to no image, and all of them (tables, too) where nobody asks for any."""
    stems = {path.with_suffix("") for path in found.images}
    for path in sorted([*found.texts.values(), *(() if used else found.tables)]):
        if path not in found.tables and path.with_suffix("") not in stems:
            _pass(found, f"{path.suffix.lower()} beside no image", path, root)
        elif not used:
            _pass(found, UNUSED, path, root)


def take_masks(found: Walk, root: Path, suffix: str) -> dict[int, Path]:
    """Take the masks out of the images: NAME + suffix beside NAME, whatever their endings. By the number of the image
    that they are of; those of no image, and second ones, are passed over."""
    stems = {path.with_suffix("") for path in found.images}
    masks: dict[Path, Path] = {}
    images = []
    for path in found.images:
        image = path.with_name(path.stem.removesuffix(suffix))
        if path.stem == suffix or not path.stem.endswith(suffix):
            images.append(path)
        elif image not in stems or image in masks:
            _pass(found, "a second mask of an image" if image in masks else "a mask of no image", path, root)
        else:
            masks[image] = path
    found.images[:] = images
    return {row: masks[path.with_suffix("")] for row, path in enumerate(images) if path.with_suffix("") in masks}


def summary(passed: Mapping[str, Sequence[str]]) -> str:
    """All reasons in one line: "12 (.eps is no picture that is read), 1 (cannot be read: Permission denied: b/)"."""
    parts = []
    for reason, names in sorted(passed.items(), key=lambda item: (-len(item[1]), item[0])):
        parts.append(f"{len(names)} ({reason}: {names[0]}{', ...' if len(names) > 1 else ''})")
    return ", ".join(parts)


def leaves(path: str | Path, real_root: str) -> bool:
    """Whether a path, links resolved, lies outside of a folder."""
    real = os.path.realpath(path)
    return not Path(real).is_relative_to(real_root)


def _kind(entry: os.DirEntry[str], real_root: str | None) -> tuple[int, str]:
    """The type of an entry, links followed, and why it is passed over, if it is."""
    try:
        kind = stat.S_IFMT(entry.stat().st_mode)
    except OSError as error:  # a picture that cannot be read is a bad sample
        reason = "a broken link" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
        return 0, "" if Path(entry.name).suffix.lower() in suffixes() else reason
    if kind in SPECIAL:
        return kind, SPECIAL[kind]
    if entry.name.startswith("."):
        return kind, "hidden"
    if real_root is not None and entry.is_symlink() and leaves(entry.path, real_root):
        return kind, "a link that leaves the folder"
    return kind, ""


def _pass(found: Walk, reason: str, path: Path, root: Path, end: str = "") -> None:
    found.passed.setdefault(reason, []).append(path.relative_to(root).as_posix() + end)
