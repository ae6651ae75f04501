-- Version 6: counts that hold, rejects within bounds, failures that are remembered. A process of version 5 may go on
-- writing.

-- A load that created its table: loads that took effect before it are not in the table as it is now.
ALTER TABLE loader.loads ADD COLUMN created boolean NOT NULL DEFAULT false;

-- Rejects that were replayed into a table that was dropped since can be replayed again.
DROP INDEX loader.loads_replayed_once;
CREATE UNIQUE INDEX loads_replayed_once ON loader.loads (replay_of, target, coalesce(bucket, ''), (CASE WHEN bucket IS NULL THEN '' ELSE key END), version, follows)
    WHERE state = 'loaded' AND NOT forced AND replay_of IS NOT NULL AND rows_rejected < rows_read;

-- No count of a load is negative. Up to version 5 a merge counted rows of the table that it updated as
-- records, and what was left over as unchanged: so these two are put right first, and their sum stays.
UPDATE loader.loads
   SET rows_inserted = rows_inserted + least(0, rows_updated + rows_unchanged),
       rows_updated = greatest(0, rows_updated + rows_unchanged),
       rows_unchanged = 0
 WHERE rows_unchanged < 0;

UPDATE loader.loads
   SET rows_inserted = greatest(0, rows_inserted), rows_updated = greatest(0, rows_updated),
       rows_unchanged = greatest(0, rows_unchanged), rows_duplicate = greatest(0, rows_duplicate),
       rows_filtered = greatest(0, rows_filtered), rows_rejected = greatest(0, rows_rejected),
       rows_read = greatest(0, rows_inserted) + greatest(0, rows_updated) + greatest(0, rows_unchanged)
                 + greatest(0, rows_duplicate) + greatest(0, rows_filtered) + greatest(0, rows_rejected)
 WHERE least(rows_read, rows_inserted, rows_updated, rows_unchanged, rows_duplicate, rows_filtered, rows_rejected) < 0;

ALTER TABLE loader.loads ADD CONSTRAINT loads_counts_check CHECK (
    least(rows_read, rows_inserted, rows_updated, rows_unchanged, rows_duplicate, rows_filtered, rows_rejected) >= 0);

-- What stray quotes have made values of, see loader/swallowed.py; beside the tally, of which version 5 knows every key.
ALTER TABLE loader.checkpoints ADD COLUMN swallowed json;

-- The class of the error that a load failed of: the same message of a queue is answered from the ledger.
ALTER TABLE loader.loads ADD COLUMN error_type text;

-- A load that failed for its limit has counted more rejects than it has entered.
ALTER TABLE loader.loads
    ADD COLUMN rejects_entered bigint;  -- rows in loader.rejects; NULL: all that were counted, a process of version 5
