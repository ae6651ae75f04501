-- Version 9: a ledger of millions of loads stays fast. Each statement of a load finds its rows by an index, however many
-- loads there are of its table, of its key, or of neither. A process of version 8 may go on writing.
--
-- Keys are compared by their hashes: a path may be longer than a btree's 2,704 bytes, and a hash index has one column.

-- The strongest lock first: with weaker ones before it, a process that reads and then writes could block this for good.
DROP INDEX loader.loads_target, loader.loads_source;

-- What is in progress, and what did not take effect: few rows beside those that did.
CREATE INDEX loads_running ON loader.loads (target) WHERE state = 'running';
CREATE INDEX loads_unfinished ON loader.loads
    (target, hashtextextended(key, 0), hashtextextended(coalesce(pin, ''), 0), load_id) WHERE state <> 'loaded';

-- The order in which loads took effect on a table, those that created it, and those that a crash may have undone.
CREATE INDEX loads_applied ON loader.loads (target, coalesce(applied, 0), load_id) WHERE state = 'loaded';
CREATE INDEX loads_created ON loader.loads (target, coalesce(applied, 0), load_id) WHERE state = 'loaded' AND created;
CREATE INDEX loads_unlogged ON loader.loads (target, coalesce(applied, 0), load_id) WHERE state = 'loaded' AND unlogged;

-- Versions of an object: one of them, and those that are newer by S3's sequencers, or by when they were stored.
CREATE INDEX loads_version ON loader.loads (hashtextextended(key, 0), version);
CREATE INDEX loads_sequencer ON loader.loads (hashtextextended(key, 0), length(sequencer), upper(sequencer) COLLATE "C")
    WHERE state = 'loaded' AND sequencer IS NOT NULL;
CREATE INDEX loads_stored ON loader.loads (hashtextextended(key, 0), last_modified)
    WHERE state = 'loaded' AND bucket IS NOT NULL;

-- A local file is known by its content, whatever its name.
CREATE INDEX loads_content ON loader.loads (target, size, version) WHERE state = 'loaded' AND bucket IS NULL;

CREATE INDEX loads_replay_of ON loader.loads (replay_of) WHERE replay_of IS NOT NULL;
