"""
A file of backends: what it may say.

    backends:                                 # YAML; in TOML a list `backends`, or [[backends]]
      - http://10.0.0.1:8000,kind=vllm        # as --backend takes it
      - url: https://10.0.0.2
        kind: sglang
        dp-size: 8

Everything is refused that is not known here, by entry and key.  No backends at all have to be
said (`backends: []`): a file that is empty, or ends too early, must not be taken for that.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from itertools import chain
from typing import Any

from router.backends.backend import SETTINGS, Backend, backend_of, parse_backend
from router.backends.lacks import Lacks

SUFFIXES = (".yaml", ".yml", ".toml")
MAX_BYTES = 1 << 20
_LIST = "backends"
_MAX_ENTRIES = 4096
_MAX_NODES = 100_000  # of YAML, with what an alias stands for counted each time
_KEYS = ("url", *SETTINGS)
_NONE_AT_ALL = f"to have none, say so: `{_LIST}: []`, in TOML `{_LIST} = []`"
_INTEGER, _NUMBER, _TRUTH = "an integer", "a number", "true or false"
_TEXT, _PLACE = "a string", "a port or tcp://host:port"
_TYPES = {
    "dp-size": _INTEGER, "weight": _NUMBER, "insecure-skip-verify": _TRUTH, "kv-events": _PLACE,
    "kv-replay": _PLACE,
}  # fmt: skip
_ALLOWED: dict[str, tuple[type, ...]] = {
    _TEXT: (str,), _INTEGER: (int,), _NUMBER: (int, float), _TRUTH: (bool,), _PLACE: (int, str),
}  # fmt: skip


def backends_in(content: bytes, suffix: str, lacks: Lacks) -> tuple[Backend, ...]:
    """
    The backends that a file of that suffix and content tells of, if none of them lacks anything.

    Raises ValueError, saying what is wrong and what is allowed.
    """
    backends: dict[str, Backend] = {}
    for number, entry in enumerate(_entries(_parsed(content, suffix)), 1):
        try:
            backend = _backend(entry)
            why = lacks.of(backend)
            if why is not None:
                raise ValueError(why)
            if backend.url in backends:
                raise ValueError(f"url={backend.url}: is told twice")
        except ValueError as error:
            raise ValueError(f"entry {number}: {error}") from None
        backends[backend.url] = backend
    return tuple(backends.values())


def _parsed(content: bytes, suffix: str) -> object:
    if len(content) > MAX_BYTES:
        raise ValueError(f"is too large: allowed are {MAX_BYTES} bytes")
    if not content.strip():
        raise ValueError(f"is empty: {_NONE_AT_ALL}")
    try:
        text = content.decode("utf-8-sig")
        return tomllib.loads(text) if suffix == ".toml" else _yaml(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"is no UTF-8: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"is no TOML: {error}") from None


def _yaml(text: str) -> object:
    try:
        import yaml
    except ImportError:
        raise ValueError(
            "YAML needs a package that is not there: pip install 'levelhead[yaml]', or write TOML"
        ) from None
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        if _num_nodes(root, {}) > _MAX_NODES:  # aliases of aliases: a page that fills the memory
            raise ValueError(f"is too large: allowed are {_MAX_NODES} values, aliases written out")
        for node in _nodes(root):
            _refuse_twice(node)
        return yaml.safe_load(text)
    except (yaml.YAMLError, OverflowError) as error:
        raise ValueError(f"is no YAML: {' '.join(str(error).split())}") from None


def _num_nodes(node: Any, known: dict[int, int]) -> int:
    """Of the document with all aliases written out; more than any if one stands for itself."""
    if node is None or isinstance(node.value, str):
        return 1
    if id(node) not in known:
        known[id(node)] = _MAX_NODES + 1  # while it is counted
        children = chain.from_iterable(_pairs(node)) if _pairs(node) else node.value
        known[id(node)] = 1 + sum(_num_nodes(child, known) for child in children)
    return known[id(node)]


def _nodes(root: Any) -> Iterator[Any]:
    """The mappings of the document and of its list."""
    for key, value in _pairs(root):
        if key.value == _LIST and isinstance(value.value, list):
            yield from (each for each in value.value if _pairs(each))
    if _pairs(root):
        yield root


def _pairs(node: Any) -> list[tuple[Any, Any]]:
    """Of a mapping; none of anything else."""
    return node.value if node is not None and node.id == "mapping" else []


def _refuse_twice(mapping: Any) -> None:
    """YAML's own reader takes the last of several values, and says nothing."""
    seen: set[object] = set()
    for key, _ in _pairs(mapping):
        if isinstance(key.value, str) and key.value in seen:
            raise ValueError(f"line {key.start_mark.line + 1}: {key.value!r} is told twice")
        seen.add(key.value if isinstance(key.value, str) else id(key))


def _entries(document: object) -> list[object]:
    if not isinstance(document, dict) or _LIST not in document:
        raise ValueError(f"has no list `{_LIST}`: {_NONE_AT_ALL}")
    for key in document:
        if key != _LIST:
            raise ValueError(f"{key!r}: allowed is `{_LIST}`, and nothing beside it")
    entries = document[_LIST]
    if not isinstance(entries, list):
        raise ValueError(f"`{_LIST}` is {_shown(entries)}: allowed is a list; {_NONE_AT_ALL}")
    if len(entries) > _MAX_ENTRIES:
        raise ValueError(f"`{_LIST}` has {len(entries)} entries: allowed are {_MAX_ENTRIES}")
    return entries


def _backend(entry: object) -> Backend:
    if isinstance(entry, str):
        return parse_backend(entry)
    if not isinstance(entry, dict):
        raise ValueError(f"{_shown(entry)}: allowed is a string as --backend has it, or a mapping")
    settings: dict[str, str] = {}
    for key, value in entry.items():
        name = key.replace("_", "-") if isinstance(key, str) else key
        if name not in _KEYS:  # its value may be a secret
            raise ValueError(f"{key!r}: allowed are {', '.join(_KEYS)}")
        if name in settings:
            raise ValueError(f"{key!r}: is told twice")
        settings[name] = _text(name, value)
    if "url" not in settings:
        raise ValueError("has no url")
    if settings.get("insecure-skip-verify") == "false":
        del settings["insecure-skip-verify"]
    return backend_of(settings.pop("url"), settings)


def _text(name: str, value: object) -> str:
    """As a setting of --backend has it.  Raises ValueError for a value of another type."""
    wanted = _TYPES.get(name, _TEXT)
    if type(value) not in _ALLOWED[wanted]:
        shown = "***" if name == "api-key-env" else _shown(value)
        raise ValueError(f"{name}={shown}: allowed is {wanted}")
    return str(value).lower() if wanted is _TRUTH else str(value)


def _shown(value: object) -> str:
    return "empty" if value is None else repr(value)[:80]
