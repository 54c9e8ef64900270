"""Several sources, one tree: `extends`, files from left to right, `key.path=value` overrides, then `${...}`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sgm_core.config.interpolation import interpolate
from sgm_core.config.tree import (
    ConfigError,
    Node,
    Origin,
    Problem,
    Problems,
    join,
    key_of,
    parse,
    read_file,
    split_path,
)
from sgm_core.registry import BUILTIN, Entry, RegistryError, did_you_mean, index, normalize

MOST_FILES, MOST_DEPTH = 1000, 50
"""Files that a config is made of, each counted as often as it is read, and how many extend each other in a row."""


def compose(
    sources: Iterable[str | Path], overrides: Iterable[str] = (), patches: Iterable[tuple[str, Node]] = ()
) -> tuple[Node, list[Problem]]:
    """The merged tree of config files (or names of shipped configs), patches and overrides, interpolations resolved.

    With it what is wrong so far: the rest of the tree can be checked all the same, so that one run reports everything.

    Raises:
        ConfigError: a file that cannot be read at all.
    """
    problems = Problems()
    tree = Node({}, Origin("config"))
    for source in sources:
        tree = merge(tree, _load(find_config(source), problems))
    for path, value in patches:
        _set(tree, split_path(path), value, problems)
    for override in overrides:
        apply_override(tree, override, problems)
    interpolate(tree, problems)
    return tree, problems.found


# --- files ---------------------------------------------------------------------------------------------------------


def find_config(source: str | Path) -> Path:
    """A path as it is; a bare name such as `digits` among the configs that packages ship, or ConfigError."""
    path = Path(source)
    if path.suffix in (".yaml", ".yml") or len(path.parts) != 1 or path.is_file():
        return path
    return _shipped(str(source), Origin(str(source)), Path())


def _shipped(name: str, origin: Origin, folder: Path) -> Path:
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name]
    distribution, _, bare = name.rpartition(":")
    for entry in [entry for entry in index.entries("configs") if entry.distribution == normalize(distribution)]:
        for file in (place / f"{bare}.yaml" for place in _folders(entry)):
            if file.is_file():
                return file
    several = [known for known in shipped if known.endswith(f":{name}")]
    if several:
        offers = " or ".join(f"'{known}'" for known in several)
        raise ConfigError([Problem(origin, "", f"several packages ship a config '{name}'. Write {offers}.")])
    near = did_you_mean(name, [*shipped, *(file.name for file in folder.glob("*.y*ml"))])
    known = ", ".join(sorted(shipped)) or "none"
    message = f"no file and no shipped config '{name}'.{near}\nShipped configs: {known}"
    raise ConfigError([Problem(origin, "", message)])


def shipped_configs() -> dict[str, Path]:
    """Name -> file, of the packages in the group `sgm.configs`. Imports none of them.

    As with components, a name that two distributions ship is written `distribution:name`, and the built-in ones
    cannot be shadowed.
    """
    offers: dict[str, dict[str, Path]] = {}
    for entry in index.entries("configs"):
        for folder in _folders(entry):
            for file in sorted(folder.glob("*.yaml")):
                offers.setdefault(file.stem, {}).setdefault(entry.distribution, file)
    found: dict[str, Path] = {}
    for name, files in sorted(offers.items()):
        if BUILTIN in files:
            found[name] = files.pop(BUILTIN)
        elif len(files) == 1:
            found[name] = files.popitem()[1]
        found |= {f"{distribution}:{name}": file for distribution, file in files.items()}
    return found


def _folders(entry: Entry) -> list[Path]:
    """Where the package of an entry lies. Only the top package is looked up: that of a part would import its parent."""
    from importlib.util import find_spec

    top, *parts = entry.value.partition(":")[0].split(".")
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return []
    return [Path(folder, *parts) for folder in (spec.submodule_search_locations or ())] if spec else []


def _load(path: Path, problems: Problems, inside: tuple[Path, ...] = ()) -> Node:
    """A file merged over what it `extends` (a path beside it, a shipped name, or a list of these)."""
    problems.files += 1
    if problems.files > MOST_FILES or len(inside) > MOST_DEPTH:
        reason = f"not read: a config extends at most {MOST_FILES} files, {MOST_DEPTH} deep"
        raise ConfigError([*problems.found, Problem(Origin(str(path)), "extends", reason)])
    tree = read_file(path, problems)
    bases = tree.value.pop("extends", None) if isinstance(tree.value, dict) else None
    if bases is None:
        return tree
    inside = (*inside, path.resolve())
    merged = Node({}, tree.origin)
    for base in bases.value if isinstance(bases.value, list) else [bases]:
        found = _base(path, base)
        if found.resolve() in inside:
            chain = " -> ".join(file.name for file in (*inside, found))
            raise problems.fatal(base.origin, f"a file extends itself: {chain}", "extends")
        merged = merge(merged, _load(found, problems, inside))
    return merge(merged, tree)


def _base(path: Path, base: Node) -> Path:
    if not isinstance(base.value, str) or not base.value:
        message = "write the name of a file, or a list of names, e.g. extends: base.yaml"
        raise ConfigError([Problem(base.origin, "extends", message)])
    beside = path.parent / base.value
    if beside.is_file():
        return beside
    if beside.suffix not in (".yaml", ".yml") and len(Path(base.value).parts) == 1:
        return _shipped(base.value, base.origin, path.parent)
    near = did_you_mean(base.value, [file.name for file in path.parent.glob("*.y*ml") if file != path])
    raise ConfigError([Problem(base.origin, "extends", f"no such file: {beside}.{near}")])


# --- merging -------------------------------------------------------------------------------------------------------


def merge(base: Node, over: Node) -> Node:
    """Mappings merge key by key; anything else is replaced.

    A mapping that names another component (`use:`) replaces the one below it, whose arguments mean nothing to the new
    one. A mapping that names none adds to the one below it, which may be in the short form (`sampler: euler_edm`).
    """
    if not isinstance(over.value, dict):
        return over
    below = base.value
    if isinstance(below, str) and "use" not in over.value:
        below = {"use": Node(base.value, base.origin)}
    if not isinstance(below, dict):
        return over
    old, new = below.get("use"), over.value.get("use")
    if old is not None and new is not None and not _same(old.value, new.value):
        return over
    merged = dict(below)
    for key, child in over.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    return Node(merged, over.origin, over.key_origin)


def _same(old: object, new: object) -> bool:
    """Whether two spellings mean one component: `sgm-core:euler_edm` is `euler_edm`."""
    bare = {str(name).rpartition(":")[2] for name in (old, new)}
    for kind in {entry.kind for entry in index.entries() if {entry.name} == bare} if old != new else ():
        with suppress(RegistryError):
            if index.find(kind, str(old)) == index.find(kind, str(new)):
                return True
    return bool(old == new)


def apply_override(tree: Node, text: str, problems: Problems) -> None:
    """Set one `key.path=value` in `tree`; the value is YAML. List items are `key[0]` or `key.0`.

    It sets this one value: `model.sampler.use=heun_edm` leaves the sampler's other keys as they are.
    """
    path, separator, value_text = text.partition("=")
    origin = Origin(f"override '{text}'")
    try:
        steps = split_path(path)
    except ValueError:
        steps = []
    if not separator or not steps:
        problems.add(origin, "", "write key.path=value, e.g. trainer.max_steps=100")
        return
    try:
        value = parse(value_text, origin.source, located=False)
    except ConfigError as error:
        problems.found += error.problems
        return
    _set(tree, steps, value, problems)


def _set(tree: Node, steps: list[str], value: Node, problems: Problems) -> None:
    """Put a value at a path, with the containers that lead there; its origin is theirs."""
    origin = value.key_origin = value.origin
    node, here = tree, ""
    for position, step in enumerate(steps):
        if not isinstance(node.value, (dict, list)):
            # `first_stage: identity` is short for `{use: identity}`, so that an argument can be added to it
            below = {"use": Node(node.value, node.origin)} if isinstance(node.value, str) else {}
            node.value, node.origin = below, origin
        try:
            key = key_of(node.value, step)
        except KeyError:
            size = len(node.value)
            positions = f"its positions are 0 to {size - 1}" if size else "it is empty"
            problems.add(origin, here, f"there is no '{step}' in this list of {size}: {positions}")
            return
        if position == len(steps) - 1:
            node.value[key] = value
            return
        if isinstance(node.value, dict):
            node.value.setdefault(key, Node({}, origin, origin))
        node, here = node.value[key], join(here, key)
