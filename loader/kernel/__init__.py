"""The compiled express lane, which is optional: C, and what loads it."""
