-- Tickets for the live stream. How the schema is today, and why: shared/database/schema.sql.

CREATE TABLE stream_ticket (
    hash bytea PRIMARY KEY,
    caller text NOT NULL,
    key_id text,
    key_hash bytea,
    token_ends_at timestamptz,
    expires_at timestamptz NOT NULL,

    CONSTRAINT stream_ticket_hash CHECK (length(hash) = 32),
    CONSTRAINT stream_ticket_key CHECK ((key_id IS NULL) = (key_hash IS NULL))
);
CREATE INDEX stream_ticket_by_expiry ON stream_ticket (expires_at);
