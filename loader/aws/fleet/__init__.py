"""The steps of the state machine that has many functions load one object."""
