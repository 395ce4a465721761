"""What ``make run`` is to run, as read from the environment.

PORT (8000; 0 picks a free one), STATE_DIR (.local), SAMPLE_DATA (whether a new database gets the sample
orders: yes, or no if OMS_DATABASE_URL is set), API and WORKERS (how many of each, 1). Others are settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from stack.child_processes import StackError
from stack.state_folder import DEFAULT_FOLDER

_MOST_PROCESSES = 64


@dataclass(frozen=True)
class Plan:
    """What to run, as read from the environment."""

    host: str
    port: int
    state: Path
    database_url: str
    redis_url: str
    sample_data: bool
    drain: float
    """Seconds for which the API serves on while it stops."""
    api: int
    """Processes of the API, on one port."""
    workers: int
    """Workers, each with children of its own."""

    @property
    def settings(self) -> dict[str, str]:
        """The settings of the processes that it decides."""
        return {
            "OMS_HOST": self.host,
            "OMS_PORT": str(self.port),
            # Otherwise 5 s where KUBERNETES_SERVICE_HOST is set: no load balancer has to notice.
            "OMS_DRAIN": str(self.drain),
            "OMS_API_PROCESSES": str(self.api),
        }

    @property
    def max_connections(self) -> int:
        """Connections of an embedded PostgreSQL, with room for commands; see docs/operations/scale.md."""
        return 100 + 12 * (self.api - 1) + 10 * (self.workers - 1)

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Plan:
        """Read the environment; an empty variable counts as absent, since make passes empty ones.

        Raises:
            StackError: a value is invalid.

        """
        given = {name: value for name, value in environment.items() if value}
        port = given.get("PORT") or given.get("OMS_PORT") or "8000"
        if not (port.isascii() and port.isdigit() and int(port) <= 65535):  # the last port
            raise StackError(f"PORT is {port!r}; it must be a number up to 65535, or 0 for any free port")
        # A database that the user chose gets the sample orders only on request.
        # The sample orders' ids are those of cell 1.
        has_place = "OMS_DATABASE_URL" not in given and given.get("OMS_CELL_NUMBER", "0") in {"0", "1"}
        sample_data = given.get("SAMPLE_DATA", "yes" if has_place else "no")
        if sample_data not in {"yes", "no"}:
            raise StackError(f"SAMPLE_DATA is {sample_data!r}; it must be yes or no")
        try:
            drain = float(given.get("OMS_DRAIN", 0))
        except ValueError:
            raise StackError(f"OMS_DRAIN is {given['OMS_DRAIN']!r}; it must be a number of seconds") from None
        return cls(
            host=given.get("OMS_HOST", "127.0.0.1"),
            port=int(port),
            state=Path(given.get("STATE_DIR", DEFAULT_FOLDER)),
            database_url=given.get("OMS_DATABASE_URL", ""),
            redis_url=given.get("OMS_REDIS_URL", ""),
            sample_data=sample_data == "yes",
            drain=drain,
            api=_read_count(given, "API", "OMS_API_PROCESSES"),
            workers=_read_count(given, "WORKERS"),
        )


def _read_count(given: Mapping[str, str], *names: str) -> int:
    """Read the first of the variables that is set; 1 if none is."""
    for name in names:
        if count := given.get(name):
            if not (count.isascii() and count.isdigit() and 1 <= int(count) <= _MOST_PROCESSES):
                raise StackError(f"{name} is {count!r}; it must be a number from 1 to {_MOST_PROCESSES}")
            return int(count)
    return 1
