"""``oms verify``: prove that what is stored twice says the same twice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oms.options import AsJson, StateDir
from oms.output import print_json
from oms.running_system import use_running_system
from shared.command_output import print_line

if TYPE_CHECKING:
    from collections.abc import Callable

    Report = Callable[[str], None]

FAILED = 2
"""The exit status if something could not be proved."""


class Subject(StrEnum):
    """What is proved."""

    SUMMARIES = "summaries"
    TEXTS = "texts"
    PLACES = "places"


@dataclass(frozen=True)
class Result:
    """The result of one proof."""

    faults: int
    sentence: str
    figures: dict[str, Any]


async def _prove_summaries(report: Report) -> Result:
    from shared.progress import ProgressLine
    from worker.fee_summaries.proof import prove

    proof = await prove(ProgressLine("verify"), lambda difference: report(str(difference)))
    extent = f"{proof.orders:,} orders at position {proof.position:,}, in {proof.seconds:.1f} s"
    return Result(
        proof.differing,
        f"verify: {proof.differing:,} fee summaries do not match the orders ({extent}); "
        "`make rebuild` rebuilds them"
        if proof.differing
        else f"every fee summary matches the orders, to the cent: {extent}",
        {"orders": proof.orders, "position": proof.position, "seconds": round(proof.seconds, 3)},
    )


async def _prove_texts(report: Report) -> Result:
    from shared.progress import ProgressLine
    from worker.order_texts import compare_texts

    proof = await compare_texts(
        lambda order_id: report(f"order {order_id}: its stored text is not what its row says"),
        ProgressLine("verify"),
    )
    return Result(
        proof.differing,
        f"verify: {proof.differing:,} of {proof.orders:,} orders have texts that their rows do not say"
        if proof.differing
        else f"every order's stored text is what its row says: {proof.orders:,} orders",
        {"orders": proof.orders},
    )


async def _prove_places(report: Report) -> Result:
    from shared.progress import ProgressLine
    from worker.order_places import compare_places

    proof = await compare_places(report, ProgressLine("verify"))
    return Result(
        proof.faults,
        f"verify: {proof.faults:,} faults in the places of {proof.orders:,} orders on their calendars"
        if proof.faults
        else f"every booked order keeps its calendar's spacing: {proof.orders:,} orders",
        {"orders": proof.orders},
    )


_PROOFS = {
    Subject.SUMMARIES: _prove_summaries,
    Subject.TEXTS: _prove_texts,
    Subject.PLACES: _prove_places,
}


def verify(
    subject: Annotated[
        Subject | None,
        typer.Argument(help="What to prove: fee summaries, orders' texts or their places. All by default."),
    ] = None,
    as_json: AsJson = False,
    state_dir: StateDir = None,
) -> int:
    """Prove that the stored data agrees with the orders.

    Fee summaries equal the orders, orders' texts their rows, and their places keep the spacing. Everything is
    recomputed while it is in use. Exit status: 0 all is right; 1 something differs, and is listed; 2
    something could not be proved.
    """
    use_running_system(state_dir)
    status, results = 0, []
    for name in [subject] if subject else Subject:
        result = _verify_one(name, as_json=as_json)
        results.append(result.shown)
        status = max(status, result.status)
        if result.is_last:
            break
    if as_json:
        print_json({"proofs": results})
    return status


@dataclass(frozen=True)
class _Verified:
    status: int
    shown: dict[str, Any]
    is_last: bool = False
    """Whether the other proofs would fail too, in the same words."""


def _verify_one(subject: Subject, *, as_json: bool) -> _Verified:
    import asyncpg

    from shared.database.engine import DatabaseReadOnlyError, DatabaseUnavailableError
    from shared.database.one_connection import run_on_database

    faults: list[str] = []
    report = faults.append if as_json else print_line
    try:
        result = run_on_database(lambda: _PROOFS[subject](report))
    except (DatabaseUnavailableError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        if not as_json:
            print_line(f"verify: the proof failed: {error}", level="error")
        # A read-only database can't store a proof, and the other two are not stored.
        is_last = isinstance(error, DatabaseUnavailableError) and not isinstance(error, DatabaseReadOnlyError)
        return _Verified(FAILED, {"proof": subject, "error": str(error)}, is_last)
    if not as_json:
        print_line(result.sentence, level="error" if result.faults else "info")
    shown = {"proof": subject, **result.figures, "faults": result.faults, "listed": faults}
    return _Verified(1 if result.faults else 0, shown)
