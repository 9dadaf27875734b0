"""Real cargo through a mirror, against the upstream of that mirror directly: a locked build's fetch, nothing cached."""

import os
import shutil
import subprocess
import time
from pathlib import Path


def project(folder: Path, names: list[str]) -> Path:
    """Make a package that depends on crates, as of crates.io."""
    (folder / "src").mkdir(parents=True)
    (folder / "src" / "lib.rs").touch()
    deps = "".join(f'{name} = "1"\n' for name in names)
    (folder / "Cargo.toml").write_text(
        f'[package]\nname = "p"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\n{deps}'
    )
    return folder


def fetch_s(index_url: str, project: Path, *, locked: bool = True) -> float:
    """Return the seconds of a `cargo fetch` with an empty home, crates.io replaced by this index."""
    home = project / "home"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    (home / "config.toml").write_text(
        f'[source.crates-io]\nreplace-with = "m"\n[source.m]\nregistry = "{index_url}"\n[net]\nretry = 0\n'
    )
    at = time.perf_counter()
    done = subprocess.run(
        ["cargo", "fetch", *(["--locked"] if locked else [])],
        cwd=project,
        env={**os.environ, "CARGO_HOME": str(home)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return time.perf_counter() - at
