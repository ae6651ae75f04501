"""The server: sessions, statements, the catalog, time zones and the forms of COPY."""
