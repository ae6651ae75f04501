"""This process: its cores, memory, signals, streams and threads."""
