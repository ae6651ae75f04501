"""Rows into a table: staging, constraints, and the statements of the merge."""
