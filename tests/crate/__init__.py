"""Tests of what a crate is."""
