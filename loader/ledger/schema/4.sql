-- By which way a load's rows got into their target, and why.
ALTER TABLE loader.loads ADD COLUMN plan text;
