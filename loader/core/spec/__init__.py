"""What a load is told: the spec, its filter, its formats and its limits."""
