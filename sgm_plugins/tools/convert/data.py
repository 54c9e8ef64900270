"""The data section: the ancestor's loaders as our data modules."""

from __future__ import annotations

from sgm_core.config.tree import Node
from sgm_plugins.tools.convert.document import Block
from sgm_plugins.tools.convert.rewriter import Rewriter, Scope

TOY = {
    "MNISTLoader": ("mnist", "data/mnist", "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz"),
    "CIFAR10Loader": ("cifar10", "data/cifar10", "cifar-10-binary.tar.gz"),
}
FIELDS = ("txt", "cls")
SIZES = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")

PIPELINE = "StableDataModuleFromConfig"
TAR_FILES = "the tar files as they are, in an order that a resumed run continues"
ITS_OWN = ("Rescaler", "AddOriginalImageSizeAsTupleAndCropToSquare", "ToTensor", "CenterCrop", "RandomCrop")
"""Steps of a pipeline that webdataset does by itself: to [-1, 1], a square crop, sizes."""


def convert_data(rewriter: Rewriter, node: Node, input_keys: set[str]) -> Block | None:
    """Our data module for the old section.

    Args:
        input_keys: the batch entries that the model reads.
    """
    scope = Scope(rewriter, "data", node)
    parts = dict(scope.pairs("", node))
    target = scope.target_of(node)
    name = target.rpartition(".")[2]
    if not target.startswith("sgm.") or name not in (*TOY, PIPELINE):
        shown = f"'{target}'" if target else "none"
        where = parts["target"].origin if "target" in parts else node.origin
        message = f"unknown target {shown}: no datamodule of ours stands for it.\nKnown: {', '.join([*TOY, PIPELINE])}"
        rewriter.problems.add(where, "data.target", message)
        return None
    for key, child in parts.items():
        if key not in ("target", "params"):
            scope.problem(key, child, "no key of this name is known beside 'target' and 'params'")
    given = dict(scope.pairs("params", parts.get("params")))
    if name in TOY:
        _toy(scope, parts["target"], given, *TOY[name])
    else:
        _sdata(scope, parts["target"], given, input_keys)
    scope.close()
    return scope.block


def _toy(scope: Scope, target: Node, given: dict[str, Node], name: str, root: str, files: str) -> None:
    scope.put("use", name, target, "a tenth of the training images is for validation, which was on the test set")
    scope.put("root", root, note=f"put {files} there: nothing is downloaded")
    for key, child in given.items():
        if key in ("batch_size", "num_workers"):
            scope.put(key, scope.plain(child), child)
        elif key == "shuffle":
            scope.drop(key, child, "training data are always shuffled, validation data never")
        else:
            scope.problem(f"params.{key}", child, "this loader takes batch_size, num_workers and shuffle")


def _sdata(scope: Scope, target: Node, given: dict[str, Node], input_keys: set[str]) -> None:
    """A pipeline over tar files."""
    scope.put("use", "webdataset", target, TAR_FILES)
    for key, child in given.items():
        if key == "train":
            scope.take(child)
            for name, inner in scope.pairs("params.train", child):
                if name == "datapipeline":
                    _pipeline(scope, inner, f"params.train.{name}")
                elif name == "loader":
                    _loader(scope, inner, f"params.train.{name}")
                else:
                    scope.problem(f"params.train.{name}", inner, "a part of the data has datapipeline and loader")
        elif key in ("validation", "test"):
            scope.drop(key, child, "train_fraction leaves a part for validation")
        elif key in ("skip_val_loader", "dummy"):
            scope.drop(key, child, "train_fraction says whether there is validation")
        else:
            known = "train, validation, test, skip_val_loader, dummy"
            scope.problem(f"params.{key}", child, f"{PIPELINE} takes {known}")
    if "shards" not in scope.block.items:
        scope.problem("params", target, "there are no 'urls' to read the data from")
    if "size" not in scope.block.items:
        scope.put("size", 256, note="the old pipeline did not say: resize and crop to this")
    fields = {key: key for key in FIELDS if key in input_keys}
    if fields:
        scope.put("columns", fields, note="what the model reads: NAME.txt, NAME.cls beside NAME.jpg")
    if input_keys & set(SIZES):
        scope.put("sizes", True, note="the model reads the sizes of the images")


def _pipeline(scope: Scope, node: Node, path: str) -> None:
    for key, child in scope.pairs(path, node):
        if key == "urls":
            urls = child.value if isinstance(child.value, list) else [child]
            scope.take(child)
            for url in urls:
                scope.take(url)
            if urls:
                scope.put("shards", [_shards(scope.plain(url)) for url in urls], note="files; of a folder, all in it")
        elif key == "postprocessors":
            scope.take(child)
            for position, step in enumerate(scope.listed(f"{path}.{key}", child)):
                _step(scope, step, f"{path}.{key}[{position}]")
        elif key in ("pipeline_config", "decoders", "preprocessors"):
            scope.drop(key, child, "webdataset shuffles and decodes by itself")
            for inner in child.value.values() if isinstance(child.value, dict) else ():
                scope.take(inner)
        else:
            known = "urls, pipeline_config, decoders, preprocessors, postprocessors"
            scope.problem(f"{path}.{key}", child, f"a datapipeline has {known}")


def _shards(url: object) -> object:
    """A folder as the pattern of the tar files in it; anything else as it is."""
    return f"{url}/**/*.tar" if isinstance(url, str) and ".tar" not in url else url


def _step(scope: Scope, node: Node, path: str) -> None:
    name = scope.target_of(node).rpartition(".")[2]
    params = dict(scope.pairs(path, node)).get("params")
    scope.take(node)
    if name == "TorchVisionImageTransforms":
        for key, child in scope.pairs(f"{path}.params", params):
            if key == "transforms":
                for position, step in enumerate(scope.listed(f"{path}.params.{key}", child)):
                    _step(scope, step, f"{path}.params.{key}[{position}]")
            else:
                scope.drop(key, child, "images are images")
    elif name == "Resize":
        for key, child in scope.pairs(f"{path}.params", params):
            if key == "size":
                scope.put("size", scope.plain(child), child)
            else:
                scope.drop(key, child, "images are resized by bicubic interpolation, with antialiasing")
    elif name in ITS_OWN:
        scope.say(f"left out {name} (webdataset does it by itself)")
    else:
        scope.problem(path, node, f"unknown target '{scope.target_of(node)}': webdataset has no such step")


def _loader(scope: Scope, node: Node, path: str) -> None:
    for key, child in scope.pairs(path, node):
        if key in ("batch_size", "num_workers"):
            scope.put(key, scope.plain(child), child)
        else:
            scope.drop(f"loader.{key}", child, "webdataset loads by itself")
