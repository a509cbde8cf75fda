"""Benchmarks: one module for each row, or family of rows, of the table in README.md; see `run.py`."""
