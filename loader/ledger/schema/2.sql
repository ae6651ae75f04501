-- Version 2: rejects that can be mended and loaded again. A process of version 1 may go on writing.
-- json where the text comes from a file: jsonb takes no character that the database's encoding lacks, and sorts keys.
ALTER TABLE loader.loads
    ADD COLUMN header            json,    -- the names in the file's header, as they stand there; NULL: it has none
    ADD COLUMN dialect           json,    -- the csv settings that the file was read by; NULL: it was not read so far
    ADD COLUMN rejects_by_reason jsonb NOT NULL DEFAULT '{}',   -- code -> count
    ADD COLUMN rejects_by_column jsonb NOT NULL DEFAULT '{}',   -- column -> code -> count
    ADD COLUMN replay_of         bigint,  -- the load whose rejects these records were; it may have been deleted since
    ALTER COLUMN spec TYPE json USING spec::json;               -- the columns' order has a meaning

ALTER TABLE loader.rejects
    ADD COLUMN raw_length bigint,  -- bytes of the whole record; NULL: version 1 cut it and did not say
    ADD COLUMN sqlstate   text;    -- PostgreSQL's code, where it refused

UPDATE loader.rejects SET reason = 'unbalanced_quote' WHERE reason = 'unterminated_quote';

UPDATE loader.rejects r SET raw_length = stored.length
  FROM (SELECT load_id, record_number, coalesce(length(raw_bytes), octet_length(convert_to(raw, 'UTF8'))) AS length
          FROM loader.rejects) stored
 WHERE r.load_id = stored.load_id AND r.record_number = stored.record_number AND stored.length < 1048576;

UPDATE loader.loads l SET rejects_by_reason = counted.reasons
  FROM (SELECT load_id, jsonb_object_agg(reason, count) AS reasons
          FROM (SELECT load_id, reason, count(*) FROM loader.rejects GROUP BY 1, 2) r GROUP BY 1) counted
 WHERE l.load_id = counted.load_id;

UPDATE loader.loads l SET rejects_by_column = counted.columns
  FROM (SELECT load_id, jsonb_object_agg(column_name, reasons) AS columns
          FROM (SELECT load_id, column_name, jsonb_object_agg(reason, count) AS reasons
                  FROM (SELECT load_id, column_name, reason, count(*) FROM loader.rejects
                         WHERE column_name IS NOT NULL GROUP BY 1, 2, 3) r GROUP BY 1, 2) c GROUP BY 1) counted
 WHERE l.load_id = counted.load_id;

-- A mended file takes effect once for each load that it mends; one of which nothing was loaded had none.
DROP INDEX loader.loads_once;
CREATE UNIQUE INDEX loads_once ON loader.loads (target, coalesce(bucket, ''), (CASE WHEN bucket IS NULL THEN '' ELSE key END), version)
    WHERE state = 'loaded' AND NOT forced AND replay_of IS NULL;
CREATE UNIQUE INDEX loads_replayed_once ON loader.loads (replay_of, target, coalesce(bucket, ''), (CASE WHEN bucket IS NULL THEN '' ELSE key END), version)
    WHERE state = 'loaded' AND NOT forced AND replay_of IS NOT NULL AND rows_rejected < rows_read;
CREATE INDEX loads_source ON loader.loads USING hash (key);  -- a path may be longer than a btree's 2,704 bytes
