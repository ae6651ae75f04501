-- Version 6.
-- A load that created its table: loads that took effect before it are not in the table as it is now.
ALTER TABLE loader.loads ADD COLUMN created boolean NOT NULL DEFAULT false;

-- Rejects that were replayed into a table that was dropped since can be replayed again.
DROP INDEX loader.loads_replayed_once;
CREATE UNIQUE INDEX loads_replayed_once ON loader.loads (replay_of, target, coalesce(bucket, ''), (CASE WHEN bucket IS NULL THEN '' ELSE key END), version, follows)
    WHERE state = 'loaded' AND NOT forced AND replay_of IS NOT NULL AND rows_rejected < rows_read;
