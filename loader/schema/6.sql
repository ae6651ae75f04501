-- Version 6. A process of version 5 may go on writing.
-- The class of the error that a load failed of: the same message of a queue is answered from the ledger.
ALTER TABLE loader.loads ADD COLUMN error_type text;
