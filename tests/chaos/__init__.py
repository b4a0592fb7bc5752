"""Real sweeps whose processes are killed at random moments; see `__main__.py`."""
