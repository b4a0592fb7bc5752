"""Deliberate errors in the numerical core, one at a time, and whether quick tests notice; see `__main__.py`."""
