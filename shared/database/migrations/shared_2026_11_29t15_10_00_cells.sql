-- One row, or none: the cell that this installation is. See shared/database/schema.sql.
CREATE TABLE cell (
    id integer PRIMARY KEY CHECK (id = 1),
    name text NOT NULL,
    number integer NOT NULL,
    starts_after bigint NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,

    CONSTRAINT cell_name CHECK (name ~ '^[a-z0-9]([a-z0-9-]*[a-z0-9])?$' AND length(name) <= 32),
    CONSTRAINT cell_number CHECK (number BETWEEN 1 AND 99)
);
