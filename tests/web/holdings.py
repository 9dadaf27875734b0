"""What a server holds: to see that a refused request left nothing, and what it cost."""

import os
import sqlite3
from pathlib import Path
from typing import Any

from tests.programs import Server


def held(server: Server) -> tuple[dict[str, list[Any]], set[str]]:
    """Return every row, but for when tokens were used, and every file."""
    return rows(server), files(server)


def files(server: Server) -> set[str]:
    """Return every file, also those in the making; not locks, which are empty."""
    return {
        f"{folder}/{name}"
        for store in ("index_data", "crates_storage")
        for folder, _, names in os.walk(server.data_dir / store)
        if not folder.endswith("/.locks")
        for name in names
    }


def rows(server: Server) -> dict[str, list[Any]]:
    """Return all rows by table."""
    with sqlite3.connect(f"file:{server.data_dir}/registry.db?mode=ro", uri=True) as db:
        names = db.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'crate_%'")
        tables = [name for (name,) in names if name not in ("tokens", "download_days")]
        found = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}
        for table, column in (("crate_words", "words"), ("crate_names", "canonical")):
            found[table] = db.execute(f"SELECT rowid, {column} FROM {table}").fetchall()
    db.close()
    return found


def peak_mib(server: Server) -> float:
    """Return the most memory that the server's processes have had since `forget_peak`."""
    return sum(_status_mib(pid, "VmHWM") for pid in _processes(server.process.pid))


def forget_peak(server: Server) -> float:
    """Begin to look for the peak anew; return what is in use now."""
    pids = _processes(server.process.pid)
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    return sum(_status_mib(pid, "VmRSS") for pid in pids)


def _processes(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(found for child in children for found in _processes(int(child)))]


def _status_mib(pid: int, key: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))
