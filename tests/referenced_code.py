"""The objects of our own that a function refers to by name, directly or not, read from its byte code.

Names in branches that are never taken count, and values passed as arguments do not. That is enough to
compare the problems that a route can answer with the contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

OURS = ("api.", "shared.")


def referenced_code(function: Any) -> list[Any]:
    """Collect our functions, classes and constants that a function names, recursively."""
    by_id: dict[int, Any] = {}
    to_do = [function]
    while to_do:
        for value in _named_by(to_do.pop()):
            if id(value) not in by_id:
                by_id[id(value)] = value
                to_do.append(value)
    return list(by_id.values())


def _named_by(value: Any) -> Iterator[Any]:
    if hasattr(value, "__wrapped__"):  # a decorator's function runs too, around the one that it wraps
        yield value.__wrapped__
    if isinstance(value, type):
        for member in vars(value).values():
            inner = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if isinstance(inner, FunctionType):
                yield inner
    elif isinstance(value, FunctionType):
        names = set(_names(value.__code__))
        known = {name: value.__globals__[name] for name in names if name in value.__globals__}
        for module in [one for one in known.values() if isinstance(one, ModuleType)]:
            if module.__name__.startswith(OURS):
                known |= {name: vars(module)[name] for name in names if name in vars(module)}
        yield from (one for one in known.values() if _is_ours(one))


def _is_ours(value: Any) -> bool:
    of = value if isinstance(value, type | FunctionType) else type(value)
    return (getattr(of, "__module__", None) or "").startswith(OURS)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
