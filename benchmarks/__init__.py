"""Measures the registry against nginx with the same files; `make bench`."""
