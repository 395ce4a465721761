-- API keys. How the schema is today, and why: shared/database/schema.sql.

CREATE TABLE api_key (
    id text PRIMARY KEY,
    name text NOT NULL,
    scopes text[] NOT NULL,
    secret_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,

    CONSTRAINT api_key_id CHECK (id ~ '^[0-9A-Za-z]{1,32}$'),
    CONSTRAINT api_key_name CHECK (name ~ '^[A-Za-z0-9._-]{1,64}$'),
    CONSTRAINT api_key_scopes CHECK (
        cardinality(scopes) > 0 AND scopes <@ ARRAY[
            'orders:read', 'orders:write', 'changes:read', 'summaries:read', 'webhooks:manage', 'services:manage',
            'keys:manage'
        ]
    ),
    CONSTRAINT api_key_secret_hash CHECK (length(secret_hash) = 32)
);
CREATE UNIQUE INDEX api_key_name_in_use ON api_key (name) WHERE revoked_at IS NULL;

CREATE TABLE api_key_old_secret (
    key_id text NOT NULL REFERENCES api_key ON DELETE CASCADE,
    secret_hash bytea NOT NULL,
    valid_until timestamptz NOT NULL,
    PRIMARY KEY (key_id, secret_hash)
);
