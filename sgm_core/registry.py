"""Components by name: an index of the installed entry points, read once, imported never until a name is used.

The index comes from the metadata files on `sys.path`, one scan per process; `importlib.metadata.entry_points()`
is not used because it parses every distribution again on each call. Standard library only.
"""
# a listing must not wait for pathlib, whose paths cost more than reading the files does
# ruff: noqa: PTH100, PTH118, PTH208

from __future__ import annotations

import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

from sgm_core.errors import SgmError
from sgm_core.kinds import GROUPS, KINDS

T = TypeVar("T")

BUILTIN = "sgm-core"
"""The distribution whose names nobody can take."""

API = 1
"""The number of the contract between this core and its plugins; a change that breaks plugins makes it larger."""

OLDEST_API = 1
"""The oldest one that is still kept. A plugin names its own as an entry point, `[sgm.api]` `1 = sgm_core`: that is
read without an import. One that names none is of the first."""

LOCAL = "local"
"""What stands for the distribution of a component that `register` added in this process."""


class Entry(NamedTuple):
    """One component on offer. `value` is `module:attribute`, `path` the metadata folder it was read from."""

    kind: str
    name: str
    value: str
    distribution: str
    version: str
    path: str
    apis: tuple[str, ...] = ()
    """The API numbers that its distribution names, as they are written."""

    @property
    def qualified(self) -> str:
        """The spelling that is never ambiguous, `distribution:name`."""
        return f"{self.distribution}:{self.name}"

    @property
    def builtin(self) -> bool:
        """Whether it is ours."""
        return self.distribution == BUILTIN

    @property
    def plugin(self) -> str:
        """A plugin with hooks, in messages and as the origin of what it proposes."""
        return f"plugin {self.qualified} {self.version}".rstrip()

    @property
    def provider(self) -> str:
        return f"{self.distribution} {self.version}".rstrip()


class RegistryError(SgmError):
    """A name that cannot be resolved."""


class UnknownNameError(RegistryError):
    """Nothing of that name; the message lists what there is."""


class AmbiguousNameError(RegistryError):
    """Two distributions offer the name; the message says how to choose."""


class BrokenComponentError(RegistryError):
    """The component's module failed to import, or does not hold what the entry point promises."""


# --- the index -----------------------------------------------------------------------------------------------------


def normalize(distribution: str) -> str:
    """The canonical form of a distribution's name (PEP 503)."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _metadata_folders(paths: Iterable[object]) -> Iterator[tuple[str, str]]:
    """(folder that describes a distribution, its base name), in the order in which Python would import. In one place a
    dist-info goes before an egg-info, which an older installation may have left there."""
    for path in paths:
        if not isinstance(path, str) or not path:  # no text: Python's own import skips it; "": the working folder,
            continue  # which may be anybody's
        try:
            here = os.path.abspath(path)
            names = [name for name in os.listdir(here) if name.endswith(_SUFFIXES) and name[0] != "~"]  # pip's rubbish
        except OSError:  # not there, not a folder, not readable, or the working folder is gone
            continue
        for name in sorted(names, key=lambda name: (name.endswith(_SUFFIXES[1]), name)):
            yield f"{here}{os.sep}{name}", name


_SUFFIXES = (".dist-info", ".egg-info")


def _version(folder: str, base: str) -> str:
    """From the folder's name, or from PKG-INFO where that has none (`name.egg-info`)."""
    _, _, version = base.rsplit(".", 1)[0].partition("-")
    if base.endswith(".egg-info"):
        version = re.sub(r"-py[\d.]+$", "", version)
        if not version:
            found = re.search(r"^Version: (.*)$", header(folder), re.MULTILINE)
            version = found[1].strip() if found else ""
    return version


def header(folder: str) -> str:
    """The fields of METADATA or PKG-INFO, without the description."""
    text = _read(os.path.join(folder, "METADATA")) or _read(os.path.join(folder, "PKG-INFO"))
    return text.partition("\n\n")[0]


