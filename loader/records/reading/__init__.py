"""An object's beginning: its preamble, dialect and header, and then its records."""
