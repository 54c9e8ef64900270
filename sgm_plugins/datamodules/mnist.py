"""MNIST, from its original files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from sgm_core.errors import SgmError
from sgm_core.shapes import Shape
from sgm_plugins.datamodules.idx_file import read_idx
from sgm_plugins.datamodules.labelled_images import LabelledImages, check_labels

SOURCE = "https://ossci-datasets.s3.amazonaws.com/mnist/ (a mirror of http://yann.lecun.com/exdb/mnist/)"
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


class MNIST(LabelledImages):
    """60000 images of handwritten digits, 28x28: LeCun et al. 1998. Nothing is downloaded.

    Batches are {"image": (b, 1, size, size) float32 in [-1, 1], "cls": (b,) int64}. Fashion-MNIST and KMNIST have files
    of the same names and form.

    Args:
        root: the folder with `train-images-idx3-ubyte.gz` and `train-labels-idx1-ubyte.gz`, compressed or not. The
            files of the test set (`t10k-...`) are never read: what is chosen by validation must not have seen it.
        batch_size: images of a batch, on each device. Training leaves out the incomplete last batch.
        size: height and width of the batch's images, in pixels: black is put around the original ones, so that a
            network can halve 32 five times. None leaves them at 28.
        train_fraction: the part to train on; the rest is for validation. Which image falls into which part never
            depends on the seed.
        num_workers: processes that load ahead; the data is in memory, so they gain nothing here.
        seed: of the order in which an epoch visits the images.

    Raises:
        SgmError: when the data is first needed: files that are missing (says where they come from), truncated or of
            something else; a size below that of the images; a batch larger than the training part.
    """

    def __init__(
        self,
        root: Path,
        batch_size: Annotated[int, Ge(1)] = 128,
        size: Annotated[int, Ge(1)] | None = None,
        train_fraction: Annotated[float, Gt(0), Le(1)] = 0.9,
        num_workers: Annotated[int, Ge(0)] = 0,
        seed: Annotated[int, Ge(0)] = 0,
    ) -> None:
        super().__init__(batch_size, train_fraction, num_workers, seed)
        self.root = Path(root)
        self.size = size

    @staticmethod
    def shapes(*, size: int | None) -> dict[str, Shape]:
        side = 28 if size is None else size
        return {"image": (1, side, side), "cls": ()}

    def read(self) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        images_file, labels_file = self._find(IMAGES), self._find(LABELS)
        images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
        if len(images) != len(labels):
            raise SgmError(f"{images_file} has {len(images)} images and {labels_file} {len(labels)} labels")
        if not images.size:
            raise SgmError(f"{images_file}: no images in it")
        check_labels(labels, str(labels_file))
        return self._padded(images)[:, None], labels

    def _find(self, name: str) -> Path:
        names = [name, f"{name}.gz", name.replace("-idx", ".idx"), f"{name.replace('-idx', '.idx')}.gz"]
        found = next((path for path in map(self.root.joinpath, names) if path.is_file()), None)
        if found is None:
            raise SgmError(
                f"mnist: there is no {name}.gz in {self.root} (nor without .gz). Put {IMAGES}.gz and {LABELS}.gz "
                f"there; they come from {SOURCE}"
            )
        return found

    def _padded(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = images.shape[1:]
        if self.size is None:
            return images
        if self.size < max(height, width):
            raise SgmError(f"mnist: size is {self.size}, and the images are {height} x {width}; give at least that")
        top, left = (self.size - height) // 2, (self.size - width) // 2
        around = ((0, 0), (top, self.size - height - top), (left, self.size - width - left))
        return np.pad(images, around)
