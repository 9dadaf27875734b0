"""Tests that take many minutes: only `make soak` runs them, which says how often to kill."""

import os

collect_ignore_glob = [] if "KILLS" in os.environ else ["test_*.py"]
