"""Requests with wrong headers, methods, media types, sizes or routes, and their answers."""

from __future__ import annotations

from tests.wrong_bodies import (
    ADD_SERVICE,
    BATCH,
    CREATE,
    OF_ORDERS,
    OF_SERVICES,
    PATCH,
    PATCH_MANY,
    REPLACE,
    Case,
)

# --- headers, methods, media types, sizes -------------------------------------------------------------

JSON = {"Content-Type": "application/json"}
TOO_MANY_BYTES = (
    *((operation, (1_048_577,)) for operation in (BATCH, PATCH_MANY)),
    *((operation, (65_537, 1_000_000)) for operation in OF_SERVICES),
    *((operation, (524_289, 1_000_000)) for operation in (CREATE, REPLACE, PATCH)),
)
"""Sizes of bodies that are too large. Those of orders may hold all the metadata that an order may have."""
REST = [
    *(
        Case(
            f"{name}: {value!r} on {method} {path}",
            method,
            path,
            400,
            "malformed-request",
            (name,),
            body,
            {**JSON, name: value},
        )
        for name, method, path, body in (
            ("If-Match", "PUT", "/orders/5", REPLACE.body()),
            ("If-Match", "PATCH", "/orders/5", PATCH.body()),
            ("If-Match", "DELETE", "/orders/5", None),
            ("If-None-Match", "GET", "/orders/5", None),
            ("If-None-Match", "PUT", "/orders/5", REPLACE.body()),
            ("If-None-Match", "PATCH", "/orders/5", PATCH.body()),
            ("If-None-Match", "DELETE", "/orders/5", None),
        )
        for value in (
            "1",
            "",
            '"1',
            "W/1",
            'w/"1"',
            '"1" "2"',
            '*, "1"',
            '"1",*',
            ",",
            '"a b"',
            '"1"' + " ," * 500 + "x",
        )
    ),
    *(
        Case(
            f"Idempotency-Key: {value!r}",
            "POST",
            path,
            400,
            "malformed-request",
            ("Idempotency-Key",),
            body,
            {**JSON, "Idempotency-Key": value},
        )
        for path, body in (
            ("/orders", CREATE.body()),
            ("/orders/batch", BATCH.body()),
            ("/services", ADD_SERVICE.body()),
        )
        for value in ("", "a b", "a" * 256, "é", "a\tb")
    ),
    *(
        Case(
            f"{operation.method} {operation.path} as {content_type!r}",
            operation.method,
            operation.path,
            415,
            "unsupported-media-type",
            body=operation.body(),
            headers={"Content-Type": content_type},
        )
        for operation in (*OF_ORDERS, *OF_SERVICES)
        for content_type in (
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/jsonp",
            "application/xml",
        )
    ),
    *(
        Case(
            f"{path} as a merge patch",
            "POST",
            path,
            415,
            "unsupported-media-type",
            body=body,
            headers={"Content-Type": "application/merge-patch+json"},
        )
        for path, body in (("/orders", CREATE.body()), ("/services", ADD_SERVICE.body()))
    ),
    *(
        Case(
            f"{operation.method} {operation.path} gzip",
            operation.method,
            operation.path,
            415,
            "unsupported-media-type",
            body=b"\x1f\x8b",
            headers={"Content-Type": operation.content_type, "Content-Encoding": "gzip"},
        )
        for operation in (*OF_ORDERS, *OF_SERVICES)
    ),
    *(
        Case(
            f"{operation.method} {operation.path} of {size} bytes",
            operation.method,
            operation.path,
            413,
            "body-too-large",
            body=b" " * size,
            headers={"Content-Type": operation.content_type},
        )
        for operation, sizes in TOO_MANY_BYTES
        for size in sizes
    ),
    *(
        Case(
            f"{method} {path} accepting {accept}",
            method,
            path,
            406,
            "not-acceptable",
            body=body,
            headers={**JSON, "Accept": accept},
        )
        for method, path, body in (
            ("GET", "/orders", None),
            ("POST", "/orders", CREATE.body()),
            ("PUT", "/orders/5", REPLACE.body()),
            ("GET", "/services", None),
            ("GET", "/openapi.yaml", None),
            ("GET", "/docs", None),
            ("GET", "/health/live", None),
        )
        for accept in ("application/xml", "audio/*", "*/*;q=0", "application/jsonp", "json")
    ),
    *(
        Case(f"{method} {path}", method, path, 405, "method-not-allowed")
        for method, path in (
            *(
                ("DELETE", "/orders"),
                ("PUT", "/orders"),
                ("PATCH", "/orders"),
                ("TRACE", "/orders"),
                ("FOO", "/orders"),
            ),
            *(("POST", "/orders/5"), ("GET", "/orders/batch"), ("PUT", "/orders/batch")),
            *(
                ("DELETE", "/orders/batch"),
                ("TRACE", "/orders/batch"),
                ("PATCH", "/services/5"),
                ("POST", "/calendars"),
            ),
            *(
                ("POST", "/fee-summaries"),
                ("POST", "/health/live"),
                ("DELETE", "/docs"),
                ("PUT", "/problems/not-found"),
            ),
        )
    ),
    *(
        Case(f"{method} {path}", method, path, 404, "not-found")
        for path in (
            "/order",
            "/orders/5/services",
            "/nope/%FF",
            "/nope?%FF",
            "/calendars/a/b",
            "/%00",
            "/.env",
            "/docs/../api",
            "/problems/nope",
            "/docs/package.json",
            "/orders%2F5",
            "/orders/5%2F",
            "/orders/",
            "/orders/5/",
            "/orders//5",
        )
        for method in ("GET", "OPTIONS")
        if method == "GET" or path in ("/order", "/nope?%FF", "/.env")
    ),
]
