"""``oms import``: a file of orders becomes one import, all or nothing."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from oms.errors import CommandError
from oms.options import AsJson, StateDir
from oms.output import print_json
from oms.running_system import use_running_system
from shared.command_output import print_line

if TYPE_CHECKING:
    from api.orders.imports.commands import Imported
    from api.orders.imports.faults import FaultReport


def import_orders(
    file: Annotated[
        Path,
        typer.Argument(help="Orders as POST /orders takes them or exports have them: JSON, NDJSON or CSV."),
    ],
    services: Annotated[
        Path | None, typer.Option("--services", help='Services: {"id": 123, "name": "…"}, likewise.')
    ] = None,
    report: Annotated[
        Path | None, typer.Option("--report", help="Write every fault to this file, as JSON.")
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why, for the history of the orders.")
    ] = None,
    only_if_empty: Annotated[
        bool,
        typer.Option(
            "--only-if-empty",
            help="Do nothing if there are, or were, orders or changes, or there are services.",
        ),
    ] = False,
    as_json: AsJson = False,
    state_dir: StateDir = None,
) -> int:
    """Load a file of orders, all or none.

    They may have a history of their own. If the file was imported before, its orders are not stored again;
    services are added all the same. Exit status: 0 imported, or nothing to do; 1 refused, or the database is
    unavailable; 2 a file can't be read.
    """
    use_running_system(state_dir)
    from api.http.texts import read_reason
    from api.orders.imports.faults import FaultReport

    try:
        reason = read_reason(reason) if reason is not None else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--reason") from None
    try:
        report_file = report.open("wb") if report else None
    except OSError as error:
        raise CommandError(f"{report}: {error.strerror}", 2) from None
    with report_file or nullcontext():
        faults = FaultReport(report_file)
        status = _import(file, services, faults, reason, only_if_empty=only_if_empty, as_json=as_json)
        faults.close()
    return status


def _import(
    file: Path,
    services: Path | None,
    faults: FaultReport,
    reason: str | None,
    *,
    only_if_empty: bool,
    as_json: bool,
) -> int:
    from api.orders.errors import ContentionError, ImportRefusedError
    from api.orders.import_files import import_files
    from api.orders.imports.commands import NotEmptyError
    from api.orders.imports.files import UnreadableFileError
    from shared.database.engine import DatabaseUnavailableError

    try:
        imported = import_files(file, services, faults, reason=reason, only_if_empty=only_if_empty)
    except UnreadableFileError as error:
        raise CommandError(str(error), 2) from None
    except NotEmptyError:
        if as_json:
            print_json(
                {"file": str(file), "imported": 0, "services_added": 0, "skipped": "not a new database"}
            )
        else:
            print_line(f"{file} was not imported, as the database is not new: nothing to do")
        return 0
    except ImportRefusedError:
        lines = list(faults.page())
        if as_json:
            print_json({"error": lines[-1], "faults": lines[:-1]})
        else:
            for line in lines:
                print_line(line, level="error")
        return 1
    except (ContentionError, DatabaseUnavailableError) as error:
        raise CommandError(f"nothing was imported, try again: {error}") from None
    if as_json:
        print_json(_result(file, imported))
    else:
        print_line(_sentence(file, imported))
    return 0


def _result(file: Path, imported: Imported) -> dict[str, Any]:
    from api.http.times import utc_text

    return {
        "file": str(file),
        "imported": 0 if imported.before else imported.orders,
        "services_added": imported.services_added,
        "imported_before_at": utc_text(imported.at) if imported.before else None,
    }


def _sentence(file: Path, imported: Imported) -> str:
    from api.http.times import utc_text

    services = f"; services added: {imported.services_added:,}" if imported.services_added else ""
    if imported.before:
        return f"{file} was imported before, on {utc_text(imported.at)}{services or ': nothing to do'}"
    return f"imported {imported.orders:,} orders from {file}{services}"
