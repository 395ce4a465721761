"""The statements of fee summaries: each is a ``.sql`` file beside this one, with names for its parameters."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any


def _read(file: str) -> str:
    return Path(__file__).with_name(file).read_text(encoding="utf-8")


_AS_OF = _read("as_of.sql")
_REPORT = _read("report.sql")


class Statement:
    """A statement whose parameters have names (``$limit``); PostgreSQL gets numbers (``$9``).

    ``{report}`` in its file is replaced by ``report.sql``, and ``{as_of}`` by ``as_of.sql``.
    """

    def __init__(self, file: str) -> None:
        template = Template(_read(file).replace("{report}", _REPORT).replace("{as_of}", f"\n{_AS_OF}"))
        self._parameters = template.get_identifiers()
        self.sql = template.substitute(
            {name: f"${number}" for number, name in enumerate(self._parameters, start=1)}
        )

    def arguments(self, **values: object) -> list[Any]:
        """Return the arguments in the order of their numbers.

        Raises:
            KeyError: one is missing.

        """
        return [values[name] for name in self._parameters]
