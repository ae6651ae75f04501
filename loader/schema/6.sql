-- Version 6: a load that failed for its limit has counted more rejects than it has entered.
ALTER TABLE loader.loads
    ADD COLUMN rejects_entered bigint;  -- rows in loader.rejects; NULL: all that were counted, a process of version 5
