"""Requests with malformed paths or queries, and their answers."""

from __future__ import annotations

from tests.wrong_bodies import Case

WINDOW = "from=2030-06-01T00:00:00Z&to=2030-06-02T00:00:00Z"


def wrong_address(method: str, path: str, *places: str) -> Case:
    """Build a request with a malformed path or query."""
    return Case(f"{method} {path}", method, path, 400, "malformed-request", places)


# --- paths and queries: 400 --------------------------------------------------------------------------

INVALID_PATH_IDS = (
    *(
        "abc",
        "0",
        "-1",
        "1_000",
        "+5",
        "%2B5",
        "%00",
        "5%00",
        "%D9%A3",
        "٣",
        "12345678901234567890",
        "05",
        "5.0",
    ),
    *(
        "9223372036854775808",
        "%20",
        "5%20",
        "5%0a",
        "1e3",
        "0x5",
        "%FF",
        "5%FF",
        "%ED%A0%80",
        "%C0%80",
        "null",
        "*",
    ),
    *("1%20OR%201=1", "'", "%EF%BB%BF5", "9" * 1_000),
)
INVALID_LIMITS = (
    "0",
    "101",
    "-1",
    "+5",
    "1_0",
    "05.0",
    "%D9%A3",
    "",
    "abc",
    "1e1",
    "NaN",
    "9" * 5_000,
    "%00",
    "%FF",
)
INVALID_QUERY_TIMES = (
    "",
    "now",
    "2030-06-01",
    "2030-06-01T12:00:00",
    "2030-02-30T12:00:00Z",
    "1969-12-31T23:59:59Z",
    "2200-01-01T00:00:00Z",
    "2030-06-01T12:00:00+05:30",
    "2030-06-01T12:00:00Z%00",
    "%FF",
    "9" * 5_000,
)
INVALID_CURSORS = ("", "abc", "%00", "%FF", "W10", "bnVsbA", "MQ", "=", "a" * 5_000, "W1tbW1tb")