def _read(path: str) -> str:
    """The text of a file, nothing where it cannot be read. Most are read for nothing: a third of `open`'s time."""
    try:
        file = os.open(path, _READ)
    except OSError:
        return ""
    try:
        return os.read(file, os.fstat(file).st_size).decode("utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return ""
    finally:
        os.close(file)


_READ = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


def _entry_points(text: str) -> dict[tuple[str, str], str]:
    """(group, name) -> value of the `sgm.` groups of an entry_points.txt."""
    found: dict[tuple[str, str], str] = {}
    group = ""
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            group = line.strip("[]")
        elif group.startswith("sgm.") and "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault((group, name.strip()), "".join(value.split("[")[0].split()))
    return found


def scan(paths: Iterable[object] | None = None) -> list[Entry]:
    """Every `sgm.*` entry point of the distributions on `paths` (default: `sys.path`).

    A distribution that is seen twice (a stale egg-info beside the dist-info, say) counts once, where it stands first:
    that one's modules are the ones that an import finds.
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    for folder, base in _metadata_folders(sys.path if paths is None else paths):
        distribution = normalize(base.rsplit(".", 1)[0].partition("-")[0])
        if distribution in seen:
            continue
        seen.add(distribution)
        text = _read(f"{folder}{os.sep}entry_points.txt")
        if "[sgm." not in text:
            continue
        version, found = _version(folder, base), _entry_points(text)
        apis = tuple(sorted(name for group, name in found if group == "sgm.api"))
        for (group, name), value in found.items():
            if group != "sgm.api":
                entries.append(Entry(group.removeprefix("sgm."), name, value, distribution, version, folder, apis))
    return entries


def install(distribution: str, version: str = "") -> str:
    """The command that installs a distribution. A text of somebody else that is no name becomes no command."""
    if re.fullmatch(r"[A-Za-z0-9]([\w.-]*[A-Za-z0-9])?", distribution, re.ASCII) and re.fullmatch(
        r"[\w.!+-]*", version
    ):
        return f"pip install {distribution}{'==' if version else ''}{version}"
    return f"{distribution[:60]!r} is not the name of a distribution"


def outside_window(entry: Entry) -> str:
    """Why this core cannot use a plugin of that API, with the way out, or an empty text."""
    numbers = [int(number) for number in entry.apis or ("1",) if number.isdecimal()]
    if entry.builtin or any(OLDEST_API <= number <= API for number in numbers):
        return ""
    window = str(API) if OLDEST_API == API else f"{OLDEST_API} to {API}"
    newer = bool(numbers) and min(numbers) > API
    return (
        f"{entry.provider} was built for API {' and '.join(entry.apis) or '1'} of {BUILTIN}, which is at {window}: "
        f"{install(BUILTIN if newer else entry.distribution).replace('install ', 'install -U ', 1)}"
    )


def plugin_filter(switch: str) -> Callable[[str], bool]:
    """The rule behind `SGM_PLUGINS` and `--plugins`: which distributions may be used.

    `off` leaves the built-ins, `only:a,b` leaves those and the built-ins, `-a,-b` leaves out a and b.

    Raises:
        RegistryError: none of these forms.
    """
    switch = switch.strip()
    if not switch:
        return lambda distribution: True
    if switch == "off":
        return lambda distribution: distribution == BUILTIN
    if switch.startswith("only:"):
        allowed = {normalize(part.strip()) for part in switch[5:].split(",")} | {BUILTIN}
        return lambda distribution: distribution in allowed
    parts = [part.strip() for part in switch.split(",")]
    if all(part.startswith("-") and len(part) > 1 for part in parts):
        denied = {normalize(part[1:]) for part in parts} - {BUILTIN}
        return lambda distribution: distribution not in denied
    raise RegistryError(
        f"which plugins may be used? SGM_PLUGINS (or --plugins) is '{switch}'; "
        "write 'off', 'only:dist-a,dist-b' or '-dist-a,-dist-b'"
    )


Table = dict[tuple[str, str], list[Entry]]
Blocked = list[tuple[Entry, str]]


class Index:
    """What is on offer in this process."""

    def __init__(self) -> None:
        self._scanned: list[Entry] | None = None
        self._filtered: tuple[str, Table, Blocked] | None = None  # with the SGM_PLUGINS that it is filtered by
        self._local: dict[tuple[str, str], Any] = {}
        self._lock = threading.RLock()

    def _sorted_out(self) -> tuple[Table, Blocked]:
        """What may be used, and what may not with the reason: the one place that decides it, for components and
        for modules of hooks."""
        switch = os.environ.get("SGM_PLUGINS", "")
        with self._lock:
            if self._filtered is None or self._filtered[0] != switch:
                allowed = plugin_filter(switch)
                table: Table = {}
                blocked: Blocked = []
                self._scanned = scan() if self._scanned is None else self._scanned
                for entry in self._scanned:
                    reason = outside_window(entry) if allowed(entry.distribution) else f"SGM_PLUGINS is '{switch}'"
                    if reason:
                        blocked.append((entry, reason))
                    else:
                        table.setdefault((entry.kind, entry.name), []).append(entry)
                self._filtered = switch, table, blocked
            return self._filtered[1:]

    def refresh(self) -> None:
        """Forget the scan: the next look-up reads the installed metadata again."""
        with self._lock:
            self._scanned = self._filtered = None

    def entries(self, kind: str | None = None) -> list[Entry]:
        """All entries, by kind and name; `kind` is any group, `configs` and `plugins` too."""
        installed = [entry for found in self._sorted_out()[0].values() for entry in found]
        local = [self._local_entry(key) for key in list(self._local)]
        return sorted(entry for entry in (*installed, *local) if kind is None or entry.kind == kind)

    def unavailable(self, kind: str | None = None) -> list[tuple[Entry, str]]:
        """The installed entries that are not used, and why: `SGM_PLUGINS`, or an API that this core does not have."""
        return sorted(found for found in self._sorted_out()[1] if kind is None or found[0].kind == kind)

    def _local_entry(self, key: tuple[str, str]) -> Entry:
        return Entry(*key, ":".join(_definition(self._local[key])), LOCAL, "", "")

    def names(self, kind: str) -> list[str]:
        """The spellings that resolve: bare names, and qualified ones where the bare name is ambiguous or taken."""
        check_kind(kind, GROUPS)
        entries = self.entries(kind)
        several = {name for name, n in Counter(entry.name for entry in entries).items() if n > 1}
        return sorted(
            entry.qualified if entry.name in several and not entry.builtin else entry.name for entry in entries
        )

    def find(self, kind: str, name: str) -> Entry:
        """The entry that a name stands for, or UnknownNameError or AmbiguousNameError; imports nothing."""
        check_kind(kind, GROUPS)
        distribution, qualified, bare = name.rpartition(":")
        found = list(self._sorted_out()[0].get((kind, bare), ()))
        if (kind, bare) in self._local:
            found.append(self._local_entry((kind, bare)))
        if qualified:
            found = [entry for entry in found if entry.distribution == normalize(distribution)]
        elif len(found) > 1:
            found = [entry for entry in found if entry.builtin] or found
        if not found:
            raise UnknownNameError(self._unknown(kind, name))
        if len(found) > 1:
            found.sort(key=lambda entry: entry.distribution)
            offers = " and ".join(f"{entry.provider} ({entry.value})" for entry in found)
            spellings = " or ".join(f"'{entry.qualified}'" for entry in found)
            raise AmbiguousNameError(f"{noun_of(kind)} '{name}' is offered by {offers}. Write {spellings}.")
        return found[0]

    def _unknown(self, kind: str, name: str) -> str:
        known = self.names(kind)
        noun, listing = noun_of(kind), ", ".join(known) or "none"
        message = f"unknown {noun} '{name}'.{did_you_mean(name, known)}\nKnown {kind}: {listing}"
        distribution, qualified, bare = name.rpartition(":")
        entries = self.entries()
        elsewhere = sorted({entry.kind for entry in entries if entry.name == bare and entry.kind in KINDS} - {kind})
        if elsewhere:
            message += f"\n('{bare}' is one of the {', '.join(elsewhere)})"
        offers = [found for found in self.unavailable(kind) if found[0].name == bare]
        if qualified:
            offers = [found for found in offers if found[0].distribution == normalize(distribution)]
            if normalize(distribution) not in {entry.distribution for entry in self._scanned or ()} | {LOCAL}:
                message += f"\n(no distribution {distribution[:60]!r} with components is installed: "
                message += f"{install(distribution)}, or the folder of its source)"
        for entry, reason in offers:
            message += f"\n({entry.distribution} offers it, but {reason})"
        if not any(entry.builtin for entry in entries):
            message += f"\n(the built-in components are missing: {BUILTIN} is importable but not installed)"
        return message

    def resolve(self, kind: str, name: str) -> Any:
        """The object that a name stands for. Imports its module, and no other plugin's.

        Raises:
            UnknownNameError, AmbiguousNameError: see `find`.
            BrokenComponentError: its module cannot be imported; the message has the reason.
        """
        return self.load(self.find(kind, name))

    def load(self, entry: Entry) -> Any:
        """The object that an entry stands for. Raises BrokenComponentError as `resolve` does."""
        return load(entry) if entry.path else self._local[entry.kind, entry.name]

    def register(self, kind: str, name: str) -> Callable[[T], T]:
        """Decorator: offer a class or function of this process, for notebooks and tests.

        Running the same definition again replaces it.

        Raises:
            RegistryError: not a kind; not a name; a built-in has it; something else was registered under it.
        """
        check_kind(kind)
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
            raise RegistryError(f"'{name}' is not a component name: use snake_case, e.g. 'my_embedder'")
        noun = KINDS[kind].noun
        if any(entry.builtin for entry in self._sorted_out()[0].get((kind, name), ())):
            raise RegistryError(f"the {noun} '{name}' is built in and cannot be replaced: choose another name")

        def add(obj: T) -> T:
            if not callable(obj):
                raise RegistryError(f"{noun} '{name}': register a class or a function, not {obj!r}")
            with self._lock:
                old = self._local.get((kind, name))
                if old is not None and _definition(old) != _definition(obj):
                    raise RegistryError(f"the {noun} '{name}' is already registered, as {'.'.join(_definition(old))}")
                self._local[kind, name] = obj
            return obj

        return add


def _definition(obj: Any) -> tuple[str, str]:
    """Module and name: the same for a class whose notebook cell runs again."""
    return getattr(obj, "__module__", ""), getattr(obj, "__qualname__", repr(obj))


def check_kind(kind: str, groups: Iterable[str] = ()) -> None:
    """Raise RegistryError unless `kind` is one, or one of these entry-point groups."""
    if kind not in KINDS and kind not in groups:
        raise RegistryError(f"unknown kind '{kind}'.{did_you_mean(kind, KINDS)}\nKnown kinds: {', '.join(KINDS)}")


def noun_of(group: str) -> str:
    """One of a kind or of another group, for messages."""
    return KINDS[group].noun if group in KINDS else group.removesuffix("s")


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was probably meant, or an empty text. Case, -, _ and the folder of a file do not count."""
    from difflib import get_close_matches  # an error's business: 9 ms that a listing need not pay

    words = [word, *known]
    plain = [re.sub(r"^.*/|\.ya?ml$", "", name.lower()).replace("-", "_") for name in words]
    close = get_close_matches(plain[0], plain[1:], n=1, cutoff=0.6)
    return words[plain.index(close[0], 1)] if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or nothing where no known word is near."""
    near = nearest(word, known)
    return f" Did you mean '{near}'?" if near else ""


# --- loading -------------------------------------------------------------------------------------------------------


def load(entry: Entry) -> Any:
    """Import the entry's module and give the object.

    Raises:
        BrokenComponentError: the import failed, whatever it raised (a plugin may even call `sys.exit`), or the
            object is not there.
    """
    module, _, attribute = entry.value.partition(":")
    try:
        obj = import_module(module)
        for part in filter(None, attribute.split(".")):
            obj = getattr(obj, part)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise BrokenComponentError(
            f"{noun_of(entry.kind)} '{entry.name}' of {entry.provider} "
            f"cannot be loaded from {entry.value}: {type(error).__name__}: {error}{remedy(entry, error)}"
        ) from error
    return obj


def remedy(entry: Entry, error: BaseException) -> str:
    """What to install for a missing module: the extra of the entry's distribution that brings it, if there is one."""
    if not (isinstance(error, ModuleNotFoundError) and error.name):
        return ""
    missing = error.name.partition(".")[0]
    if missing in sys.modules:  # the package is there, a part of it is not: nothing to install
        return ""
    extras = []
    for line in header(entry.path).splitlines():
        requirement = re.match(r"Requires-Dist: *([\w.-]+).*extra *== *['\"]([\w.-]+)['\"]", line)
        if requirement:
            extras.append(requirement[2])
            if normalize(requirement[1]) == normalize(missing):
                return f'\nInstall it with: pip install "{entry.distribution}[{requirement[2]}]"'
    message = f"\nThe module '{missing}' is not installed."
    if extras:  # a module may be of another name than the distribution that brings it
        message += f" Perhaps an extra of {entry.distribution} brings it: {', '.join(dict.fromkeys(extras))}"
    return message


index = Index()
"""The index of this process."""
