"""``oms doctor``: look at everything that a deployment depends on, and say what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from oms.errors import CommandError
from oms.options import AsJson, StateDir
from oms.output import Colour, print_json, print_parts
from oms.running_system import use_running_system

if TYPE_CHECKING:
    from pathlib import Path

    from oms.checks.findings import Finding
    from shared.settings import Settings

_COLOURS: dict[str, Colour] = {"ok": "green", "warning": "yellow", "wrong": "red"}
_WIDTH = len("warning")


def doctor(as_json: AsJson = False, state_dir: StateDir = None) -> int:
    """Say what is wrong with a deployment, and what to do.

    Looks at settings, database, pooler, Redis, clocks, versions, disks, relay and worker. It changes nothing.
    Exit status: 0 nothing is wrong, there may be warnings; 1 something is.
    """
    findings = _examine(state_dir)
    is_wrong = any(finding.level == "wrong" for finding in findings)
    if as_json:
        print_json({"healthy": not is_wrong, "findings": findings})
    else:
        for finding in findings:
            _show(finding)
        _show_sum(findings)
    return 1 if is_wrong else 0


def _examine(state_dir: Path | None) -> list[Finding]:
    import asyncio

    from oms.checks.configuration import check_settings, read_settings
    from oms.checks.findings import wrong
    from oms.checks.machine import check_clocks, check_disks, check_open_files, check_versions

    findings = [*check_versions(), *check_disks(state_dir)]
    try:
        use_running_system(state_dir)
    except CommandError as error:
        advice = "Or name the deployment's database: OMS_DATABASE_URL, and OMS_REDIS_URL."
        return [*findings, wrong("settings", str(error), advice)]
    settings, faults = read_settings()
    findings += faults
    if settings is None:
        return findings
    findings += [*check_settings(settings), check_open_files(settings.connections)]
    of_servers, ahead = asyncio.run(_examine_servers(settings))
    return [*findings, *of_servers, check_clocks(ahead)]


async def _examine_servers(settings: Settings) -> tuple[list[Finding], dict[str, float]]:
    import asyncio

    from oms.checks.connections import check_connections
    from oms.checks.database import check_database
    from oms.checks.redis import check_redis
    from shared.database.engine import DB

    await DB.start(size=2)
    try:
        of_connections, (of_database, database_ahead), (of_queue, redis_ahead) = await asyncio.gather(
            check_connections(settings), check_database(settings), check_redis()
        )
    finally:
        await DB.stop()
    if settings.broker_address is not None:
        from oms.checks.rabbitmq import check_rabbitmq

        of_queue += await check_rabbitmq(settings.broker_address)
    ahead = {"PostgreSQL": database_ahead, "Redis": redis_ahead}
    known = {name: seconds for name, seconds in ahead.items() if seconds is not None}
    return of_connections + of_database + of_queue, known


def _show(finding: Finding) -> None:
    level = finding.level.ljust(_WIDTH)
    print_parts((level, _COLOURS[finding.level]), f"  {finding.area}: {finding.text}")
    if finding.advice:
        print_parts(f"{' ' * _WIDTH}  {finding.advice}")


def _show_sum(findings: list[Finding]) -> None:
    counts = {level: sum(finding.level == level for finding in findings) for level in _COLOURS}
    sentence: tuple[str, Colour] = ("nothing is wrong", "green")
    if counts["wrong"]:
        sentence = (f"wrong: {counts['wrong']}", "red")
    print_parts(sentence, f"; warnings: {counts['warning']}; ok: {counts['ok']}")
