"""A small file that would fill the disk is refused before it is unpacked."""

from __future__ import annotations

import zipfile

import pytest

pytest.importorskip("datasets")

import pyarrow
import pyarrow.parquet

from sgm_core.errors import SgmError
from sgm_plugins.datamodules.expansion import refuse_expansion
from sgm_plugins.datamodules.hf_dataset import HFDataset


def test_a_table_of_a_text_repeated_many_times_is_refused(tmp_path):
    text = pyarrow.array(["x" * 10_000]).dictionary_encode()
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 200_000, pyarrow.int32()), text.dictionary)
    table = pyarrow.table({"text": rows})
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(table, path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 100_000
    with pytest.raises(SgmError, match=r"train\.parquet: its \d+ bytes would become about 2\.0 GB on the disk"):
        HFDataset(str(tmp_path), 8).setup("fit")


def test_a_zip_of_nothing_but_zeros_is_refused_and_an_ordinary_one_is_not(tmp_path):
    with zipfile.ZipFile(tmp_path / "fine.zip", "w") as file:
        file.writestr("a.txt", "fine")
    refuse_expansion(tmp_path)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file, file.open("a", "w") as member:
        for _ in range(70):
            member.write(bytes(2**24))
    with pytest.raises(SgmError, match=r"bomb\.zip: its \d+ bytes would become about 1\.2 GB"):
        refuse_expansion(tmp_path)
