"""Bytes to whole records, each at its place."""
