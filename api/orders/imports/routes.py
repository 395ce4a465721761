"""The HTTP routes of imports: a file of orders, all or none, and what was imported before."""

from __future__ import annotations

from typing import Any

from litestar import Response, post, route
from litestar.exceptions.http_exceptions import RequestEntityTooLarge

from api.http.access import require_scope
from api.http.attribution import read_attribution
from api.http.bodies import read_file_body
from api.http.json_text import encode
from api.http.pages import answer_page, limit_of, read_cursor
from api.http.parameters import PAGING, Query, query_of, read_boolean
from api.http.problem_types import BODY_TOO_LARGE
from api.http.problems import Fault, ProblemError, invalid, malformed
from api.http.request import READ, AnyRequest
from api.http.responses import BytesResponse
from api.http.scopes import ORDERS_READ, ORDERS_WRITE, SERVICES_MANAGE
from api.http.texts import visible_text
from api.http.times import utc_text
from api.orders.answers import is_dry_run_of
from api.orders.errors import ImportTooSlowError
from api.orders.imports import queries
from api.orders.imports.faults import FaultReport
from api.orders.imports.files import UnreadableFileError
from api.orders.imports.uploads import (
    FORMATS,
    LARGEST_FILE_BYTES,
    LONGEST_SECONDS,
    RefusedFileError,
    import_upload,
)
from shared.database.transaction import roll_back_if

_QUERY = Query({"dry_run": read_boolean, "file_name": visible_text(200)})


@post("/imports", request_max_body_size=LARGEST_FILE_BYTES, opt={"scope": ORDERS_WRITE, "query": _QUERY})
async def import_file(request: AnyRequest) -> Response[bytes]:
    """Store all orders of a file, or none; a file that was imported before is not imported again."""
    # Orders of one import may be nearer to each other than the spacing, so its caller may change spacings.
    require_scope(request, SERVICES_MANAGE)
    attribution = read_attribution(request)
    is_dry_run = is_dry_run_of(request)
    try:
        media_type, content = await read_file_body(request, tuple(FORMATS))
        with roll_back_if(is_dry_run=is_dry_run):
            name = query_of(request).get("file_name", "")
            file, imported = await import_upload(
                content, media_type, name, attribution, is_dry_run=is_dry_run
            )
    except RequestEntityTooLarge:
        raise _too_large() from None
    except ImportTooSlowError:
        raise _too_slow() from None
    except UnreadableFileError as error:
        raise malformed(Fault(error.reason)) from None
    except RefusedFileError as refusal:
        raise _refused(refusal.faults) from None
    is_stored = imported.before or not is_dry_run
    answer: dict[str, Any] = {
        "id": str(imported.id) if is_stored else None,
        "file_name": file.name or None,
        "sha256": file.sha256,
        "orders": imported.orders,
        "imported_at": utc_text(imported.at) if is_stored else None,
        "imported_before": imported.before,
    }
    is_new = is_stored and not imported.before
    return BytesResponse(encode(answer), status_code=201 if is_new else 200)


def _too_large() -> ProblemError:
    return ProblemError(
        BODY_TOO_LARGE,
        f"A file may have {LARGEST_FILE_BYTES:,} bytes here; the command `oms import` takes larger ones.",
        headers={"Connection": "close"},  # as every 413: what is not read of the body stays in the way
    )


def _too_slow() -> ProblemError:
    return ProblemError(
        BODY_TOO_LARGE,
        f"Storing this file took longer than {LONGEST_SECONDS} s, so nothing was stored; split it, or use "
        "the command `oms import`.",
    )


def _refused(faults: FaultReport) -> ProblemError:
    named = [
        Fault(fault.detail, pointer=f"#/{fault.row}{fault.pointer}", line=fault.line)
        for fault in faults.shown
    ]
    return invalid(*named, count=faults.count)


@route("/imports", http_method=READ, opt={"scope": ORDERS_READ, "query": Query(PAGING)})
async def list_imports(request: AnyRequest) -> Response[bytes]:
    """List the files that were imported, newest first."""
    before = read_cursor(request, queries.read_place)
    return answer_page(request, await queries.list_imports(before, limit_of(request)))


ROUTES = [import_file, list_imports]
