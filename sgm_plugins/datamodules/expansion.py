"""Files that become far larger when they are read: refused before the disk is full."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow  # type: ignore[import-not-found,import-untyped,unused-ignore]
import pyarrow.parquet  # type: ignore[import-not-found,import-untyped,unused-ignore]

from sgm_core.errors import SgmError

MOST_TIMES = 200
"""How many times its size a file may become."""

HARMLESS = 2**30
"""Bytes up to which nobody minds."""

ROWS = 64
"""Rows of each group that are read to know how large the others are."""


def refuse_expansion(folder: Path) -> None:
    """Look at the Parquet and zip files of a folder.

    Raises:
        SgmError: one of them would take more than `HARMLESS` bytes, and `MOST_TIMES` its own size.
    """
    for path in sorted(folder.rglob("*")):
        measure = {".parquet": _rows_of_parquet, ".zip": _members_of_zip}.get(path.suffix.lower())
        if measure is None or not path.is_file():
            continue
        try:
            large = measure(path)
        except (OSError, ValueError, pyarrow.ArrowException, zipfile.BadZipFile):
            continue  # whoever reads it says what is wrong
        size = path.stat().st_size
        if large > HARMLESS and large > MOST_TIMES * size:
            raise SgmError(
                f"{path}: its {size} bytes would become about {large / 1e9:.1f} GB on the disk, {large // size} times "
                f"as many; more than {MOST_TIMES} times is refused. Write the table again, in smaller parts"
            )


def _rows_of_parquet(path: Path) -> int:
    """Bytes of all rows: from the first rows of each group, or what the file says itself."""
    total = 0
    with pyarrow.parquet.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            group = file.metadata.row_group(number)
            first = next(file.iter_batches(batch_size=ROWS, row_groups=[number]), None)
            measured = 0 if first is None or not len(first) else first.nbytes * group.num_rows // len(first)
            total += max(measured, group.total_byte_size)
    return total


def _members_of_zip(path: Path) -> int:
    with zipfile.ZipFile(path) as file:
        return sum(member.file_size for member in file.infolist())
