"""What was loaded, what is running, and what was rejected."""
