-- Version 8: what a crash of the server takes from an UNLOGGED target is loaded again. A process of version 7 may go on
-- writing; its loads are vouched for as before.
ALTER TABLE loader.loads ADD COLUMN unlogged boolean NOT NULL DEFAULT false;  -- the target was UNLOGGED

-- Loads into targets that are UNLOGGED. So is this table: a crash empties both, and then a load that is not here has no
-- rows there any more. It refers to loader.loads by no foreign key, so that whoever empties the ledger can do so as before.
CREATE UNLOGGED TABLE loader.unlogged_loads (load_id bigint PRIMARY KEY);
