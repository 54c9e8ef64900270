"""The data section: the ancestor's loaders as our data modules."""

from __future__ import annotations

from typing import Any

from sgm_core.config.tree import Node, join
from sgm_core.convert.document import Block
from sgm_core.convert.rewriter import Rewriter, Scope

TOY = {
    "MNISTLoader": ("mnist", "data/mnist", "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz"),
    "CIFAR10Loader": ("cifar10", "data/cifar10", "cifar-10-binary.tar.gz"),
}
SIZES = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")

TAR_FILES = "it reads files in a folder: unpack the tar files of the old data set there"


def convert_data(rewriter: Rewriter, node: Node, input_keys: set[str]) -> Block | None:
    """Our data module for the old section.

    Args:
        input_keys: the batch entries that the model reads.
    """
    target = node.value.get("target") if isinstance(node.value, dict) else None
    name = str(target.value).rpartition(".")[2] if target is not None else ""
    scope = Scope(rewriter, "data", node)
    params = node.value.get("params") if isinstance(node.value, dict) else None
    given: dict[Any, Node] = params.value if params is not None and isinstance(params.value, dict) else {}
    if target is None or not (
        str(target.value).startswith("sgm.") and (name in TOY or name == "StableDataModuleFromConfig")
    ):
        shown = f"'{target.value}'" if target is not None else "none"
        known = ", ".join([*TOY, "StableDataModuleFromConfig"])
        where = node.origin if target is None else target.origin
        rewriter.problems.add(
            where, "data.target", f"unknown target {shown}: no datamodule of ours stands for it.\nKnown: {known}"
        )
        return None
    if name in TOY:
        _toy(scope, target, given, *TOY[name])
    else:
        _sdata(scope, target, given, input_keys)
    scope.close()
    return scope.block


def _toy(scope: Scope, target: Node, given: dict[Any, Node], name: str, root: str, files: str) -> None:
    scope.put("use", name, target, "a tenth of the training images is for validation, which was on the test set")
    scope.put("root", root, note=f"put {files} there: nothing is downloaded")
    for key, child in given.items():
        if key in ("batch_size", "num_workers"):
            scope.put(key, scope.plain(child), child)
        elif key == "shuffle":
            scope.drop(key, child, "training data are always shuffled, validation data never")
        else:
            scope.problem(f"params.{key}", child, "this loader takes batch_size, num_workers and shuffle")


def _sdata(scope: Scope, target: Node, given: dict[Any, Node], input_keys: set[str]) -> None:
    """A pipeline over tar files there, a folder of images here."""
    scope.put("use", "image_folder", target, TAR_FILES)
    train = given.get("train")
    for key, child in given.items():
        if key == "train":
            scope.take(child)
        elif key in ("validation", "test"):
            scope.drop(key, child, "train_fraction leaves a part for validation")
        elif key in ("skip_val_loader", "dummy"):
            scope.drop(key, child, "train_fraction says whether there is validation")
        else:
            scope.problem(
                f"params.{key}",
                child,
                "StableDataModuleFromConfig takes train, validation, test, skip_val_loader, dummy",
            )
    if train is None or not isinstance(train.value, dict):
        scope.problem("params", target, "there is no 'train' to read the data from")
        return
    for key, child in train.value.items():
        if key == "datapipeline":
            _pipeline(scope, child, f"params.train.{key}")
        elif key == "loader":
            _loader(scope, child)
        else:
            scope.problem(f"params.train.{key}", child, "a part of the data has datapipeline and loader")
    if "size" not in scope.block.items:
        scope.put("size", 256, note="the old pipeline did not say: resize and crop to this")
    if "txt" in input_keys:
        scope.put("captions", True, note="the model reads txt: NAME.txt beside NAME.jpg")
    if input_keys & set(SIZES):
        scope.put("sizes", True, note="the model reads the sizes of the images")


def _pipeline(scope: Scope, node: Node, path: str) -> None:
    for key, child in _items(node):
        if key == "urls":
            urls = child.value if isinstance(child.value, list) else [child]
            scope.take(child)
            for more in urls[1:]:
                scope.drop("urls", more, "one folder is read, at any depth")
            scope.put("root", scope.plain(urls[0]) if urls else "data", urls[0] if urls else child)
        elif key == "postprocessors":
            scope.take(child)
            for position, step in enumerate(child.value if isinstance(child.value, list) else []):
                _step(scope, step, f"{path}.{key}[{position}]")
        elif key in ("pipeline_config", "decoders", "preprocessors"):
            _drop_all(scope, key, child, "image_folder shuffles and decodes by itself")
        else:
            scope.problem(
                join(path, key), child, "a datapipeline has urls, pipeline_config, decoders, pre- and postprocessors"
            )


STEPS = ("Rescaler", "AddOriginalImageSizeAsTupleAndCropToSquare", "ToTensor", "CenterCrop", "RandomCrop")
"""What image_folder does by itself: to [-1, 1], crop to a square, sizes."""


def _step(scope: Scope, node: Node, path: str) -> None:
    name = scope.target_of(node).rpartition(".")[2]
    if name == "TorchVisionImageTransforms":
        scope.take(node)
        params = dict(_items(node)).get("params", node)
        for key, child in _items(params):
            if key == "transforms":
                for position, step in enumerate(child.value if isinstance(child.value, list) else []):
                    _step(scope, step, f"{path}.params.{key}[{position}]")
            else:
                scope.drop(key, child, "images are images")
    elif name == "Resize":
        scope.take(node)
        params = dict(_items(node)).get("params", node)
        for key, child in _items(params):
            if key == "size":
                scope.put("size", scope.plain(child), child)
            elif key not in ("target", "params"):
                scope.drop(key, child, "images are resized by bicubic interpolation, with antialiasing")
    elif name in STEPS:
        scope.take(node)
        scope.say(f"left out {name} (image_folder does it by itself)")
    else:
        scope.problem(path, node, f"unknown target '{scope.target_of(node)}': image_folder has no such step")


def _loader(scope: Scope, node: Node) -> None:
    for key, child in _items(node):
        if key in ("batch_size", "num_workers"):
            scope.put(key, scope.plain(child), child)
        else:
            scope.drop(f"loader.{key}", child, "image_folder loads by itself")


def _drop_all(scope: Scope, key: str, node: Node, why: str) -> None:
    scope.drop(key, node, why)
    for child in node.value.values() if isinstance(node.value, dict) else ():
        scope.take(child)


def _items(node: Node) -> list[tuple[str, Node]]:
    return [(str(key), child) for key, child in node.value.items()] if isinstance(node.value, dict) else []
