"""A dataset of the Hugging Face `datasets` library, from a folder or the local cache."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

# here, so that a missing extra is found when the component is looked up
import datasets  # type: ignore[import-not-found,import-untyped,unused-ignore]
import huggingface_hub  # type: ignore[import-not-found,import-untyped,unused-ignore]
from annotated_types import Ge, Gt, Le

from sgm_core.errors import SgmError
from sgm_core.pictures.files import BadImageError
from sgm_core.registry import did_you_mean
from sgm_core.shapes import Shape
from sgm_plugins.datamodules.buckets import Buckets
from sgm_plugins.datamodules.expansion import refuse_expansion
from sgm_plugins.datamodules.image_data import ImageData, check_columns, entry_shapes
from sgm_plugins.datamodules.image_samples import BadSampleError, Framing
from sgm_plugins.datamodules.walk import leaves
from sgm_plugins.pretrained import HUB


class HFDataset(ImageData):
    """Images of a `datasets` table: a folder (Parquet, Arrow, `save_to_disk`, ...) or a dataset in the local cache.

    The images' bytes are read as by `image_folder`, not by the library: upright, white behind transparency, and bad
    ones are replaced, listed and reported. Batches are a function of (seed, epoch, position), so that a run resumed
    inside an epoch goes on with the very next one.

    Args:
        path: a folder, or the name of a dataset in the local cache of the hub; `hf:NAME` may be downloaded.
        size: height and width of the batch's images, in pixels; with `buckets`, those of a square of their area.
        name: the configuration of the dataset, where it has several.
        split: as the library writes it, `train` or `train[:10%]`. A single table of `save_to_disk` has none to choose.
        image: the column of images.
        columns: entries of the batch beside "image", by name, and the column that each is: `{txt: text, cls: label}`.
            Texts become a list, numbers and lists of them a tensor, int64 if all of the batch are whole. A row without
            the value is a bad one.
        mask: a column of gray images of the same size, white for 1 and black for 0: gives "mask", (b, 1, height, width)
            float32, the weights of pixels that `loss_fn.mask` reads. A row without one counts whole.
        local_files_only: nothing is downloaded, not even for `hf:NAME`.
        batch_size: images of a batch, on each device. Training leaves out the incomplete last batch.
        channels: 3 for RGB, 1 for gray.
        sizes: give SDXL's "original_size_as_tuple", "crop_coords_top_left" and "target_size_as_tuple", (b, 2) int64
            each: (height, width) of the upright image, (top, left) of the crop in the resized (and flipped) image,
            (height, width) of the result.
        buckets: batches of several shapes, each of about the area of `size` x `size`; an image goes to the one of the
            nearest aspect ratio. All images are looked at at the start.
        random_crop: crop anywhere, not in the centre, while training.
        flip: probability that left and right change places, while training.
        max_pixels: images of more pixels are bad.
        max_bad: the share of rows that may be bad; more end the run.
        train_fraction: the part of the split to train on; the rest is for validation.
        num_workers: processes that load ahead; 0 loads in the training process.
        seed: of the order in which an epoch visits the images, and of crops and flips.

    Raises:
        ValueError: `size` does not go with the buckets' step; a column has the name of another entry.
        SgmError: when the data is first needed: a URL, no such dataset, split or column, no images in the column, none
            that can be read, too many bad ones, a batch larger than the training part.
    """

    def __init__(
        self,
        path: str,
        size: Annotated[int, Ge(1)],
        name: str | None = None,
        split: str = "train",
        image: str = "image",
        columns: dict[str, str] | None = None,
        mask: str | None = None,
        local_files_only: bool = True,
        batch_size: Annotated[int, Ge(1)] = 8,
        channels: Literal[1, 3] = 3,
        sizes: bool = False,
        buckets: Buckets | None = None,
        random_crop: bool = False,
        flip: Annotated[float, Ge(0), Le(1)] = 0.0,
        max_pixels: Annotated[int, Ge(1), Le(178_956_970)] = 89_478_485,
        max_bad: Annotated[float, Ge(0), Le(1)] = 0.5,
        train_fraction: Annotated[float, Gt(0), Le(1)] = 1.0,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        framing = Framing(size, channels, sizes, max_pixels, random_crop, flip, seed)
        super().__init__(framing, buckets, batch_size, train_fraction, max_bad, num_workers, seed)
        self.path = path
        self.name = name
        self.split = split
        self.image = image
        self.columns = check_columns(columns or {}, ("mask",) if mask else ())
        self.mask = mask
        self.local_files_only = local_files_only

    @staticmethod
    def shapes(
        *, size: int, channels: int, columns: dict[str, str] | None, mask: str | None, sizes: bool, buckets: Any
    ) -> dict[str, Shape | None]:
        return entry_shapes(size, channels, sizes, buckets, columns, mask)

    @property
    def title(self) -> str:
        return f"dataset {self.path}"

    @cached_property
    def source(self) -> TableSource:
        table = self._table()
        pictures = [self.image, *([self.mask] if self.mask else [])]
        for column in (*pictures, *self.columns.values()):
            if column not in table.features:
                raise SgmError(
                    f"{self.title}: no column '{column}'.{did_you_mean(column, table.features)} "
                    f"It has: {', '.join(table.features)}"
                )
        images = [name for name, feature in table.features.items() if isinstance(feature, datasets.Image)]
        for column in pictures:
            if column not in images:
                raise SgmError(
                    f"{self.title}: column '{column}' holds no images. Those that do: {', '.join(images) or 'none'}"
                )
        return TableSource(table, self.image, self.columns, self._folders(), self.mask)

    def _folders(self) -> list[str]:
        """Where the files may lie that a table names: the dataset's folder, and the library's caches."""
        caches = (datasets.config.HF_DATASETS_CACHE, huggingface_hub.constants.HF_HUB_CACHE)
        return [os.path.realpath(folder) for folder in ((self.path,) if Path(self.path).is_dir() else ()) + caches]

    @property
    def class_names(self) -> Mapping[str, Sequence[str]]:
        """Those that the table names."""
        features = {entry: self.source.features[column] for entry, column in self.columns.items()}
        return {entry: f.names for entry, f in features.items() if isinstance(f, datasets.ClassLabel)}

    def _table(self) -> Any:
        """The split, as a table."""
        path, hub = self.path.removeprefix(HUB), self.path.startswith(HUB) and not self.local_files_only
        if "://" in self.path:
            raise SgmError(f"{self.title}: URLs are not read: give a folder, or a name on the hub")
        folder = Path(path)
        if folder.is_dir():
            refuse_expansion(folder)
        saved = any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
        try:
            with _offline(not hub):
                if not saved:
                    return datasets.load_dataset(path, self.name, split=self.split)
                table = datasets.load_from_disk(path)
        except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            hint = ""
            if not hub and not folder.exists():
                hint = (
                    f". Neither a folder nor in the cache: `path: {HUB}{path}` with `local_files_only: false` downloads"
                )
            raise SgmError(f"{self.title}: {str(error).strip().rstrip('.')}{hint}") from error
        if isinstance(table, datasets.DatasetDict):
            if self.split not in table:
                raise SgmError(f"{self.title}: no split '{self.split}'. It has: {', '.join(table)}")
            table = table[self.split]
        return table


class TableSource:
    """The rows of a table.

    Args:
        table: a `datasets.Dataset`.
        image: its column of images.
        columns: entry -> column.
        folders: where the files may lie that it names; none means anywhere.
        mask: its column of masks.
    """

    def __init__(
        self, table: Any, image: str, columns: dict[str, str], folders: Sequence[str] = (), mask: str | None = None
    ) -> None:
        self.folders = folders
        self.features = table.features
        self.names = [f"row {row}" for row in range(len(table))]
        self.image = image
        self.columns = columns
        self.mask_column = mask
        self.has_masks = mask is not None
        self._pictures = {
            column: table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
            for column in (image, mask)
            if column is not None
        }
        self._others = table.select_columns(sorted(set(columns.values()))) if columns else None

    def file(self, row: int) -> Path | BinaryIO:
        if (file := self._file(self.image, row)) is None:
            raise BadImageError("no image")
        return file

    def mask(self, row: int) -> Path | BinaryIO | None:
        return None if self.mask_column is None else self._file(self.mask_column, row)

    def _file(self, column: str, row: int) -> Path | BinaryIO | None:
        image = self._pictures[column][row][column]
        if image is None:
            return None
        if image["bytes"] is not None:
            return io.BytesIO(image["bytes"])
        path: str = image["path"]
        if "://" in path:
            raise BadImageError(f"'{path}' is a URL")
        if self.folders and all(leaves(path, folder) for folder in self.folders):
            raise BadImageError(f"'{path}' lies outside of the dataset")
        return Path(path)

    def entries(self, row: int) -> dict[str, Any]:
        if self._others is None:
            return {}
        values = self._others[row]
        for column in self.columns.values():
            if values[column] is None:
                raise BadSampleError(f"no value in column '{column}'")
        return {entry: values[column] for entry, column in self.columns.items()}


@contextmanager
def _offline(on: bool) -> Iterator[None]:
    """The library's own switches, which are else read from the environment when it is imported, once."""
    switches = [datasets.config, huggingface_hub.constants]
    before = [module.HF_HUB_OFFLINE for module in switches]
    try:
        for module, value in zip(switches, before, strict=True):
            module.HF_HUB_OFFLINE = on or value
        yield
    finally:
        for module, value in zip(switches, before, strict=True):
            module.HF_HUB_OFFLINE = value
