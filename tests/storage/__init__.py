"""Tests of bytes under keys."""
