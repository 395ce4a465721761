"""The same API as an ASGI application with nothing but asyncpg and orjson: what Python can do here.

granian --interface asgi --workers 2 app:app
"""

import os
from datetime import datetime
from decimal import Decimal
from urllib.parse import parse_qsl

import asyncpg
import orjson

SERVICES = "SELECT id, name FROM service WHERE id = ANY($1::bigint[]) ORDER BY id"
INSERT = """
INSERT INTO orders (datetime, totalfee, services, calendar) VALUES ($1, $2, $3, $4) RETURNING *
"""
CHANGE = "INSERT INTO order_change (type, order_id, order_state) VALUES ('order.created', $1, $2)"
GET = "SELECT * FROM orders WHERE id = $1"
LIST = "SELECT * FROM orders WHERE datetime >= $1 ORDER BY datetime, id LIMIT $2"

pool: asyncpg.Pool


def show(row):
    return {
        "id": str(row["id"]),
        "datetime": row["datetime"],
        "totalfee": float(row["totalfee"]),
        "services": row["services"],
        "calendar": row["calendar"],
        "version": row["version"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


async def set_codec(connection):
    await connection.set_type_codec(
        "jsonb", encoder=lambda value: orjson.dumps(value).decode(), decoder=orjson.loads, schema="pg_catalog"
    )


async def create(body):
    data = orjson.loads(body)
    ids = [int(service["id"]) for service in data["services"]]
    try:
        async with pool.acquire() as connection, connection.transaction():
            services = [
                {"id": str(s["id"]), "name": s["name"]} for s in await connection.fetch(SERVICES, ids)
            ]
            if len(services) != len(ids):
                return 422, {"detail": "A service is unknown."}
            row = await connection.fetchrow(
                INSERT,
                datetime.fromisoformat(data["datetime"]),
                Decimal(str(data["totalfee"])),
                services,
                data.get("calendar", "default"),
            )
            order = show(row)
            await connection.execute(CHANGE, row["id"], order)
    except asyncpg.ExclusionViolationError:
        return 409, {"detail": "Another order is less than three hours away."}
    return 201, order


async def get(order_id):
    row = await pool.fetchrow(GET, order_id)
    return (200, show(row)) if row else (404, {"detail": "There is no such order."})


async def list_orders(query):
    parameters = dict(parse_qsl(query.decode()))
    start = datetime.fromisoformat(parameters.get("from", "1970-01-01T00:00:00Z"))
    rows = await pool.fetch(LIST, start, int(parameters.get("limit", 50)))
    return 200, {"items": [show(row) for row in rows]}


async def lifespan(receive, send):
    global pool
    await receive()
    pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=8, max_size=8, init=set_codec)
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await pool.close()
    await send({"type": "lifespan.shutdown.complete"})


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    method, path = scope["method"], scope["path"]
    if path == "/orders" and method == "POST":
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        status, content = await create(body)
    elif path == "/orders" and method == "GET":
        status, content = await list_orders(scope["query_string"])
    elif path.startswith("/orders/") and method == "GET":
        status, content = await get(int(path[8:]))
    else:
        status, content = 404, {"detail": "Not found."}
    text = orjson.dumps(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})
