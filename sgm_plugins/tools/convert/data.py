"""The data section: the ancestor's loaders as our data modules."""

from __future__ import annotations

from sgm_core.config.tree import Node, plain
from sgm_plugins.tools.convert.document import Block
from sgm_plugins.tools.convert.nodes import as_text, given, target_of
from sgm_plugins.tools.convert.rewriter import Rewriter, Scope

TOY = {
    "MNISTLoader": ("mnist", "data/mnist", "train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz"),
    "CIFAR10Loader": ("cifar10", "data/cifar10", "cifar-10-binary.tar.gz"),
}
FIELDS = ("txt", "cls")
SIZES = ("original_size_as_tuple", "crop_coords_top_left", "target_size_as_tuple")

PIPELINE, WEB = "StableDataModuleFromConfig", "WebDataModuleFromConfig"
TAR_FILES = "the tar files as they are, in an order that a resumed run continues"
ITS_OWN = ("Rescaler", "AddOriginalImageSizeAsTupleAndCropToSquare", "ToTensor", "CenterCrop", "RandomCrop")
"""Steps of a pipeline that webdataset does by itself: to [-1, 1], a square crop, sizes."""


def convert_data(rewriter: Rewriter, node: Node, input_keys: set[str]) -> Block:
    """Our data module for the old section.

    Args:
        input_keys: the batch entries that the model reads.
    """
    scope = Scope(rewriter, "data", node)
    scope.block.origin = node.where
    parts = given(node)
    module, _, name = rewriter.packages.own(target_of(node)).rpartition(".")
    if name not in (*TOY, PIPELINE, WEB) or not rewriter.packages.holds(module, name):
        _unknown(scope, node, parts)
        return scope.block
    for key, child in parts.items():
        if key not in ("target", "params"):
            scope.problem(key, child, "no key of this name is known beside 'target' and 'params'")
    params = dict(scope.pairs("params", parts.get("params")))
    if name in TOY:
        _toy(scope, parts["target"], params, *TOY[name])
    elif name == PIPELINE:
        _sdata(scope, parts["target"], params, input_keys)
    else:
        _web(scope, parts["target"], params, input_keys)
    scope.close()
    return scope.block


def _unknown(scope: Scope, node: Node, parts: dict[str, Node]) -> None:
    """A gap; with what every data module takes, and the rest in comments."""
    target = parts.get("target", node)
    shown_target = target_of(node)
    message = "no datamodule of ours stands for it. Known: " + ", ".join([*TOY, PIPELINE, WEB])
    if shown_target:
        message = f"unknown target '{shown_target}': {message}"
    scope.missing("use", target, message, shown_target)
    params = given(parts["params"]) if "params" in parts else {}
    for key in ("batch_size", "num_workers"):
        if key in params:
            scope.put(key, plain(params.pop(key)), params.get(key))
    rest = {**{key: child for key, child in parts.items() if key not in ("target", "params")}, **params}
    for key, child in rest.items():
        scope.take(child)
        scope.say(f"it had {key}: {as_text(plain(child))}")
    scope.close()


def _toy(scope: Scope, target: Node, params: dict[str, Node], name: str, root: str, files: str) -> None:
    scope.put("use", name, target, "a tenth of the training images is for validation, which was on the test set")
    scope.put("root", root, note=f"put {files} there: nothing is downloaded")
    for key, child in params.items():
        if key in ("batch_size", "num_workers"):
            scope.put(key, plain(child), child)
        elif key == "shuffle":
            scope.drop(key, child, "training data are always shuffled, validation data never")
        else:
            scope.problem(f"params.{key}", child, "this loader takes batch_size, num_workers and shuffle")


def _sdata(scope: Scope, target: Node, params: dict[str, Node], input_keys: set[str]) -> None:
    """A pipeline over tar files."""
    scope.put("use", "webdataset", target, TAR_FILES)
    for key, child in params.items():
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
        scope.missing("shards", target, "there are no 'urls' to read the data from")
    if "size" not in scope.block.items:
        scope.put("size", 256, note="the old pipeline did not say: resize and crop to this")
    _fields(scope, input_keys)


