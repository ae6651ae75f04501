"""One version of an object, as bytes: opened, pinned, checksummed and decompressed."""
