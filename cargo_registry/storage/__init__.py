"""Bytes under keys: a directory, later a bucket."""
