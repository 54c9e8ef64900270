"""Tar files of samples in WebDataset's layout, read in any order: an index of where each member lies.

The layout (https://github.com/webdataset/webdataset): members that follow each other and whose paths agree up to the
first dot of the file's name are one sample; what comes after that dot is the field's name. The webdataset library
reads a shard as a stream, whose position cannot be saved and restored exactly, runs what a config calls `pipe:...`,
and unpickles members. An index needs none of that: a sample is a seek away.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from glob import has_magic
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sgm_core.errors import SgmError, printable

_FIELD = re.compile(r"^((?:.*/)?[^./][^./]*)\.([^/]*)$")
_META = re.compile(r"__[^/]*__($|/)")
_RANGE = re.compile(r"(\d{1,18})\.\.(\d{1,18})")

MOST_SHARDS = 250_000
"""Of one pattern; LAION's two billion images are in 232,320."""

MOST_BRACES = 100
"""In one pattern."""


class Member(NamedTuple):
    """Where the bytes of a field lie in its shard."""

    offset: int
    size: int


class Sample(NamedTuple):
    """One sample: its shard, its key there, and its fields."""

    shard: Path
    key: str
    members: dict[str, Member]

    @property
    def name(self) -> str:
        return f"{self.shard}:{self.key}"

    def open(self, field: str) -> BinaryIO:
        """A field, as a file; of the shard nothing else is read."""
        return io.BufferedReader(_Window(self.shard, self.members[field]))


def expand(pattern: str) -> list[Path]:
    """The shards that a pattern means: braces, `{0000..0099}` or `{a,b}`, then `*`, `?` and `[...]` among the files.

    Raises:
        SgmError: it is a URL or a command, its braces mean nothing or too much, or no file is meant.
    """
    if re.match(r"\s*pipe:|.*\|\s*$", pattern):
        raise SgmError(f"shards '{pattern}': a config runs no commands. Fetch the shards first, and give their paths")
    if "://" in pattern:
        raise SgmError(f"shards '{pattern}': URLs are not read. Download the shards first, and give their paths")
    if pattern.count("{") > MOST_BRACES:
        raise SgmError(f"shards '{printable(pattern, 100)}': more than {MOST_BRACES} braces")
    paths: list[Path] = []
    for number, text in enumerate(_expand_braces(pattern)):
        if number == MOST_SHARDS:
            raise SgmError(
                f"shards '{printable(pattern, 100)}': more than {MOST_SHARDS} files; give a `*` in their place"
            )
        path = Path(text)
        found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor)))) if has_magic(text) else [path]
        if not found:
            raise SgmError(f"shards '{pattern}': no such files")
        paths += found
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise SgmError(f"shards '{pattern}': {len(missing)} of {len(paths)} files do not exist, {missing[0]} the first")
    return paths


def _expand_braces(pattern: str, whole: str = "") -> Iterator[str]:
    whole = whole or pattern
    before, brace, rest = pattern.partition("{")
    if not brace:
        if "}" in pattern:
            raise SgmError(f"shards '{whole}': a brace without its other")
        yield pattern
        return
    inside, after = _to_closing_brace(rest, whole)
    numbers = _RANGE.fullmatch("".join(inside))
    if numbers is not None:
        first, last = numbers.groups()
        width = max(len(first), len(last)) if first.startswith("0") or last.startswith("0") else 0
        step = 1 if int(first) <= int(last) else -1
        choices = (f"{number:0{width}}" for number in range(int(first), int(last) + step, step))
    elif len(inside) > 1:
        choices = (choice for part in inside for choice in _expand_braces(part, whole))
    else:
        raise SgmError(f"shards '{whole}': '{{{inside[0]}}}' is neither {{0000..0099}} nor {{a,b}}")
    for choice in choices:
        for end in _expand_braces(after, whole):
            yield before + choice + end


def _to_closing_brace(text: str, whole: str) -> tuple[list[str], str]:
    """What stands before the brace that closes, split at its commas, and what stands behind."""
    parts, depth = [""], 0
    for position, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return parts, text[position + 1 :]
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    raise SgmError(f"shards '{whole}': a brace without its other")


def read_index(shard: Path, passed: dict[str, list[str]] | None = None) -> tuple[list[Sample], str]:
    """The samples of a shard, in their order, and what is wrong with it, if anything is.

    Only the headers are read. Of a shard that ends early the samples before are given, the last perhaps incomplete.

    Args:
        shard: the file.
        passed: is filled in: reason -> names of the members that are no field of a sample.

    Raises:
        SgmError: no uncompressed tar file.
    """
    samples: list[Sample] = []
    try:
        with tarfile.open(shard, "r:") as tar, shard.open("rb") as file:
            for info in tar:
                tar.members = []  # type: ignore[attr-defined]  # or it keeps them all
                reason = _add(samples, shard, info) if info.isreg() else "" if info.isdir() else "no regular file"
                if reason and passed is not None:
                    passed.setdefault(reason, []).append(f"{shard}:{info.name}")
            file.seek(tar.offset)  # where tarfile, without a word, saw no further header
            if file.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                return samples, f"no tar header at byte {tar.offset}"
    except (tarfile.TarError, EOFError) as error:
        if samples:
            return samples, str(error)
        raise SgmError(f"shard {shard}: no uncompressed tar file ({error})") from error
    return samples, ""


def _add(samples: list[Sample], shard: Path, info: tarfile.TarInfo) -> str:
    """Add a member to its sample; why it is passed over, if it is."""
    match = _FIELD.match(info.name)
    if match is None or _META.match(info.name):
        return "not named KEY.FIELD, or hidden"
    key, field = match[1], match[2].lower()
    if not samples or samples[-1].key != key:
        samples.append(Sample(shard, key, {}))
    if field in samples[-1].members:
        return "a second member of this name"
    samples[-1].members[field] = Member(info.offset_data, info.size)
    return ""


class _Window(io.RawIOBase):
    """A part of a file as a file of its own."""

    def __init__(self, path: Path, member: Member) -> None:
        self._file = path.open("rb", buffering=0)
        self._member = member
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._member.size}[whence]
        if start + offset < 0:
            raise ValueError(f"negative seek position {start + offset}")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed: any buffer
        length = max(0, min(len(buffer), self._member.size - self._position))
        if not length:
            return 0
        self._file.seek(self._member.offset + self._position)
        read = self._file.readinto(memoryview(buffer)[:length]) or 0
        self._position += read
        return read

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
