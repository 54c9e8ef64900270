"""A folder of images, with classes from its sub-folders, and captions and more from files beside the images."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from sgm_core.errors import SgmError
from sgm_core.shapes import Shape
from sgm_plugins.datamodules.bad_samples import listing
from sgm_plugins.datamodules.buckets import Buckets
from sgm_plugins.datamodules.image_data import ImageData, check_columns, entry_shapes
from sgm_plugins.datamodules.image_samples import Framing, Images
from sgm_plugins.datamodules.sidecars import CAPTIONS, METADATA, Sidecars
from sgm_plugins.datamodules.walk import pass_over_texts, suffixes, summary, take_masks, walk


class ImageFolder(ImageData):
    """All images under a folder, at any depth, resized to cover a square, or a bucket of like shape, and cropped to it.

    Batches hold "image", (b, channels, height, width) float32 in [-1, 1], and, if asked for, "cls", "txt", SDXL's
    "original_size_as_tuple", "crop_coords_top_left" and "target_size_as_tuple", and columns of a `metadata.jsonl`.
    Files are read upright (EXIF) and in sRGB, transparency shows white, 16-bit gray is scaled. One that cannot be used
    (truncated, no image, too large) is found when it is loaded: the next usable image takes its place in the batch,
    `bad_samples.jsonl` in the folder of the run lists it, and one warning at the end of the epoch tells of all.
    `sgm data check` finds them before. What is passed over (hidden files, other endings, folders that cannot be read,
    links that leave the folder, pipes and devices) is counted in one line at the start, and listed by the check.

    Args:
        root: the folder.
        size: height and width of the batch's images, in pixels; with `buckets`, those of a square of their area.
        batch_size: images of a batch, on each device. Training leaves out the incomplete last batch.
        channels: 3 for RGB, 1 for gray.
        labels: give "cls", (b,) int64: which of the `classes`. true or "top" means the sub-folders of `root`, "path"
            all folders that hold images, by their path: `cat/siamese` is another class than `cat/tabby`.
        captions: give "txt", a list of b strings: for NAME.png the text of NAME.txt, or else "caption", "text" or
            "txt" of NAME.json or of the image's line in metadata.jsonl. The name of a column means that one alone.
            An image without has an empty caption.
        columns: further entries, by name, and the column of NAME.json or metadata.jsonl that each is made of: texts as
            a list, numbers and lists of them as a tensor, int64 if all of the batch are whole. An image without the
            column is a bad one. metadata.jsonl, in any folder, has a JSON object per line, with "file_name" from there.
        sizes: give SDXL's sizes, each (b, 2) int64: (height, width) of the upright file, (top, left) of the crop in
            the resized (and flipped) image, (height, width) of the result.
        buckets: batches of several shapes, each of about the area of `size` x `size`; an image goes to the one of the
            nearest aspect ratio, and those of one that would not fill a batch to its neighbour. The headers of all
            files are read at the start, 0.1 ms each or so.
        random_crop: crop anywhere, not in the centre, while training.
        flip: probability that left and right change places, while training. Crop and flip of an image depend on
            seed, epoch and image alone.
        max_pixels: files of more pixels are bad. By default where Pillow warns of a decompression bomb; it opens
            nothing above twice that.
        max_bad: the share of files that may be bad; more end the run.
        train_fraction: the part to train on; the rest is for validation. The parts depend on the paths under `root`
            alone, and change little when the folder grows.
        num_workers: processes that load ahead; 0 loads in the training process.
        seed: of the order in which an epoch visits the images, and of crops and flips.
        follow_links: read links that lead out of the folder. By default they are passed over, for the folder of a
            stranger must not bring in other files of yours.
        mask_suffix: give "mask", (b, 1, height, width) float32 from 0 to 1, the weights of pixels that `loss_fn.mask`
            reads. With "-mask" NAME-mask.png is that of NAME.jpg: a gray picture of the image's size, white for 1 and
            black for 0, which is cropped and mirrored with it. An image without a mask counts whole.
        constants: further entries, by name, and the number that each is for every image: `{guidance: 1.0}`.

    Raises:
        ValueError: `size` does not go with the buckets' step; a column has the name of another entry.
        SgmError: when the data is first needed: no such folder, no images in it or none that can be read, too many
            bad ones, no sub-folders for `labels`, no texts for `captions`, a metadata.jsonl that is none, a batch
            larger than the training part.
    """

    def __init__(
        self,
        root: Path,
        size: Annotated[int, Ge(1)],
        batch_size: Annotated[int, Ge(1)] = 8,
        channels: Literal[1, 3] = 3,
        labels: bool | Literal["top", "path"] = False,
        captions: bool | str = False,
        columns: dict[str, str] | None = None,
        sizes: bool = False,
        buckets: Buckets | None = None,
        random_crop: bool = False,
        flip: Annotated[float, Ge(0), Le(1)] = 0.0,
        max_pixels: Annotated[int, Ge(1), Le(178_956_970)] = 89_478_485,
        max_bad: Annotated[float, Ge(0), Le(1)] = 0.5,
        train_fraction: Annotated[float, Gt(0), Le(1)] = 1.0,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: Annotated[int, Ge(0)] = 0,
        follow_links: bool = False,
        mask_suffix: str | None = None,
        constants: dict[str, float] | None = None,
    ) -> None:
        framing = Framing(size, channels, sizes, max_pixels, random_crop, flip, seed)
        super().__init__(framing, buckets, batch_size, train_fraction, max_bad, num_workers, seed)
        self.root = Path(root)
        self.follow_links = follow_links
        self.labels = labels
        self.captions = captions
        self.mask_suffix = mask_suffix
        if mask_suffix == "":
            raise ValueError("mask_suffix is empty, so that a mask has the name of its image; '-mask' works")
        taken = tuple(name for name, given in (("cls", labels), ("txt", captions), ("mask", mask_suffix)) if given)
        self.columns = check_columns(columns or {}, taken)
        self.constants = check_columns(constants or {}, (*taken, *self.columns), "constants")

    @staticmethod
    def shapes(
        *,
        size: int,
        channels: int,
        labels: bool | str,
        captions: bool | str,
        columns: dict[str, str] | None,
        sizes: bool,
        mask_suffix: str | None,
        buckets: Any,
        constants: dict[str, float] | None = None,
    ) -> dict[str, Shape | None]:
        shapes = entry_shapes(size, channels, sizes, buckets, columns, mask_suffix)
        shapes |= dict.fromkeys(constants or (), ())
        if labels:
            shapes["cls"] = ()
        if captions:
            shapes["txt"] = None
        return shapes

    @property
    def title(self) -> str:
        return f"image folder {self.root}"

    @cached_property
    def source(self) -> FolderSource:
        if not self.root.is_dir():
            raise SgmError(f"{self.title}: {'is a file' if self.root.exists() else 'no such folder'}")
        found = walk(self.root, METADATA, self.follow_links)
        used = bool(self.captions or self.columns)
        pass_over_texts(found, self.root, used)
        if not found.images:
            passed = f"; passed over: {summary(found.passed)}" if found.passed else ""
            raise SgmError(
                f"{self.title}: no images in it; looked, at any depth, for {', '.join(sorted(suffixes()))}{passed}"
            )
        masks = None if self.mask_suffix is None else take_masks(found, self.root, self.mask_suffix)
        if masks == {}:
            first = found.images[0]
            raise SgmError(
                f"{self.title}: no image has a mask; looked, beside each, for such as "
                f"{first.stem}{self.mask_suffix}{first.suffix}"
            )
        sidecars = Sidecars(found.images, found.tables, found.texts) if used else Sidecars([], [], {})
        source = FolderSource(self.root, found.images, sidecars, self.columns, found.passed, masks, self.constants)
        if self.labels:
            source.label_with(self._classes(source))
        if self.captions:
            source.caption_with(self.captions if isinstance(self.captions, str) else None)
        return source

    @property
    def passed_over(self) -> Mapping[str, list[str]]:
        return self.source.passed

    @property
    def class_names(self) -> Mapping[str, Sequence[str]]:
        return {"cls": self.classes} if self.labels else {}

    @property
    def notes(self) -> Sequence[str]:
        return [f"no such image: {orphan}" for orphan in self.source.sidecars.orphans]

    @property
    def files(self) -> list[Path]:
        """The image files, readable or not, sorted by their path."""
        return self.source.files

    @property
    def classes(self) -> list[str]:
        """What "cls" counts: the names of the sub-folders of `root` that hold images, or their paths; sorted."""
        return sorted(set(self._classes(self.source)))

    def _classes(self, source: FolderSource) -> list[str]:
        """The class of each image."""
        loose = [name for name in source.names if "/" not in name]
        if loose:
            raise SgmError(
                f"{self.title}: labels come from sub-folders, but {len(loose)} of {len(source.names)} images "
                f"lie in none: {listing(loose)}. Move them, or set labels: false"
            )
        if self.labels == "path":
            return [name.rpartition("/")[0] for name in source.names]
        return [name.partition("/")[0] for name in source.names]

    def load_parts(self) -> tuple[Images, Images]:
        self._warn_of_missing()
        return super().load_parts()

    def _warn_of_missing(self) -> None:
        source = self.source
        if self.captions and (missing := source.without_caption()):
            warnings.warn(
                f"{self.title}: {len(missing)} of {len(source.names)} images have no caption file and get "
                f"an empty caption: {listing(missing)}",
                stacklevel=2,
            )
        if source.masks is not None and len(source.masks) < len(source.names):
            missing = [name for row, name in enumerate(source.names) if row not in source.masks]
            warnings.warn(
                f"{self.title}: {len(missing)} of {len(source.names)} images have no mask and count whole: "
                f"{listing(missing)}",
                stacklevel=2,
            )
        if source.sidecars.orphans:
            orphans = source.sidecars.orphans
            warnings.warn(f"{self.title}: no such image: {listing(orphans)}", stacklevel=2)


class FolderSource:
    """The images of a folder.

    Args:
        root: the folder.
        files: the images.
        sidecars: what stands beside them.
        columns: entry -> column of the sidecars.
        passed: reason -> names of the files and folders that are left out.
        masks: of the rows that have one; None gives no masks.
        constants: entry -> the number that it is for every image.
    """

    def __init__(
        self,
        root: Path,
        files: list[Path],
        sidecars: Sidecars,
        columns: dict[str, str],
        passed: Mapping[str, list[str]],
        masks: Mapping[int, Path] | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> None:
        self.root = root
        self.files = files
        self.sidecars = sidecars
        self.columns = columns
        self.passed = passed
        self.masks = masks
        self.constants = dict(constants or {})
        self.has_masks = masks is not None
        self.names = [path.relative_to(root).as_posix() for path in files]
        self._labels: list[int] | None = None
        self._captioned = False
        self._caption_column: str | None = None

    def mask(self, row: int) -> Path | None:
        return None if self.masks is None else self.masks.get(row)

    def label_with(self, classes: list[str]) -> None:
        """Give "cls", from the class of each image."""
        numbers = {name: i for i, name in enumerate(sorted(set(classes)))}
        self._labels = [numbers[name] for name in classes]

    def caption_with(self, column: str | None) -> None:
        """Give "txt", from this column or, with None, from wherever there is a caption."""
        self._captioned, self._caption_column = True, column

    def without_caption(self) -> list[str]:
        """The names of the images that have none.

        Raises:
            SgmError: no image has one.
        """
        pairs = zip(self.names, self.files, strict=True)
        column = self._caption_column
        missing = [name for name, file in pairs if not self.sidecars.may_have_caption(file, column)]
        if len(missing) == len(self.files):
            first = self.files[0]
            text = "" if column else f"{first.with_suffix('.txt').name} or "
            raise SgmError(
                f"image folder {self.root}: captions come from NAME.txt beside NAME.png, NAME.json or {METADATA}, but "
                f"no image has one; looked for {text}{column or ' or '.join(CAPTIONS)} in "
                f"{first.with_suffix('.json').name} or {METADATA}"
            )
        return missing

    def file(self, row: int) -> Path:
        return self.files[row]

    def entries(self, row: int) -> dict[str, Any]:
        file = self.files[row]
        entries: dict[str, Any] = dict(self.constants)
        if self._labels is not None:
            entries["cls"] = self._labels[row]
        if self._captioned:
            entries["txt"] = self.sidecars.caption(file, self._caption_column)
        return entries | {entry: self.sidecars.column(file, name) for entry, name in self.columns.items()}
