-- Version 5: one object by many workers. While its shards are being loaded, nobody holds its table's turn; the load is
-- in state 'sharded' then, and what vouches for its parts of the staging are the rows of loader.shards.
ALTER TABLE loader.loads
    DROP CONSTRAINT loads_state_check,
    ADD CONSTRAINT loads_state_check
        CHECK (state IN ('running', 'paused', 'sharded', 'loaded', 'superseded', 'failed')),
    ADD COLUMN shard_plan json,   -- of the attempt that is in progress: the object's version, the ranges, what proves them
    ADD COLUMN shards     json;   -- in the end: how many, how many beginnings were guessed, wrong, re-run; the slowest

CREATE SEQUENCE loader.shard_runs;  -- logged: a crash must not make a run take the name of an earlier one's table

-- One row a run of a shard. UNLOGGED like the staging it vouches for: after a crash PostgreSQL empties both. It refers
-- to loader.loads by no foreign key, so that whoever empties the ledger can do so as before.
CREATE UNLOGGED TABLE loader.shards (
    run         bigint PRIMARY KEY DEFAULT nextval('loader.shard_runs'),
    load_id     bigint NOT NULL,
    attempt     int NOT NULL,
    number      int NOT NULL,     -- of the shard, from 0
    report      json,             -- NULL: it is not through, or died
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
CREATE INDEX shards_load ON loader.shards (load_id, attempt, number);

-- Rejects of shards, until it is known how many records come before each.
CREATE UNLOGGED TABLE loader.shard_rejects (
    run           bigint NOT NULL REFERENCES loader.shards ON DELETE CASCADE,
    record_number bigint NOT NULL,      -- within the shard, from 1
    line_number   bigint NOT NULL,      -- within the shard, from 1
    byte_offset   bigint NOT NULL,      -- in the whole text
    column_name   text,
    reason        text NOT NULL,
    sqlstate      text,
    message       text NOT NULL,
    raw           text NOT NULL,
    raw_bytes     bytea,
    raw_length    bigint,
    PRIMARY KEY (run, record_number)
);
