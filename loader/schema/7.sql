-- Version 7: a place that is kept; see version 8.
SELECT;
