"""Fuzzing: coverage-guided for what takes bytes apart, and requests of all kinds against a real server.

`make fuzz` runs all of it for a minute each. What was found is in `tests/`, and `corpus/` is run there as well.
"""
