-- Version 8: nothing; another branch's migration takes this file's place.
SELECT 8;
