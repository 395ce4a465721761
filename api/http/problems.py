"""Problem details (RFC 9457): what is wrong with a request, and the error that ends it.

Only code that reads the body, headers or parameters of a request raises a ``ProblemError``. All other code
raises errors of its own, which ``api/problem_map.py`` translates.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from api.http.problem_types import MALFORMED_REQUEST, VALIDATION_FAILED, ProblemType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_FAULTS = 100
"""How many faults a problem names; it says how many more there are."""


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a request: where, and what would be valid."""

    detail: str
    pointer: str | None = None
    parameter: str | None = None
    header: str | None = None
    line: int | None = None
    """The line of a body that is CSV or NDJSON, from 1; its ``pointer`` is into the array of the rows."""

    @property
    def member(self) -> dict[str, str | int]:
        """The fault as an element of the problem's ``errors``."""
        places = {
            "pointer": self.pointer,
            "parameter": self.parameter,
            "header": self.header,
            "line": self.line,
        }
        return {name: place for name, place in places.items() if place is not None} | {"detail": self.detail}

    def within(self, path: str) -> Fault:
        """Return the fault of a part of the body, which is at a path such as ``/orders/3``, as the body's."""
        return self if self.pointer is None else replace(self, pointer=f"#{path}{self.pointer[1:]}")


@dataclass
class ProblemError(Exception):
    """A request that is answered with a problem."""

    type: ProblemType
    detail: str
    faults: Sequence[Fault] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Any] = field(default_factory=dict)


def malformed(*faults: Fault) -> ProblemError:
    """Build the problem (400) for a request that can't be read."""
    return _problem(MALFORMED_REQUEST, faults, len(faults))


def invalid(*faults: Fault, count: int | None = None) -> ProblemError:
    """Build the problem (422) for a body that can be read but not accepted.

    Args:
        faults: those to name; more than ``MAX_FAULTS`` are counted only.
        count: how many there are, if ``faults`` has not all.

    """
    return _problem(VALIDATION_FAILED, faults, count or len(faults))


_NAMED_TOGETHER = 5


def _problem(kind: ProblemType, faults: Sequence[Fault], count: int) -> ProblemError:
    return ProblemError(kind, _summary(faults, count), faults[:MAX_FAULTS])


def _summary(faults: Sequence[Fault], count: int) -> str:
    first = faults[0]
    # Several members may be missing for one reason, which is said once.
    alike = [fault for fault in faults if fault.detail == first.detail][:_NAMED_TOGETHER]
    places = [place for fault in alike if (place := fault.pointer or fault.parameter or fault.header)]
    others = count - len(alike)
    if count > MAX_FAULTS:
        more = f" ({others:,} more; errors has the first {MAX_FAULTS})"
    else:
        more = f" ({others} more in errors)" if others else ""
    return f"{', '.join(places)}: {first.detail}{more}" if places else f"{first.detail}{more}"