def _fields(scope: Scope, input_keys: set[str]) -> None:
    """What the model reads of each sample."""
    fields = {key: key for key in FIELDS if key in input_keys}
    if fields:
        scope.put("columns", fields, note="what the model reads: NAME.txt, NAME.cls beside NAME.jpg")
    if input_keys & set(SIZES):
        scope.put("sizes", True, note="the model reads the sizes of the images")


def _web(scope: Scope, target: Node, params: dict[str, Node], input_keys: set[str]) -> None:
    """Latent diffusion's tar files: `shards` are names in `tar_base`."""
    scope.put("use", "webdataset", target, TAR_FILES)
    base = plain(params["tar_base"]) if "tar_base" in params else ""
    for key, child in params.items():
        if key in ("batch_size", "num_workers"):
            scope.put(key, plain(child), child)
        elif key == "tar_base":
            scope.take(child)
        elif key == "train":
            scope.take(child)
            for name, inner in scope.pairs("params.train", child):
                _web_part(scope, name, inner, base)
        elif key in ("validation", "test"):
            scope.drop(key, child, "train_fraction leaves a part for validation")
        elif key == "multinode":
            scope.drop(key, child, "ranks share the samples")
        else:
            scope.problem(f"params.{key}", child, "webdataset takes all samples as they are")
    if "shards" not in scope.block.items:
        scope.missing("shards", target, "there are no 'shards' to read the data from")
    if "size" not in scope.block.items:
        scope.missing("size", target, "no step of image_transforms says the size")
    _fields(scope, input_keys)


def _web_part(scope: Scope, key: str, node: Node, base: object) -> None:
    path = f"params.train.{key}"
    if key == "shards" and isinstance(node.value, str):
        name = node.value.removesuffix(" -")
        whole = f"{base}/{name}" if isinstance(base, str) and base else name
        if "pipe:" in whole or "://" in whole:
            scope.missing(
                "shards", node, "shards are local files: a config downloads nothing and starts no program", whole
            )
        else:
            scope.put("shards", [whole], node)
    elif key == "image_transforms":
        scope.take(node)
        for position, step in enumerate(scope.listed(path, node)):
            _step(scope, step, f"{path}[{position}]")
    elif key == "shuffle":
        scope.drop(key, node, "an epoch shuffles all samples")
    elif key == "image_key":
        scope.drop(key, node, "the picture of a sample is found by its suffix")
    else:
        scope.problem(path, node, "webdataset has no such step")


def _pipeline(scope: Scope, node: Node, path: str) -> None:
    for key, child in scope.pairs(path, node):
        if key == "urls":
            urls = child.value if isinstance(child.value, list) else [child]
            scope.take(child)
            for url in urls:
                scope.take(url)
            if urls:
                scope.put("shards", [_shards(plain(url)) for url in urls], child, "files; of a folder, all in it")
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
    name = target_of(node).rpartition(".")[2]
    params = given(node).get("params")
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
                scope.put("size", plain(child), child)
            else:
                scope.drop(key, child, "images are resized by bicubic interpolation, with antialiasing")
    elif name == "RandomHorizontalFlip":
        probability = given(params).get("p") if params is not None else None
        scope.put("flip", 0.5 if probability is None else plain(probability), node)
    elif name in ITS_OWN:
        scope.say(f"left out {name} (webdataset does it by itself)")
    else:
        shown_step = f"unknown target '{target_of(node)}': " if target_of(node) else ""
        scope.problem(path, node, f"{shown_step}webdataset has no such step")


def _loader(scope: Scope, node: Node, path: str) -> None:
    for key, child in scope.pairs(path, node):
        if key in ("batch_size", "num_workers"):
            scope.put(key, plain(child), child)
        else:
            scope.drop(f"loader.{key}", child, "webdataset loads by itself")
