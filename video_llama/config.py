"""Read YAML files with dotted overrides into typed, frozen settings objects. Errors are one line.

Every settings class of the project derives from `Config`: it is frozen, rejects unknown keys, and uses the string below
a field as the field's description. `load_config` reads settings; `dump_yaml` writes YAML that `load_config` reads back
as the same settings.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from video_llama.errors import ConfigError
from video_llama.files import read_text

_Key = str | int
ConfigT = TypeVar("ConfigT", bound="Config")

# PyYAML follows YAML 1.1, where 1e-4 and 1.5e4 are strings because they lack a point or a sign. In YAML 1.2 they are
# numbers.
_EXPONENT = re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$")
# Placeholders in published recipes for the user's own path: "path/eva_vit_g.pth", "/path/to/...", "your/data/...".
# "ckpt/..." is not a placeholder: users of the recipes create that folder.
_PLACEHOLDER = re.compile(r"^[./]*(?:path|your)/|<[^>]+>", re.IGNORECASE)
_MERGE_TAG = "tag:yaml.org,2002:merge"

MAX_YAML_BYTES = 2**20
MAX_YAML_DEPTH = 50
"""Largest number of lists and mappings inside each other."""
MAX_YAML_VALUES = 20_000
"""Largest number of values, with each alias (``*name``) replaced by its values."""
MAX_NUMBER_LENGTH = 100
"""Most characters of a number; reading a number takes time that grows with the square of its length."""
NUM_PROBLEMS = 10
"""Number of invalid keys that an error names before it counts the rest."""


class Config(BaseModel):
    """Base class of all settings: frozen, no unknown keys, validated defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_for_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject a bool for a number: pydantic would read ``num_frames: yes`` as 1."""
        field = cls.model_fields[info.field_name or ""]
        wanted = set(get_args(field.annotation)) or {field.annotation}
        if isinstance(value, bool) and wanted & {int, float} and wanted <= {int, float, NoneType}:
            raise ValueError("should be a number")
        return value


def load_config(kind: type[ConfigT], path: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """Read ``path`` and apply ``overrides`` ("model.num_query_token=16") in order.

    Raises ConfigError with the file (or the override), the key, the problem and the allowed values.
    """
    data = apply_overrides(load_yaml(path), overrides)
    changed = {_split_override(text)[0]: text for text in overrides}
    return parse_config(kind, data, source=str(path), changed=changed)


def parse_config(
    kind: type[ConfigT], data: Mapping[str, Any], *, source: str, changed: Mapping[str, str] | None = None
) -> ConfigT:
    """Validate ``data`` as a ``kind``.

    Error messages begin with ``source``. ``changed`` maps a dotted key to the override that set it; for these keys,
    messages begin with the override instead.
    """
    try:
        return kind.model_validate(dict(data))
    except ValidationError as error:
        problems = [_describe(kind, data, details, source, changed or {}) for details in error.errors()[:NUM_PROBLEMS]]
        rest = error.error_count() - NUM_PROBLEMS
        more = f" And {rest} more invalid keys." if rest > 0 else ""
        raise ConfigError("; ".join(dict.fromkeys(problems)) + more) from error


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file. An empty file gives an empty mapping.

    1e-4 is read as a float. Raises ConfigError with the line number for invalid YAML, duplicate keys, and aliases or
    nesting beyond MAX_YAML_VALUES and MAX_YAML_DEPTH.
    """
    path = Path(path)
    try:
        text = read_text(path, max_bytes=MAX_YAML_BYTES)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such file.{_suggest_file(path)}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot read the file as text: {error}. Give a YAML file.") from error
    data = _parse_yaml(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: contains a {type(data).__name__}. Write 'key: value' lines.")
    return data


def apply_overrides(data: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of ``data`` with each override "a.b.0.c=value" applied. Missing sections are created.

    Values are parsed as YAML. Raises ConfigError for an override without "=" and for a path through a value that has
    no keys.
    """
    result: dict[str, Any] = _copy(data)
    for text in overrides:
        dotted, value = _split_override(text)
        keys = dotted.split(".")
        section: Any = result
        for depth, key in enumerate(keys[:-1]):
            if isinstance(section, dict) and section.get(key) is None:
                section[key] = {}
            section = section[_place(section, key, keys[:depth], text)]
        section[_place(section, keys[-1], keys[:-1], text)] = value
    return result


def dump_yaml(config: Config) -> str:
    """Return all settings, including defaults, as YAML that `load_config` reads back as the same settings."""
    data = config.model_dump(mode="json", by_alias=True)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def is_placeholder(value: str) -> bool:
    """Return whether ``value`` is a placeholder for the user's own path ("path/to/weights.pth") and does not exist.

    Other paths that do not exist ("ckpt/llama-2-7b-chat-hf") are missing files, not placeholders.
    """
    return bool(_PLACEHOLDER.search(value)) and not Path(value).exists()


def placeholders(config: Config) -> dict[str, str]:
    """Return the dotted key and value of every setting that is still a placeholder."""
    return {key: value for key, value in _leaves(config.model_dump()) if is_placeholder(value)}


def require_filled(config: Config, *, source: str, only: Sequence[str] | None = None) -> None:
    """Raise ConfigError if a setting is still a placeholder. ``only`` limits the check to these dotted keys."""
    found = {key: value for key, value in placeholders(config).items() if only is None or key in only}
    if found:
        listed = ", ".join(f"{key} ({value})" for key, value in found.items())
        verb = "is still a placeholder" if len(found) == 1 else "are still placeholders"
        example = f"{next(iter(found))}=/data/..."
        raise ConfigError(f"{source}: {listed} {verb}. Set your own path in the file or override it: {example}")


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 1e-4 as a number and rejects duplicate keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE_TAG:
                continue
            if not isinstance(key_node, yaml.ScalarNode):
                raise _at(key_node, "a key must be a single word")
            if key_node.value in seen:
                raise _at(key_node, f"duplicate key {key_node.value}")
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """Return an integer or a float. Raises ConstructorError for more than MAX_NUMBER_LENGTH characters."""
        if len(node.value) > MAX_NUMBER_LENGTH:
            raise _at(node, f"a number has {len(node.value)} characters, more than {MAX_NUMBER_LENGTH}")
        is_float = node.tag.endswith(":float")
        value: int | float = (self.construct_yaml_float if is_float else self.construct_yaml_int)(node)
        return value


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_number)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes strings which `_Loader` would read as numbers."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _at(node: yaml.Node | yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    mark: Any = node.start_mark
    return yaml.constructor.ConstructorError(None, None, problem, mark)


def _check_size(text: str) -> None:
    """Raise MarkedYAMLError for aliases and nesting that would take too much memory or time to read.

    PyYAML's events are read one by one, without recursion, so this check itself is bounded by the length of the text.
    """
    sizes: dict[str, int | None] = {}  # values below each anchor; None while the anchor's own value is being read
    opened: list[tuple[str | None, int]] = []  # the anchors of the open lists and mappings, and the total before them
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        anchor = getattr(event, "anchor", None)
        if isinstance(event, yaml.AliasEvent):
            size = sizes.get(str(event.anchor), 0)
            if size is None:
                raise _at(event, f"the alias *{event.anchor} is inside its own value")
            total += size
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((anchor, total))
            if anchor is not None:
                sizes[anchor] = None
            if len(opened) > MAX_YAML_DEPTH:
                raise _at(event, f"more than {MAX_YAML_DEPTH} lists and mappings are inside each other")
        elif isinstance(event, yaml.CollectionEndEvent):
            name, before = opened.pop()
            if name is not None:
                sizes[name] = total - before + 1
        elif isinstance(event, yaml.ScalarEvent) and anchor is not None:
            sizes[anchor] = 1
        total += isinstance(event, yaml.NodeEvent)
        if total > MAX_YAML_VALUES:
            raise _at(event, f"the file has more than {MAX_YAML_VALUES} values after expanding aliases")


def _parse_yaml(text: str, source: str) -> Any:
    try:
        _check_size(text)
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        number = mark.line if mark else 0
        lines = text.splitlines()
        line = lines[number].strip() if number < len(lines) else ""
        raise ConfigError(
            f"{source}:{number + 1}: not valid YAML: {error.problem or error.context}: {_short(line)}."
        ) from error
    except (LookupError, AttributeError, TypeError) as error:  # in PyYAML, of "!!int ''", "!!bool x", "!!timestamp x"
        raise ConfigError(f"{source}: not valid YAML: a value does not fit its tag (!!...). Remove the tag.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {' '.join(str(error).split())}.") from error


def _split_override(text: str) -> tuple[str, Any]:
    dotted, equals, value = text.partition("=")
    dotted = dotted.strip()
    if not equals or not all(dotted.split(".")):
        raise ConfigError(f"override {text!r}: must have the form section.key=value.")
    return dotted, _parse_yaml(value, f"override {dotted}")


def _place(section: Any, key: str, parents: Sequence[str], text: str) -> _Key:
    """Return ``key`` as an index of ``section``: the key itself for a mapping, an int for a list."""
    where = ".".join(parents) or "the file"
    if isinstance(section, dict):
        return key
    if not isinstance(section, list):
        raise ConfigError(f"override {text!r}: {where} is {section!r}, not a section with keys.")
    if not key.isdecimal() or int(key) >= len(section):
        raise ConfigError(
            f"override {text!r}: {where} is a list of {len(section)}; use a number from 0 in place of {key}."
        )
    return int(key)


def _copy(value: Any) -> Any:
    """Return a deep copy. Sections shared through YAML anchors become separate, so an override changes only one."""
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copy(item) for item in value]
    return value


def _describe(kind: type[BaseModel], data: Any, details: Any, source: str, changed: Mapping[str, str]) -> str:
    """Return one line for one pydantic error."""
    path = _path_in(data, details["loc"])
    dotted = ".".join(map(str, path))
    override = next((text for key, text in changed.items() if dotted == key or dotted.startswith(f"{key}.")), None)
    where = f"override {override}" if override else source
    if dotted and dotted not in changed:
        where = f"{where}: {dotted}"
    if details["type"] == "extra_forbidden":
        known = sorted({name for model in _models_at(kind, details["loc"][:-1]) for name in _names(model)})
        return f"{where}: unknown key. {_suggest(str(path[-1]), known)}"
    if details["type"] == "missing":
        return f"{where}: missing. This key has no default; set it."
    message = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{where}: {message} (it is {_short(details['input'])})."


def _short(value: Any) -> str:
    """Return ``repr(value)``, shortened in the middle if it is long."""
    shortener = reprlib.Repr()
    shortener.maxstring = shortener.maxother = 200
    return shortener.repr(value)


def _path_in(data: Any, location: Sequence[_Key]) -> list[_Key]:
    """Return ``location`` without the names of union members, which pydantic inserts between the keys."""
    path: list[_Key] = []
    for depth, key in enumerate(location):
        is_last = depth == len(location) - 1
        try:
            data = data[key]
        except (KeyError, IndexError, TypeError):
            if not is_last or _is_union_member(data):
                continue
        path.append(key)
    return path


def _is_union_member(data: Any) -> bool:
    """A plain value has no keys, so a location below it is the name of a union member that pydantic tried."""
    return not isinstance(data, (Mapping, list, tuple))


def _models_at(kind: type[BaseModel], location: Sequence[_Key]) -> list[type[BaseModel]]:
    """Return the settings classes that are allowed at ``location`` below ``kind``."""
    models = [kind]
    for key in location:
        fields = [field for model in models for name, field in _names(model).items() if name == key]
        below = [model for field in fields for model in _models_in(field.annotation)]
        named = [model for model in models if model.__name__ == key]
        models = below or named or models
    return models


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _names(model: type[BaseModel]) -> dict[str, Any]:
    """Return the fields of a settings class by their key in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _suggest(word: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Known keys: {', '.join(known) or 'none'}."


def _suggest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" The folder {path.parent} does not exist either. Check the path."
    close = difflib.get_close_matches(path.name, [file.name for file in path.parent.iterdir()], n=1)
    return f" Did you mean {path.parent / close[0]}?" if close else " Check the path."


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, text) of every string and path below ``value``."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    elif isinstance(value, (str, Path)):
        yield ".".join(path), str(value)
