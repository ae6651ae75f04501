"""Records to typed rows to the bytes of binary COPY."""
