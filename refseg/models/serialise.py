"""Model configs as plain JSON and back, so that a checkpoint can say what it is without running anybody's code.

A config is a dataclass; in JSON it is its fields plus "type", the name of its class. Only the classes in ``MODELS``
and those that their fields may hold are ever restored.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from refseg.errors import RefsegError
from refseg.models import MODELS

TYPE = "type"


def config_to_dict(config: Any) -> dict[str, Any]:
    """A config and all configs inside it as dicts, lists, numbers, strings and None, ready for ``json.dumps``."""
    return _to_plain(config)


def config_from_dict(plain: dict[str, Any]) -> Any:
    """The config that ``config_to_dict`` wrote.

    Raises:
        RefsegError: an unknown type, an unknown or missing field, or a value of the wrong kind.
    """
    return _restore(plain, "The model config", {kind.__name__: kind for kind in known_configs()})


def known_configs() -> list[type]:
    """The config classes of all models, and every dataclass that their fields may hold."""
    found: list[type] = []
    waiting = list(MODELS)
    while waiting:
        kind = waiting.pop()
        if kind not in found:
            found.append(kind)
            waiting += [inner for hint in get_type_hints(kind).values() for inner in _dataclasses_in(hint)]
    return found


def _to_plain(value: Any) -> Any:
    if is_dataclass(value):
        inner = {field.name: _to_plain(getattr(value, field.name)) for field in fields(value) if field.init}
        return {TYPE: type(value).__name__, **inner}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value


def _restore(plain: Any, where: str, known: dict[str, type]) -> Any:
    if not isinstance(plain, dict) or TYPE not in plain:
        raise RefsegError(f'{where} is not a dict with a "type": it should name one of {", ".join(sorted(known))}.')
    if str(plain[TYPE]) not in known:
        raise RefsegError(
            f"{where} has the unknown type {plain[TYPE]!r}: it should be one of {', '.join(sorted(known))}."
        )
    kind = known[str(plain[TYPE])]
    given = {name: value for name, value in plain.items() if name != TYPE}
    _check_names(kind, given, where)
    hints = get_type_hints(kind)
    return kind(**{name: _value(given[name], hints[name], f"{kind.__name__}.{name}", known) for name in given})


def _check_names(kind: type, given: dict[str, Any], where: str) -> None:
    known = [field for field in fields(kind) if field.init]
    for name in given:
        if name not in {field.name for field in known}:
            raise RefsegError(f"{where} has a field {name!r} that {kind.__name__} does not know: remove it.")
    for field in known:  # also those with a default: a default may change, a stored model must not
        if field.name not in given:
            raise RefsegError(f"{where} lacks the field {field.name!r} of {kind.__name__}: add it.")


def _value(value: Any, hint: Any, where: str, known: dict[str, type]) -> Any:
    if isinstance(value, dict):
        value = _restore(value, where, known)
    elif isinstance(value, list):
        value = tuple(value)  # JSON has no tuples, configs have no lists
    if not _fits(value, hint):
        raise RefsegError(f"{where} is {value!r}, where {_spell(hint)} belongs: correct the value.")
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
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint).replace("refseg.models.", "")


def _dataclasses_in(hint: Any) -> Iterator[type]:
    if isinstance(hint, type) and is_dataclass(hint):
        yield hint
    for inner in get_args(hint):
        yield from _dataclasses_in(inner)
