-- What every peer stores, and the rule that every peer keeps: the plainest schema that has both.

CREATE EXTENSION btree_gist;

CREATE TABLE service (id bigint PRIMARY KEY, name text NOT NULL);

CREATE TABLE orders (
    id bigserial PRIMARY KEY,
    datetime timestamptz NOT NULL,
    totalfee numeric(12, 2) NOT NULL,
    services jsonb NOT NULL,  -- [{"id": "123", "name": "Inspection"}]: the names as they were when it was ordered
    calendar text NOT NULL,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),

    -- Three hours between two orders on a calendar. In UTC, since an expression of an index must be immutable.
    CONSTRAINT orders_spacing EXCLUDE USING gist (
        calendar WITH =,
        tsrange(datetime AT TIME ZONE 'UTC', datetime AT TIME ZONE 'UTC' + interval '3 hours') WITH &&
    )
);
CREATE INDEX orders_by_datetime ON orders (datetime, id);

-- A row for every change, written in the transaction that makes it.
CREATE TABLE order_change (
    id bigserial PRIMARY KEY,
    type text NOT NULL,
    order_id bigint NOT NULL,
    order_state jsonb NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT now()
);
