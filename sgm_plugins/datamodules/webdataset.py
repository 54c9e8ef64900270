"""Tar shards in WebDataset's layout, with every batch a function of (seed, epoch, position)."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, BinaryIO, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from sgm_core.errors import SgmError
from sgm_core.files import MOST_BYTES, BadFileError, as_text, parse_json
from sgm_core.pictures.files import BadImageError
from sgm_core.shapes import Shape
from sgm_plugins.datamodules.bad_samples import listing
from sgm_plugins.datamodules.buckets import Buckets
from sgm_plugins.datamodules.image_data import ImageData, check_columns, entry_shapes
from sgm_plugins.datamodules.image_samples import BadSampleError, Framing
from sgm_plugins.datamodules.tar_shards import Sample, expand, read_index
from sgm_plugins.datamodules.walk import suffixes


class WebDataset(ImageData):
    """Images from tar files in WebDataset's layout: 000001.jpg, 000001.txt, 000001.json, 000002.jpg, ...

    The headers of all shards are read at the start (about 0.1 ms a member), so that any sample is a seek away: an epoch
    shuffles all samples, not those of a buffer; a run resumed inside an epoch goes on with the very next batch; ranks
    and workers share the samples, not the shards, so that their number need not divide. The library itself is not
    needed. Shards are local, uncompressed files. Bad samples are replaced, listed and reported as by `image_folder`.

    Args:
        shards: paths; braces, as in `shards/{0000..0099}.tar`, and `*` are expanded. URLs and `pipe:` commands are
            refused: a config downloads and runs nothing.
        size: height and width of the batch's images, in pixels; with `buckets`, those of a square of their area.
        batch_size: images of a batch, on each device. Training leaves out the incomplete last batch.
        channels: 3 for RGB, 1 for gray.
        columns: entries of the batch beside "image", by name, and the field that each is made of: `{txt: txt, cls:
            cls, score: json.aesthetic}`. `cls` is a whole number, `json` an object, of which a key is taken, `npy` an
            array, anything else text. Texts become a list, numbers and arrays a tensor, int64 if all of the batch are
            whole. A sample without the field is a bad one.
        mask: the field of masks, such as `mask.png`: gives "mask", as `mask_suffix` of `image_folder` does. A sample
            without the field counts whole.
        sizes: give SDXL's "original_size_as_tuple", "crop_coords_top_left" and "target_size_as_tuple", (b, 2) int64
            each: (height, width) of the upright file, (top, left) of the crop in the resized (and flipped) image,
            (height, width) of the result.
        buckets: batches of several shapes, each of about the area of `size` x `size`; an image goes to the one of the
            nearest aspect ratio. The header of every image is read at the start.
        random_crop: crop anywhere, not in the centre, while training.
        flip: probability that left and right change places, while training.
        max_pixels: files of more pixels are bad.
        max_bad: the share of samples that may be bad; more end the run.
        train_fraction: the part to train on; the rest is for validation. The parts depend on shards and keys alone.
        num_workers: processes that load ahead; 0 loads in the training process.
        seed: of the order in which an epoch visits the images, and of crops and flips.

    Raises:
        ValueError: `size` does not go with the buckets' step; a column has the name of another entry.
        SgmError: when the data is first needed: a URL or a command, no such shards, no tar file, no images in it or
            none that can be read, too many bad ones, a batch larger than the training part.
    """

    def __init__(
        self,
        shards: str | list[str],
        size: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)] = 8,
        channels: Literal[1, 3] = 3,
        columns: dict[str, str] | None = None,
        mask: str | None = None,
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
        self.shards = [shards] if isinstance(shards, str) else shards
        self.columns = check_columns(columns or {}, ("mask",) if mask else ())
        self.mask = mask

    @staticmethod
    def shapes(
        *, size: int, channels: int, columns: dict[str, str] | None, mask: str | None, sizes: bool, buckets: Any
    ) -> dict[str, Shape | None]:
        return entry_shapes(size, channels, sizes, buckets, columns, mask)

    @property
    def title(self) -> str:
        return f"shards {', '.join(self.shards)}"

    @cached_property
    def source(self) -> ShardSource:
        samples: list[Sample] = []
        passed: dict[str, list[str]] = {}
        broken = {}
        for pattern in self.shards:
            for shard in expand(pattern):
                found, problem = read_index(shard, passed)
                samples += found
                if problem:
                    broken[str(shard)] = problem
        if not any(is_image(field) for sample in samples for field in sample.members):
            raise SgmError(
                f"{self.title}: no images in it; looked for members that end in {', '.join(sorted(suffixes()))}"
            )
        if broken:
            warnings.warn(f"{self.title}: shards that end early or are damaged: {listing(broken)}", stacklevel=2)
        if self.mask and not any(self.mask in sample.members for sample in samples):
            fields = sorted({field for sample in samples for field in sample.members})
            raise SgmError(f"{self.title}: no sample has the field '{self.mask}' of masks. Fields: {', '.join(fields)}")
        return ShardSource(samples, self.columns, passed, self.mask)

    @property
    def passed_over(self) -> Mapping[str, list[str]]:
        return self.source.passed


class ShardSource:
    """The samples of some shards.

    Args:
        samples: where they lie.
        columns: entry -> field, or json.key.
        passed: reason -> names of the members that are left out.
        mask: the field of masks.
    """

    def __init__(
        self,
        samples: list[Sample],
        columns: dict[str, str],
        passed: Mapping[str, list[str]],
        mask: str | None = None,
    ) -> None:
        self.samples = samples
        self.passed = passed
        self.columns = columns
        self.names = [sample.name for sample in samples]
        self.mask_field = mask
        self.has_masks = mask is not None

    def file(self, row: int) -> BinaryIO:
        sample = self.samples[row]
        for field in sample.members:
            if is_image(field) and field != self.mask_field:
                return sample.open(field)
        raise BadImageError(f"no image among its fields: {', '.join(sample.members)}")

    def mask(self, row: int) -> BinaryIO | None:
        sample = self.samples[row]
        return sample.open(self.mask_field) if self.mask_field in sample.members else None

    def entries(self, row: int) -> dict[str, Any]:
        return {entry: _field(self.samples[row], column) for entry, column in self.columns.items()}


def is_image(field: str) -> bool:
    """Whether a field ends as a picture does: `jpg`, `seg.png`."""
    return f".{field.rpartition('.')[2]}" in suffixes()


def _field(sample: Sample, column: str) -> Any:
    """The value of a column, decoded."""
    field, key = (column, "") if column in sample.members or "." not in column else column.rsplit(".", 1)
    if field not in sample.members:
        raise BadSampleError(f"no field '{field}': it has {', '.join(sample.members)}")
    if sample.members[field].size > MOST_BYTES:
        raise BadSampleError(f"field '{field}': larger than the {MOST_BYTES} bytes that are read")
    with sample.open(field) as file:
        content = file.read()
    if len(content) < sample.members[field].size:
        raise BadSampleError(f"field '{field}' is cut off: the shard ends early")
    try:
        value = _decode(field, content)
    except BadFileError as error:
        raise BadSampleError(str(error)) from error
    except ValueError as error:
        raise BadSampleError(f"field '{field}': {error}") from error
    if not key:
        return value
    if not isinstance(value, dict) or value.get(key) is None:
        raise BadSampleError(f"field '{field}' has no '{key}'")
    return value[key]


def _decode(field: str, content: bytes) -> Any:
    name = f"field '{field}'"
    match field.rpartition(".")[2]:
        case "json":
            return parse_json(as_text(content, name), name)
        case "cls":
            return int(content)
        case "npy":
            return _array(content)
        case _:
            return as_text(content, name).strip()


def _array(content: bytes) -> Any:
    """An array as numpy saves it. ValueError for anything else, and for less than its header says."""
    file = io.BytesIO(content)
    old = np.lib.format.read_magic(file) == (1, 0)
    shape, _, dtype = (np.lib.format.read_array_header_1_0 if old else np.lib.format.read_array_header_2_0)(file)
    if math.prod(shape) * dtype.itemsize > len(content):
        raise ValueError(f"it has {len(content)} bytes, and says that it holds {dtype} numbers of shape {shape}")
    return np.load(io.BytesIO(content), allow_pickle=False)
