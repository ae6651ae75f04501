"""One load: planned, attempted, and accounted for."""
