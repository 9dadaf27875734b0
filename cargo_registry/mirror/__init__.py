"""A mirror: follows an upstream registry, on demand and ahead of time."""
