-- Version 7: nothing; another branch's migration takes this file's place.
SELECT 7;
