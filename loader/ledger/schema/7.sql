-- Version 7: forced loads that take effect once, and late versions that yield to newer ones. A process of version 6 may
-- go on writing.
ALTER TABLE loader.loads
    ADD COLUMN token        text,       -- of a forced load: which request asked for it; NULL: a process of version 6 did
    ADD COLUMN overtaken_by bigint[];   -- loads of newer versions whose keys this one, which came late, has left alone

-- A request to load something by force takes effect once, whatever the loader believes, and whatever the object is by now.
CREATE UNIQUE INDEX loads_forced_once ON loader.loads
    (token, target, coalesce(bucket, ''), hashtextextended(key, 0), coalesce(replay_of, 0))
    WHERE state = 'loaded' AND forced AND token IS NOT NULL;
