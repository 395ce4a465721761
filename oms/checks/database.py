"""PostgreSQL: whether orders can be stored, what could lose them, and how far everything else is behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec

from api.operations.figures import Figures, read_figures
from api.operations.readiness import Storability, check_storability
from oms.checks.connections import check_migrating_rights
from oms.checks.findings import Finding, ok, warning, wrong
from shared.cells import Cell, own_cell
from shared.database.engine import DatabaseUnavailableError
from shared.database.migrate import REQUIRED_POSTGRESQL
from shared.database.statements import fetch_one, fetch_values
from shared.database.stored_cell import disagreement, stored_cell
from shared.stored_secrets import missing_secret_keys

if TYPE_CHECKING:
    from shared.settings import Settings

RELAY_SILENCE_SECONDS = 30.0
BEHIND_SECONDS = 60.0
PROOF_DAYS = 2
DELIVERY_SECONDS = 300.0
SESSIONS_OF_OTHERS = 20
"""Sessions besides the API's: relay, worker, commands and PostgreSQL's reserved ones."""

_SERVER = """
SELECT
    current_setting('server_version') AS version, current_setting('server_version_num')::int AS number,
    current_setting('server_encoding') AS encoding, current_setting('fsync') AS fsync,
    current_setting('full_page_writes') AS full_page_writes,
    current_setting('synchronous_commit') AS synchronous_commit,
    current_setting('max_connections')::int AS max_connections,
    extract(epoch FROM clock_timestamp())::float8 AS now,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser
"""

_OTHER_ZONE = """
SELECT time_zone FROM fee_summary_state AS s WHERE time_zone <> $1
AND EXISTS (SELECT FROM fee_summary AS f WHERE f.generation = s.generation)
"""

_ADVICE = {
    "unavailable": "Start it, or correct OMS_DATABASE_URL; `pg_isready` says whether it answers.",
    "refused": "Correct the role, the password or the database's name in OMS_DATABASE_URL or PGPASSWORD.",
    "standby": "Name the primary in OMS_DATABASE_URL, or all servers: the primary is then chosen.",
    "read_only": "Allow writes: ALTER ROLE … RESET default_transaction_read_only, or free its disk.",
    "not_permitted": "Grant what is missing to the role of OMS_DATABASE_URL.",
}
_MIGRATIONS_ADVICE = {
    "pending": "Apply them: python -m shared.database.migrate",
    "newer": "Stop this version, and start the newer one.",
}


class Server(msgspec.Struct, frozen=True):
    """The server's version and the settings that matter."""

    version: str
    number: int
    encoding: str
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    max_connections: int
    now: float
    is_superuser: bool


async def check_database(settings: Settings) -> tuple[list[Finding], float | None]:
    """Look at the database; also return by how many seconds its clock is ahead, if it can be reached."""
    storability = await check_storability()
    findings = [_judge_storability(storability)]
    if storability.database in {"unavailable", "refused", "standby"}:
        return findings, None  # each further statement would wait for it again
    try:
        began = time.time()
        server = await fetch_one(Server, _SERVER)
        ahead = server.now - (began + time.time()) / 2
        findings += _judge_server(server, settings)
        if storability.migrations == "pending":
            findings += await check_migrating_rights()
        if not storability.reason or storability.migrations == "ok":
            findings += [_judge_zone(await fetch_values(str, _OTHER_ZONE, settings.time_zone), settings)]
            findings += _judge_cell(await stored_cell())
            findings += _judge_secret_keys(await missing_secret_keys(of_answers=True))
            findings += judge_figures(await read_figures(), began + ahead)
    except DatabaseUnavailableError as error:
        if not storability.reason:
            findings.append(wrong("database", f"the database can't be read: {error}", _ADVICE["unavailable"]))
        return findings, None
    return findings, ahead


def _judge_storability(storability: Storability) -> Finding:
    if not storability.reason and storability.migrations == "newer":
        return warning(
            "database",
            "orders can be stored, and a newer version of this service has migrated the database",
            "Complete the upgrade, or downgrade as docs/operations/upgrade.md says.",
        )
    if not storability.reason:
        return ok("database", "orders can be stored: it is reachable and up to date, and its role may do all")
    advice = _MIGRATIONS_ADVICE.get(storability.migrations) or _ADVICE[storability.database]
    return wrong("database", f"orders can't be stored: {storability.reason}", advice)


def _judge_server(server: Server, settings: Settings) -> Iterator[Finding]:
    if server.number // 10_000 < REQUIRED_POSTGRESQL:
        yield wrong(
            "database", f"this is PostgreSQL {server.version}", f"Use {REQUIRED_POSTGRESQL} or newer."
        )
    else:
        yield ok("database", f"PostgreSQL {server.version}")
    if server.encoding != "UTF8":
        yield wrong(
            "database", f"its encoding is {server.encoding}", "Create the database with ENCODING 'UTF8'."
        )
    for name, value in (("fsync", server.fsync), ("full_page_writes", server.full_page_writes)):
        if value == "off":
            yield wrong(
                "database",
                f"{name} is off: a crash of its machine may destroy the database",
                f"ALTER SYSTEM SET {name} = on; SELECT pg_reload_conf()",
            )
    if server.synchronous_commit == "off":
        yield wrong(
            "database",
            "synchronous_commit is off: orders that callers were told are stored may be lost in a crash",
            "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()",
        )
    sessions = settings.api_processes * settings.pool_size
    if sessions + SESSIONS_OF_OTHERS > server.max_connections:
        yield wrong(
            "database",
            f"one API may open {sessions} sessions (OMS_API_PROCESSES x OMS_POOL_SIZE), relay and worker "
            f"about {SESSIONS_OF_OTHERS}, and max_connections is {server.max_connections}",
            "Lower OMS_POOL_SIZE, or raise max_connections.",
        )
    if server.is_superuser:
        yield warning(
            "database",
            "the role of OMS_DATABASE_URL is a superuser",
            "Give the service a role of its own, and the migrations another.",
        )


