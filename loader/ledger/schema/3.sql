-- Version 3: loads that are continued. A row is one version of an object on its way into one table, however many
-- attempts that takes. A process of version 2 may go on writing.
ALTER TABLE loader.loads
    DROP CONSTRAINT loads_state_check,
    ADD CONSTRAINT loads_state_check CHECK (state IN ('running', 'paused', 'loaded', 'superseded', 'failed')),
    ALTER COLUMN size DROP NOT NULL,           -- NULL: it could not even be opened
    ALTER COLUMN last_modified DROP NOT NULL,
    ADD COLUMN sequencer  text,                             -- of the S3 event: orders the versions of one key
    ADD COLUMN follows    bigint NOT NULL DEFAULT 0,        -- the load of another version after which this one came back
    ADD COLUMN pin        text,                             -- what has to be the same for a load to be continued: of the
    ADD COLUMN fingerprint text,                            -- ... object, and of the spec
    ADD COLUMN applied    bigint,                           -- loads into one target are numbered as they took effect
    ADD COLUMN attempts   int NOT NULL DEFAULT 1,
    ADD COLUMN handovers  int NOT NULL DEFAULT 0,           -- attempts that stopped because their time was up
    ADD COLUMN resumes    int NOT NULL DEFAULT 0,           -- attempts that took up at a checkpoint
    ADD COLUMN waited     double precision NOT NULL DEFAULT 0,  -- seconds, for its table's turn, in all attempts
    ADD COLUMN retryable  boolean NOT NULL DEFAULT false,   -- of a failure: the same again may succeed
    ADD COLUMN last_error text,                             -- of whichever attempt had one last
    ADD COLUMN seen_at    timestamptz NOT NULL DEFAULT clock_timestamp();  -- the last sign of life

UPDATE loader.loads SET last_error = error, seen_at = coalesce(finished_at, started_at),
                        applied = CASE WHEN state = 'loaded' THEN load_id END;

-- How far the staging table of a load can be trusted. UNLOGGED like that table: after a crash PostgreSQL empties both.
CREATE UNLOGGED TABLE loader.checkpoints (
    load_id       bigint PRIMARY KEY REFERENCES loader.loads ON DELETE CASCADE,
    plan          text NOT NULL,        -- a digest of all that decides what staged rows look like
    found         json NOT NULL,        -- what earlier attempts found out about the file and the table
    byte_offset   bigint NOT NULL,      -- of the next record, in the file's text; records before it are staged or rejected
    record_number bigint NOT NULL,      -- of the next record
    line_number   bigint NOT NULL,      -- physical line of the next record
    fields        int,                  -- of a record; NULL: the next one is to tell
    tally         json NOT NULL,        -- records read, kept, filtered, mended
    complete      boolean NOT NULL,     -- the whole file is staged
    taken_at      timestamptz NOT NULL DEFAULT clock_timestamp()
);

DROP INDEX loader.loads_once;
CREATE UNIQUE INDEX loads_once ON loader.loads (target, coalesce(bucket, ''), (CASE WHEN bucket IS NULL THEN '' ELSE key END), version, follows)
    WHERE state = 'loaded' AND NOT forced AND replay_of IS NULL;
