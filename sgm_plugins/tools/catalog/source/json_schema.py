"""One JSON Schema (draft 2020-12) for the configs that the installed components make possible.

A file that `extends` another, and so may leave things out, is checked with the second set of definitions, `part/...`.
What an editor cannot know is left to `sgm check`: what `${...}` stands for, whether a component is of a wanted class;
and 1.0 is an integer to JSON Schema.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from typing import Any

from sgm_core.config.schema import (
    AnyType,
    Arguments,
    Bounded,
    Choice,
    Component,
    DictOf,
    Either,
    ListOf,
    Opaque,
    PathType,
    Record,
    Scalar,
    TupleOf,
    Type,
)
from sgm_core.kinds import KINDS
from sgm_core.registry import Entry, RegistryError, index
from sgm_plugins.tools.catalog.source.component import Described, component_of
from sgm_plugins.tools.catalog.source.documentation import documentation_of, parameter_texts, summary
from sgm_plugins.tools.catalog.source.names import Definition, UntoldError, definition_of
from sgm_plugins.tools.catalog.source.signature import UNTOLD, StaticParameter, StaticSignature, signature_of

Schema = dict[str, Any]

SECTIONS = "sgm_core.config.sections:Sections"

LATER: Schema = {"$ref": "#/$defs/later"}
"""A text that stands for another value: `${key.path}`, or `???` for one that must be given."""

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
_LIMITS = {
    "ge": ("minimum",),
    "gt": ("exclusiveMinimum",),
    "le": ("maximum",),
    "lt": ("exclusiveMaximum",),
    "min_length": ("minItems", "minLength"),
    "max_length": ("maxItems", "maxLength"),
    "multiple_of": ("multipleOf",),
}


def config_schema() -> Schema:
    """The schema of a config file, for every installed component. Imports none of them.

    Raises:
        UntoldError: our own sections cannot be read.
    """
    sections = definition_of(SECTIONS)
    assert isinstance(sections, Definition)
    whole, part = _Writer(""), _Writer("part/")
    top = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "sgm config",
        "description": summary(documentation_of(sections)),
        "type": "object",
        "if": {"required": ["extends"]},
        "then": {"$ref": part.record(sections)},
        "else": {"$ref": whole.record(sections)},
    }
    added = {name: _section(name) for name in index.names("sections")}
    for writer in (whole, part):
        properties = writer.definitions[f"{writer.prefix}{sections.canonical}"]["properties"]
        for name, section in added.items():
            properties[name] = {} if section is None else {"$ref": writer.record(section)}
        properties["extends"] = {
            "description": "Configs that this one extends: a file beside it, a shipped name, or a list of these.",
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        }
    later = {
        "description": "${key.path} stands for another value, ??? for one that must be given.",
        "type": "string",
        "pattern": r"\$\{|^\?\?\?$",
    }
    return {**top, "$defs": {"later": later, **whole.definitions, **part.definitions}}


def _section(name: str) -> Definition | None:
    """What adds a top-level key; None if its source does not tell."""
    try:
        found = definition_of(index.find("sections", name).value)
    except (UntoldError, RegistryError):
        return None
    return found if isinstance(found, Definition) and isinstance(found.node, ast.ClassDef) else None


class _Writer:
    """Writes definitions; `prefix` tells whole ones from those in which anything may be missing."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.definitions: dict[str, Schema] = {}
        self.described: dict[Entry, Described] = {}

    def define(self, name: str, write: Callable[[], Schema]) -> str:
        """The reference to a definition, which is written when it is first asked for."""
        name = f"{self.prefix}{name}"
        if name not in self.definitions:
            self.definitions[name] = {}  # it may refer to itself
            self.definitions[name] = write()
        return _reference(name)

    # --- types -----------------------------------------------------------------------------------------------------

    def value(self, type_: Type) -> Schema:
        """What may be written for a type, `${...}` included."""
        options = self.options(type_)
        if {} in options:
            return {}
        component = next((option for option in options if self.is_kind(option)), None)
        if options == [component]:  # it says itself what may stand instead of a mapping
            return options[0]
        mappings = [o for o in options if "$ref" in o or o.get("type") == "object"]
        lists = [option for option in options if option.get("type") == "array"]
        others = [option for option in options if option not in mappings and option not in lists]
        if component is not None:
            others.append(component)
        elif {"type": "string"} not in others:
            others.append(LATER)
        # told apart by `if`, not `anyOf`, so that an error is reported at the key that has it
        schema = _any_of(others)
        for name, found in (("array", lists), ("object", mappings)):
            if found:
                schema = {"if": {"type": name}, "then": _any_of(found), "else": schema}
        return schema

    def is_kind(self, option: Schema) -> bool:
        return option.get("$ref", "").removeprefix(_reference(self.prefix)) in KINDS

    def options(self, type_: Type) -> list[Schema]:
        """The ways to write a value of this type, each a schema of its own."""
        match type_:
            case AnyType():
                return [{}]
            case Scalar(t):
                return [{"type": _TYPES[t]}]
            case Choice(values):
                return [{"enum": list(values)}]
            case PathType():
                return [{"type": "string"}]
            case ListOf(item, _):
                return [{"type": "array", "items": self.value(item)}]
            case TupleOf(items):
                size = len(items)
                prefix = [self.value(item) for item in items]
                return [{"type": "array", "prefixItems": prefix, "minItems": size, "maxItems": size}]
            case DictOf(key, item):
                names: Schema = {"propertyNames": {"pattern": r"^-?\d+$"}} if key == Scalar(int) else {}
                if isinstance(key, Choice):
                    names = {"propertyNames": {"enum": list(key.values)}}
                return [{"type": "object", "additionalProperties": self.value(item), **names}]
            case Component(kind, _):
                return [{"$ref": self.kind(kind)}]
            case Record(cls):
                return [{"$ref": self.record(cls.meaning)}]  # type: ignore[attr-defined]
            case Arguments(target, taken):
                return [{"$ref": self.arguments(target, taken)}]
            case Bounded(inner, limits):
                bounds = {key: limit for name, limit in limits for key in _LIMITS[name]}
                return [option | bounds if option.get("type") else option for option in self.options(inner)]
            case Either(options):
                found = [schema for option in options for schema in self.options(option)]
                return [schema for i, schema in enumerate(found) if schema not in found[:i]]
            case Opaque():
                return []

    # --- mappings --------------------------------------------------------------------------------------------------

    def mapping(self, signature: StaticSignature, texts: dict[str, str], fixed: Schema | None = None) -> Schema:
        """A mapping of keyword arguments; `fixed` are properties beside the parameters."""
        parameters = signature.parameters.values()
        schema: Schema = {
            "type": "object",
            "properties": {**(fixed or {}), **{p.name: self.parameter(p, texts.get(p.name, "")) for p in parameters}},
        }
        required = [parameter.name for parameter in parameters if parameter.required]
        if required and not self.prefix:
            schema["required"] = required
        if not signature.open:
            schema["additionalProperties"] = False
        return schema

    def parameter(self, parameter: StaticParameter, text: str) -> Schema:
        schema = dict(self.value(parameter.type))
        notes = [text] if text else []
        if parameter.value is not UNTOLD and _is_json(parameter.value):
            schema["default"] = _json(parameter.value)
        elif parameter.default:
            notes.append(f"Default: {parameter.default}")
        if notes:
            schema["description"] = " ".join(notes)
        return schema

    def record(self, cls: Definition) -> str:
        """A dataclass."""

        def write() -> Schema:
            described = {"description": summary(documentation_of(cls))}
            return {**described, **self.mapping(signature_of(cls), parameter_texts(cls))}

        return self.define(cls.canonical, write)

    def arguments(self, target: str, taken: tuple[str, ...]) -> str:
        """The arguments of a class that a config cannot name, such as the trainer."""

        def write() -> Schema:
            try:
                definition = definition_of(target)
            except UntoldError:
                return {"type": "object"}
            if not isinstance(definition, Definition):
                return {"type": "object"}
            signature = signature_of(definition).without(taken)
            return {
                "description": f"Arguments of {target.replace(':', '.')}.",
                **self.mapping(signature, parameter_texts(definition)),
            }

        return self.define(target, write)

    # --- components ------------------------------------------------------------------------------------------------

    def kind(self, kind: str) -> str:
        """Any component of a kind: a bare name, or a mapping that `use:` tells apart."""

        def write() -> Schema:
            spellings = _spellings(kind)
            bare = [s for s, entry in spellings.items() if not any(p.required for p in self.parameters(entry))]
            mapping: Schema = {
                "type": "object",
                "properties": {"use": {"anyOf": [{"enum": list(spellings)}, LATER]}},
                "allOf": [
                    {
                        "if": {"properties": {"use": {"enum": names}}, "required": ["use"]},
                        "then": {"$ref": self.component(entry)},
                    }
                    for entry, names in _by_entry(spellings).items()
                ],
            }
            if self.prefix:
                mapping |= {"if": {"required": ["use"]}, "else": self.any_of_them(set(spellings.values()))}
            else:
                mapping["required"] = ["use"]
            return {
                "description": f"{KINDS[kind].summary}",
                "if": {"type": "object"},
                "then": mapping,
                "else": {"anyOf": [{"enum": bare}, LATER]},
            }

        return self.define(kind, write)

    def describe(self, entry: Entry) -> Described:
        if entry not in self.described:
            self.described[entry] = component_of(entry)
        return self.described[entry]

    def parameters(self, entry: Entry) -> Iterable[StaticParameter]:
        return self.describe(entry).signature.parameters.values()

    def component(self, entry: Entry) -> str:
        """The mapping of one component."""

        def write() -> Schema:
            described = self.describe(entry)
            use = {"use": {"description": summary(described.doc)}}
            schema = self.mapping(described.signature, described.texts, use)
            note = f" ({described.problem})" if described.problem else ""
            return {"description": f"{summary(described.doc)}\n{entry.provider}{note}".strip(), **schema}

        return self.define(f"{entry.kind}/{entry.qualified}", write)

    def any_of_them(self, entries: Iterable[Entry]) -> Schema:
        """A mapping that goes on with a component named elsewhere: each key as one of them takes it."""
        keys: dict[str, list[Schema]] = {}
        is_open = False
        for entry in sorted(entries):
            signature = self.describe(entry).signature
            is_open = is_open or signature.open
            for parameter in signature.parameters.values():
                value = self.value(parameter.type)
                if value not in keys.setdefault(parameter.name, []):
                    keys[parameter.name].append(value)
        properties = {key: found[0] if len(found) == 1 else {"anyOf": found} for key, found in sorted(keys.items())}
        return {"properties": properties, **({} if is_open else {"additionalProperties": False})}


def _reference(name: str) -> str:
    return "#/$defs/" + name.replace("~", "~0").replace("/", "~1")


def _any_of(options: list[Schema]) -> Schema:
    return options[0] if len(options) == 1 else {"anyOf": options}


def _spellings(kind: str) -> dict[str, Entry]:
    """Every spelling that resolves -> its entry: the bare names first, the qualified ones of all behind."""
    found: dict[str, Entry] = {}
    for name in [*index.names(kind), *(entry.qualified for entry in index.entries(kind))]:
        try:
            found.setdefault(name, index.find(kind, name))
        except RegistryError:
            continue
    return found


def _by_entry(spellings: dict[str, Entry]) -> dict[Entry, list[str]]:
    found: dict[Entry, list[str]] = {}
    for spelling, entry in spellings.items():
        found.setdefault(entry, []).append(spelling)
    return found


def _is_json(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_json(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(item) for key, item in value.items())
    return value is None or isinstance(value, (bool, int, str)) or (isinstance(value, float) and abs(value) < 1e308)


def _json(value: Any) -> Any:
    return [_json(item) for item in value] if isinstance(value, tuple) else value
