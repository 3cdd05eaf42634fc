"""Configs as plain JSON and back, so that a checkpoint can say what it is without running code.

A config is a frozen dataclass that derives from ``Config``; in JSON it is its fields plus "type", the name of its
class. Only classes that derive from ``Config`` are ever restored, and only where a field's type allows them.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Self, Union, get_args, get_origin, get_type_hints

from refseg.errors import RefsegError

TYPE = "type"
# Old names of classes in stored files: the present name, and the fields that the old class did not have.
RENAMED: dict[str, tuple[str, dict[str, Any]]] = {
    "HalvingBackboneConfig": ("SmallBackboneConfig", {"dilations": [1, 1, 1, 1]})
}


@dataclass(frozen=True)
class Config:
    """Base of every config that is stored. A config says how a part is built, and its ``build`` builds it."""

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """The present fields from those in a file, older ones renamed or dropped."""
        return stored

    def without_weights(self) -> Self:
        """This config without pretrained weights: every field ``weights``, also of the configs in it, is None."""
        changes = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Config):
                changes[field.name] = value.without_weights()
            elif field.name == "weights":
                changes[field.name] = None
        return replace(self, **changes)


def config_to_dict(config: Any) -> Any:
    """A config and all configs inside it as dicts, lists, numbers, strings and None, ready for ``json.dumps``."""
    if is_dataclass(config):
        inner = {field.name: config_to_dict(getattr(config, field.name)) for field in fields(config) if field.init}
        return {TYPE: type(config).__name__, **inner}
    if isinstance(config, (list, tuple)):
        return [config_to_dict(item) for item in config]
    return config


def config_from_dict(plain: Any, where: str = "The model config") -> Any:
    """The config that ``config_to_dict`` wrote. A field that is missing has its default.

    Args:
        plain: what ``json.loads`` returned.
        where: the subject of the error messages.

    Raises:
        RefsegError: an unknown type, an unknown or missing field, or a value of the wrong kind.
    """
    try:
        return _restored(plain, where)
    except RecursionError:
        raise RefsegError(f"{where} is nested too deeply for a config: copy the file again.") from None


def _restored(plain: Any, where: str) -> Config:
    if not isinstance(plain, dict) or TYPE not in plain:
        raise RefsegError(f'{where} is not a dict with a "type": "type" must name the class of a config.')
    name, defaults = RENAMED.get(str(plain[TYPE]), (str(plain[TYPE]), {}))
    kind = {known.__name__: known for known in _subclasses(Config)}.get(name)
    if kind is None:
        raise RefsegError(f"{where} has the unknown type {plain[TYPE]!r}: import the module that defines it first.")
    known = {field.name: field for field in fields(kind) if field.init}
    given = kind.migrate(defaults | {key: value for key, value in plain.items() if key != TYPE})
    for key in given.keys() - known:
        raise RefsegError(f"{where} has a field {key!r} that {name} does not know: remove it.")
    for key, field in known.items():
        if key not in given and field.default is MISSING and field.default_factory is MISSING:
            raise RefsegError(f"{where} lacks the field {key!r} of {name}: add it.")
    hints = get_type_hints(kind)
    return kind(**{key: _value(value, hints[key], f"{name}.{key}") for key, value in given.items()})


def _subclasses(kind: type) -> Iterator[type]:
    for subclass in kind.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)


def _value(value: Any, hint: Any, where: str) -> Any:
    restored = _plain_value(value, where)
    if not _fits(restored, hint):
        raise RefsegError(f"{where} is {restored!r}, but it must be {_spell(hint)}: correct the value.")
    return restored


def _plain_value(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return _restored(value, where)
    if isinstance(value, list):
        return tuple(_plain_value(item, where) for item in value)  # JSON has no tuples, configs have no lists
    return value


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        kinds = get_args(hint)
        kinds = kinds[:1] * len(value) if isinstance(value, tuple) and kinds[-1] is Ellipsis else kinds
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(_fits, value, kinds))
    if hint is Any:
        return True
    if hint in (int, float):  # True is an int to Python, and 1 is a good float
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def _spell(hint: Any) -> str:
    if get_args(hint) or not isinstance(hint, type):
        return str(hint).replace("refseg.models.", "")
    return f"a {hint.__name__}"


def rename_weights(state_dict: dict[str, Any], prefix: str, names: dict[str, str]) -> None:
    """Give the weights of an older checkpoint their present names, in place.

    Args:
        state_dict: weights by name.
        prefix: of the module whose weights they are.
        names: {how names begin after ``prefix``: how they begin now}.
    """
    for old, new in names.items():
        for name in [name for name in state_dict if name.startswith(prefix + old)]:
            state_dict[prefix + new + name[len(prefix + old) :]] = state_dict.pop(name)
