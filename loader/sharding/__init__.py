"""One object by many workers, proved before it is merged."""
