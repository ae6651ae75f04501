-- Schema "loader", version 1. Each file here is run once, in order, under a lock, by ledger.migrate(); none is ever
-- changed again: what a later version needs is a file of its own.
DO $$
BEGIN  -- IF NOT EXISTS would want CREATE on the database of a role that has been given the schema
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'loader') THEN
        CREATE SCHEMA loader;
    END IF;
END $$;

CREATE TABLE loader.schema_version (version int PRIMARY KEY, installed_at timestamptz NOT NULL DEFAULT now());

-- One row a load. A row in state 'running' whose turn is free belongs to a process that died.
CREATE TABLE loader.loads (
    load_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state          text NOT NULL CHECK (state IN ('running', 'loaded', 'failed')),
    source         text NOT NULL,       -- as it was asked for: s3://bucket/key, or a path
    bucket         text,                -- NULL for a local file
    key            text NOT NULL,       -- object key, or a path
    version        text,                -- VersionId, etag:..., or sha256:... of a local file
    size           bigint NOT NULL,     -- bytes
    last_modified  timestamptz NOT NULL,
    target         text NOT NULL,       -- schema.table
    mode           text NOT NULL,
    forced         boolean NOT NULL,    -- loaded again on purpose
    spec           jsonb NOT NULL,
    rows_read      bigint NOT NULL DEFAULT 0,
    rows_inserted  bigint NOT NULL DEFAULT 0,
    rows_updated   bigint NOT NULL DEFAULT 0,
    rows_unchanged bigint NOT NULL DEFAULT 0,
    rows_duplicate bigint NOT NULL DEFAULT 0,
    rows_filtered  bigint NOT NULL DEFAULT 0,
    rows_rejected  bigint NOT NULL DEFAULT 0,
    bytes_read     bigint NOT NULL DEFAULT 0,
    notes          text[] NOT NULL DEFAULT '{}',
    error          text,
    started_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at    timestamptz,
    CHECK (state <> 'loaded' OR rows_read = rows_inserted + rows_updated + rows_unchanged
                                          + rows_duplicate + rows_filtered + rows_rejected)
);

-- Each version of an object takes effect on a table once, whatever the loader believes.
CREATE UNIQUE INDEX loads_once ON loader.loads (target, coalesce(bucket, ''), (CASE WHEN bucket IS NULL THEN '' ELSE key END), version)
    WHERE state = 'loaded' AND NOT forced;
CREATE INDEX loads_target ON loader.loads (target, state);

-- One row a rejected record.
CREATE TABLE loader.rejects (
    load_id       bigint NOT NULL REFERENCES loader.loads ON DELETE CASCADE,
    record_number bigint NOT NULL,      -- from 1, after the header
    line_number   bigint NOT NULL,      -- physical line, from 1
    byte_offset   bigint NOT NULL,      -- of the record, from 0, in the decompressed UTF-8 text
    column_name   text,
    reason        text NOT NULL,        -- a stable code: see the README
    message       text NOT NULL,
    raw           text NOT NULL,        -- as it stood in the file; bytes that text cannot hold as \xNN
    raw_bytes     bytea,                -- the bytes themselves, where raw had to spell some
    PRIMARY KEY (load_id, record_number)
);
