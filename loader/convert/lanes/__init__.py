"""The lanes into staging: each record takes the fastest one that is sure of it."""