ADDRESSES = [
    *(
        wrong_address(method, f"/orders/{text}", "order_id")
        for text in INVALID_PATH_IDS
        for method in ("GET", "PUT", "PATCH", "DELETE")
    ),
    *(
        wrong_address(method, f"/services/{text}", "service_id")
        for text in INVALID_PATH_IDS
        for method in ("GET", "PUT", "DELETE")
    ),
    *(
        wrong_address("GET", f"/calendars/{text}/availability?{WINDOW}", "calendar")
        for text in ("%00", "%FF", "-a", "a%20b", "%C3%A9", "a" * 65, "%ED%A0%80")
    ),
    *(
        wrong_address("GET", f"{path}?limit={text}", "limit")
        for text in INVALID_LIMITS
        for path in ("/orders", "/services", "/calendars", "/fee-summaries")
    ),
    *(
        wrong_address("GET", f"/orders?{name}={text}", name)
        for text in INVALID_QUERY_TIMES
        for name in ("from", "to")
    ),
    *(
        wrong_address("GET", f"/calendars/a/availability?from={text}&to=2030-06-02T00:00:00Z", "from")
        for text in INVALID_QUERY_TIMES
    ),
    *(
        wrong_address("GET", f"/fee-summaries?from={text}", "from")
        for text in ("", "2030-02-30", "2030-6-1", "1969-12-31x", "%D9%A3", "20300601", "%00")
    ),
    *(
        wrong_address("GET", f"/orders?service={text}", "service")
        for text in ("", "abc", "0", "-1", "1_000", "%2B5", "%00", "%D9%A3", "12345678901234567890")
    ),
    *(
        wrong_address("GET", f"/orders?calendar={text}", "calendar")
        for text in ("", "%00", "%FF", "a%20b", "%C3%A9", "a" * 65, "%ED%A0%80")
    ),
    *(
        wrong_address("GET", f"/orders?sort={text}", "sort")
        for text in ("", "fee", "--id", "ID", "datetime,id", "%00", "created_at", "updated_at,id")
    ),
    *(
        wrong_address("GET", f"{path}?{name}={text}", name)
        for text in INVALID_QUERY_TIMES
        for name, path in (("created_after", "/orders"), ("updated_after", "/orders/export"))
    ),
    *(
        wrong_address("GET", f"{path}?{query}", name)
        for path in ("/orders", "/orders/export")
        for query, name in (
            *((f"status={text}", "status") for text in ("", "Booked", "canceled", "booked,cancelled")),
            *((f"reference={text}", "reference") for text in ("", "%20a", "a%00", "%E2%80%8B", "a" * 65)),
            *((f"id={text}", "id") for text in ("", "x", "0", "-1", "1e3", "12345678901234567890")),
            ("&".join(f"id={n}" for n in range(1, 102)), "id"),
            ("&".join(f"service={n}" for n in range(1, 22)), "service"),
            ("calendar=a&calendar=b&calendar=a", "calendar"),
            ("service=5&service=5", "service"),
            ("metadata=web", "metadata"),
            ("metadata[]=web", "metadata[]"),
            ("metadata[%20a]=web", "metadata[ a]"),
            (f"metadata[{'k' * 41}]=web", f"metadata[{'k' * 41}]"),
            (f"metadata[source]={'v' * 501}", "metadata[source]"),
            ("metadata[source]=%00", "metadata[source]"),
            ("metadata[source]=web&metadata%5Bsource%5D=phone", "metadata[source]"),
            ("&".join(f"metadata[k{n}]=v" for n in range(21)), "metadata"),
            ("Metadata[source]=web", "Metadata[source]"),
            ("metadata[source=web", "metadata[source"),
            ("sort[x]=id", "sort[x]"),
        )
    ),
    *(
        wrong_address("GET", f"/orders?count={text}", "count")
        for text in ("", "true", "Exact", "planned", "%00")
    ),
    *(
        wrong_address("POST", f"/orders?dry_run={text}", "dry_run")
        for text in ("", "1", "yes", "True", "%00", "%FF")
    ),
    *(
        wrong_address("GET", f"/services?include_archived={text}", "include_archived")
        for text in ("", "1", "TRUE")
    ),
    *(
        wrong_address(method, f"{path}?{query}", name)
        for query, name in (
            ("colour=red", "colour"),
            ("%FF=1", "%FF"),
            ("%00=1", "\0"),
            ("=1", ""),
            ("Limit=1", "Limit"),
        )
        for method, path in (
            *(("GET", "/orders"), ("POST", "/orders"), ("POST", "/orders/batch"), ("GET", "/orders/5")),
            *(("PUT", "/orders/5"), ("PATCH", "/orders/5"), ("DELETE", "/orders/5"), ("GET", "/services")),
            *(
                ("POST", "/services"),
                ("GET", "/services/5"),
                ("PUT", "/services/5"),
                ("DELETE", "/services/5"),
            ),
            *(("GET", "/calendars"), ("GET", "/fee-summaries"), ("GET", "/problems/not-found")),
            *(("GET", "/openapi.yaml"), ("GET", "/openapi.json"), ("GET", "/docs")),
            *(("GET", "/health/live"), ("GET", "/health/ready"), ("GET", "/docs/start.js")),
        )
    ),
    wrong_address("GET", "/orders?limit=1&limit=1", "limit"),
    wrong_address("GET", "/orders?limit=1&%6Cimit=2", "limit"),
    wrong_address("POST", "/orders?dry_run=true&dry_run=false", "dry_run"),
    wrong_address(
        "GET",
        "/orders?limit=0&calendar=&colour=red&from=now&to=%FF",
        "limit",
        "calendar",
        "colour",
        "from",
        "to",
    ),
    wrong_address("GET", "/orders?from=2030-06-02T00:00:00Z&to=2030-06-01T00:00:00Z", "from"),
    wrong_address("GET", "/calendars/a/availability", "from"),
    wrong_address(
        "GET", "/calendars/a/availability?from=2030-06-02T00:00:00Z&to=2030-06-01T00:00:00Z", "from"
    ),
    wrong_address(
        "GET", "/calendars/a/availability?from=2030-06-01T00:00:00Z&to=2030-07-03T00:00:00.000001Z", "to"
    ),
    wrong_address("GET", "/problems/%FF", "slug"),
    *(
        Case(
            f"GET {path}?cursor={text}",
            "GET",
            f"{path}?cursor={text}",
            400,
            "malformed-request" if text == "%FF" else "invalid-cursor",
        )
        for text in INVALID_CURSORS
        for path in ("/orders", "/services", "/calendars", "/fee-summaries")
    ),
]
