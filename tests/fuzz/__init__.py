"""Seeded random inputs of one kind each: `python -m tests.fuzz.NAME --inputs 1000`; the quick tests run a few."""
