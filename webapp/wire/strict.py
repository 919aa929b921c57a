"""Frozen dataclasses and typed dicts from JSON and back, refusing whatever does not fit."""

import json
import types
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints, is_typeddict

import orjson

T = TypeVar("T")


class WireError(ValueError):
    """Something that is not a valid message; the error says where and why."""


def dump(value: Any) -> str:
    """A dataclass as compact JSON."""
    return orjson.dumps(value).decode()


def load(kind: type[T], text: str | bytes) -> T:
    """A dataclass or typed dict from its JSON.

    Raises:
        WireError: if the text is no JSON, or a key is unknown, missing or of another type.
    """
    return build(kind, parse(text))


def parse(text: str | bytes) -> Any:
    """JSON as Python values; NaN and infinity are refused."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from error


def build(kind: type[T], value: Any, where: str = "") -> T:
    """A dataclass or typed dict from the values of its JSON.

    Raises:
        WireError: if a key is unknown, missing or of another type.
    """
    where = where or kind.__name__
    if not isinstance(value, dict):
        raise WireError(f"{where}: expected an object, got {_named(value)}")
    types_of = _types(kind)  # type: ignore[arg-type]
    for wrong, said in ((set(value) - set(types_of), "unknown"), (set(types_of) - set(value), "missing")):
        if wrong:
            raise WireError(f"{where}: {said} key {', '.join(sorted(map(repr, wrong)))}")
    return kind(**{name: _checked(types_of[name], value[name], f"{where}.{name}") for name in types_of})


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _checked(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin is Literal:
        if value in get_args(kind) and isinstance(value, str):
            return value
        raise WireError(f"{where}: expected one of {', '.join(get_args(kind))}, got {_named(value)}")
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        inner = next(part for part in get_args(kind) if part is not type(None))
        return _checked(inner, value, where)
    if origin is tuple:
        if not isinstance(value, list):
            raise WireError(f"{where}: expected a list, got {_named(value)}")
        return tuple(_checked(get_args(kind)[0], part, f"{where}[{n}]") for n, part in enumerate(value))
    if is_dataclass(kind) or is_typeddict(kind):
        return build(kind, value, where)
    if kind is float and type(value) is int:
        return float(value)
    # Not isinstance: a bool is an int in Python, and none in JSON.
    if type(value) is not kind:
        raise WireError(f"{where}: expected {kind.__name__}, got {_named(value)}")
    if kind is str and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise WireError(f"{where}: half of a surrogate pair at character {error.start}") from error
    return value


def _named(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.40}"


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")