def _judge_zone(other_zones: list[str], settings: Settings) -> Finding:
    if not other_zones:
        return ok("database", f"fee summaries count in days of {settings.time_zone}, as OMS_TIME_ZONE says")
    return wrong(
        "database",
        f"OMS_TIME_ZONE is {settings.time_zone}, and the fee summaries count in days of {other_zones[0]}",
        f"Set it back, or, with everything running as before: OMS_TIME_ZONE={settings.time_zone} oms rebuild",
    )


def _judge_cell(stored: Cell | None) -> Iterator[Finding]:
    fault = disagreement(own_cell(), stored)
    if fault:
        yield wrong("database", fault[0], f"{fault[1][0].upper()}{fault[1][1:]}.")
    elif stored:
        yield ok("database", f"it is of cell {stored.name}, whose own ids begin with {stored.number}")


def _judge_secret_keys(missing: list[str]) -> Iterator[Finding]:
    if missing:
        yield wrong(
            "database",
            f"secrets are encrypted under {', '.join(missing)}, which OMS_SECRET_KEY lacks",
            "Set it as for the other processes; if the key is lost, rotate the webhooks' secrets.",
        )


def judge_figures(figures: Figures, now: float) -> Iterator[Finding]:
    """Judge how far the relay, the worker, the webhooks and the proof are; ``now`` is the database's."""
    log = figures.log
    if log is None:
        yield wrong(
            "relay", "the change log has no row", "Restore it from a backup: the database is damaged."
        )
        return
    silence = None if log.led_at is None else now - log.led_at
    if silence is None or silence > RELAY_SILENCE_SECONDS:
        since = "yet" if silence is None else f"for {silence:,.0f} s"
        yield wrong(
            "relay",
            f"no relay has worked {since}: changes get no positions, and no consumer sees them",
            "Start one (python -m api.relay.main), or look at its log.",
        )
    elif log.unassigned_age > RELAY_SILENCE_SECONDS:
        yield wrong(
            "relay",
            f"{log.unassigned:,.0f} changes have no position, the oldest for {log.unassigned_age:,.0f} s",
            "A long transaction that writes orders holds them up: see pg_stat_activity.",
        )
    else:
        yield ok("relay", f"it works, and has numbered {log.last_position:,.0f} changes")
    for consumer in figures.consumers:
        name = consumer.consumer.replace("_", " ")
        if consumer.behind_changes < 0:
            yield wrong(
                "worker",
                f"the cursor of {name} is past the end of the change log: the next changes would be dropped",
                "`oms rebuild` corrects the summaries and their cursor.",
            )
        elif consumer.behind_seconds > BEHIND_SECONDS:
            yield wrong(
                "worker",
                f"{name} are {consumer.behind_changes:,.0f} changes behind, the oldest for "
                f"{consumer.behind_seconds:,.0f} s",
                "Start the worker (python -m worker.main), or look at its log and at Redis.",
            )
        else:
            yield ok("worker", f"{name} are {consumer.behind_changes:,.0f} changes behind")
    yield from _judge_proof(figures)
    yield from _judge_webhooks(figures)


def _judge_proof(figures: Figures) -> Iterator[Finding]:
    log = figures.log
    if log is None or log.proof_age is None:
        return
    if log.differing:
        yield wrong(
            "worker",
            f"in the last proof, {log.differing:,.0f} fee summaries did not match the orders",
            "`oms verify` lists them, `oms rebuild` rebuilds the summaries.",
        )
    elif log.proof_age > PROOF_DAYS * 86_400:
        yield warning(
            "worker",
            f"the fee summaries were last proved {log.proof_age / 86_400:.0f} days ago; once a day is usual",
            "Look at the worker's log; `oms verify` proves them now.",
        )


def _judge_webhooks(figures: Figures) -> Iterator[Finding]:
    webhooks = figures.webhooks
    if webhooks is None:
        return
    if webhooks.disabled:
        yield warning(
            "webhooks",
            f"{webhooks.disabled:,.0f} webhooks are disabled: nothing is sent to them",
            "`oms webhook list` shows which; `oms webhook enable` and `oms replay --missed` send again.",
        )
    if webhooks.failing:
        yield warning(
            "webhooks",
            f"{webhooks.failing:,.0f} webhooks are failing; after five days they are disabled",
            "`oms webhook attempts` shows what their endpoints answer.",
        )
    elif webhooks.due_age > DELIVERY_SECONDS:
        yield wrong(
            "webhooks",
            f"{webhooks.waiting:,.0f} deliveries wait, one is due for {webhooks.due_age:,.0f} s",
            "Start the worker (python -m worker.main), or look at its log and at Redis.",
        )
    elif not webhooks.disabled:
        yield ok("webhooks", f"{webhooks.working:,.0f} webhooks, all working")
