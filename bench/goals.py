"""Which rates are divided by which, and how large each ratio is to be."""

from __future__ import annotations

from bench.figures import Ratio

OURS = "this service"
BARE = "bare ASGI + asyncpg"
FASTAPI = "FastAPI + SQLAlchemy 2"
DJANGO = "Django REST Framework"
EXPRESS = "Express + Sequelize"
PLAIN_STATEMENT = "pgbench, the plainest statement"
OWN_STATEMENT = "pgbench, this service's statement"
CONTESTANTS = (OURS, PLAIN_STATEMENT, OWN_STATEMENT, BARE, FASTAPI, DJANGO, EXPRESS)

CREATE, REFUSED, GET, NOT_MODIFIED, LIST = "create", "refused create", "get", "get, 304", "list of 50"
PUT, PATCH, DELETE = "PUT", "PATCH", "DELETE"

WORKS = (CREATE, REFUSED, GET, NOT_MODIFIED, LIST, PUT, PATCH, DELETE)
"""In the order in which they are measured: DELETE deletes what CREATE created."""

RATIOS = (
    Ratio((OURS, CREATE), (BARE, CREATE), 0.85),
    Ratio((OURS, CREATE), (OWN_STATEMENT, CREATE), 0.5),
    Ratio((OURS, CREATE), (FASTAPI, CREATE), 5),
    Ratio((OURS, CREATE), (EXPRESS, CREATE), 5),
    Ratio((OURS, CREATE), (DJANGO, CREATE), 5),
    Ratio((OURS, GET), (BARE, GET), 1.0),
    Ratio((OURS, GET), (FASTAPI, GET), 8),
    Ratio((OURS, LIST), (BARE, LIST), 1.2),
    Ratio((OURS, LIST), (FASTAPI, LIST), 8),
    Ratio((OURS, REFUSED), (OURS, CREATE), 0.6),
    Ratio((OURS, PUT), (OURS, CREATE), 0.6),
    Ratio((OURS, PATCH), (OURS, CREATE), 0.6),
    Ratio((OURS, DELETE), (OURS, CREATE), 0.6),
    Ratio((OURS, NOT_MODIFIED), (OURS, GET), 1.1),
)

PIPELINE_GOALS = {
    "visible_p50_ms": ("commit to summary visible, median, at half load", "ms", "≤", 15),
    "visible_p99_ms": ("commit to summary visible, 99th percentile", "ms", "≤", 60),
    "idle_percent": ("CPU of relay and worker while idle, of one core", "%", "≤", 1),
    "backlog_per_second": ("backlog, relay and both consumers", "changes/s", "≥", 25_000),
    "create_per_second": ("create, while relay and worker run", "/s", "", None),
    "api_process_mb": ("memory of an API process (RSS)", "MB", "≤", 90),
    "worker_child_mb": ("memory of a worker child (RSS)", "MB", "≤", 90),
    "import_per_second": ("import of 60,000 orders, the whole command", "orders/s", "≥", 20_000),
    "import_mb": ("memory of that command (RSS)", "MB", "", None),
    "start_seconds": ("start of `make run` to ready, a new database", "s", "≤", 4),
    "restart_seconds": ("start of `make run` to ready, an existing one", "s", "≤", 4),
}
"""What is measured once: its meaning, unit, and what it is to be."""
