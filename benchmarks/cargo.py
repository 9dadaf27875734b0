"""Real cargo: a program with its lock file, the crates it names, and how long it takes to fetch them.

The registry under test stands in for crates.io, so that lock files and manifests can be used as they are.
"""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import data
from benchmarks.report import Figure, ratio, spread

# Kept beside the project where there are any: tarballs of crates.io, and a program whose lock file names them.
REAL_CRATES = Path(__file__).parents[2] / "shared" / "data"

_LAYERS, _PER_LAYER = 6, 25
_HOME_BYTES = 2**30  # what the large program's takes, three times


@dataclass(frozen=True, slots=True)
class Program:
    """A folder with `Cargo.toml` and `src/`, and the folder with the `.crate` files it needs."""

    what: str  # for a row's name: "338 real crates"
    folder: Path
    tarballs: Path

    @property
    def lock(self) -> Path:
        """Where cargo keeps its lock file."""
        return self.folder / "Cargo.lock"


def why_not() -> str:
    """Return why no cargo can be run here, "" if it can."""
    return "" if shutil.which("cargo") else "no cargo here; get it from rustup.rs"


def program(folder: Path, crates: Path) -> Program:
    """Return the program of the real crates in `crates`, copied to `folder`; one with generated crates if none are there."""
    folder.mkdir()
    app = folder / "app"
    (app / "src").mkdir(parents=True)
    if (crates / "apps" / "large" / "Cargo.lock").is_file():
        source = crates / "apps" / "large"
        for path in (
            "Cargo.toml",
            "Cargo.lock",
            *(f"src/{file.name}" for file in (source / "src").iterdir()),
        ):
            shutil.copyfile(source / path, app / path)
        named = (app / "Cargo.lock").read_text().count("\nchecksum = ")
        return Program(f"{named} real crates", app, crates / "crates")
    return _generated(folder, app)


def _generated(folder: Path, app: Path) -> Program:
    tarballs = folder / "crates"
    tarballs.mkdir()
    for layer in range(_LAYERS):
        for n in range(_PER_LAYER):
            deps = [f"l{layer - 1}c{(n + k) % _PER_LAYER}" for k in range(3)] if layer else []
            made = data.tarball(f"l{layer}c{n}", "1.0.0", files=6, size=30 * 1024, deps=deps)
            (tarballs / f"l{layer}c{n}-1.0.0.crate").write_bytes(made)
    (app / "src" / "lib.rs").touch()
    top = "".join(f'l{_LAYERS - 1}c{n} = "1"\n' for n in range(_PER_LAYER))
    (app / "Cargo.toml").write_text(
        f'[package]\nname = "p"\nversion = "0.1.0"\nedition = "2021"\n[dependencies]\n{top}'
    )
    return Program(f"{_LAYERS * _PER_LAYER} generated crates (no real ones here)", app, tarballs)


@contextlib.contextmanager
def home(folder: Path) -> Iterator[Path]:
    """Give a folder for cargo's home, in memory where there is room, else in `folder`.

    On a disk that is busy, unpacking 338 crates took 17 s of the 18 s of a fetch, and no two fetches the same.
    """
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > _HOME_BYTES
    with data.scratch(memory if roomy else folder) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Cargo:
    """Cargo with a home of its own, for which an index takes the place of crates.io.

    `prefix` comes before each command, as for a network namespace; `cainfo` signs for the index's certificate.
    """

    program: Program
    home: Path
    index_url: str  # with sparse+
    prefix: Sequence[str] = ()
    cainfo: Path | None = None

    def cold_fetch_s(self) -> float:
        """Return the seconds of a `cargo fetch --locked` with nothing cached."""
        if not self.program.lock.exists():
            self._empty_home()
            self._run("generate-lockfile")
        self._empty_home()
        return self._run("fetch", "--locked")

    def warm_lock_s(self) -> float:
        """Return the seconds of a `cargo generate-lockfile` after a fetch: each index file is asked for and unchanged.

        Raises:
            RuntimeError: another lock file came out, so something else was measured.
        """
        locked = self.program.lock.read_bytes()
        self.program.lock.unlink()
        took = self._run("generate-lockfile")
        if self.program.lock.read_bytes() != locked:
            self.program.lock.write_bytes(locked)
            raise RuntimeError("cargo resolved the program to other versions than its lock file names")
        return took

    def _empty_home(self) -> None:
        shutil.rmtree(self.home)
        self.home.mkdir()
        cainfo = f'cainfo = "{self.cainfo}"' if self.cainfo else ""
        (self.home / "config.toml").write_text(
            f'[source.crates-io]\nreplace-with = "bench"\n[source.bench]\nregistry = "{self.index_url}"\n'
            f"[http]\n{cainfo}\n[net]\nretry = 0\n"
        )

    def _run(self, *arguments: str) -> float:
        at = time.perf_counter()
        done = subprocess.run(
            [*self.prefix, "cargo", *arguments],
            cwd=self.program.folder,
            env=_environment() | {"CARGO_HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stderr)
        return time.perf_counter() - at


def compare(
    row: str, ours: Cargo, nginx: Cargo, rounds: int, must: str = "", aim: str = ""
) -> Iterator[Figure]:
    """Fetch from both in turn, cold, and make the lock file anew; figures are times by nginx's."""
    times: dict[Cargo, list[tuple[float, float]]] = {ours: [], nginx: []}
    for turn in range(rounds):
        for one in (nginx, ours) if turn % 2 else (ours, nginx):
            times[one].append((one.cold_fetch_s(), one.warm_lock_s()))
    for number, what in enumerate(("cold fetch", "warm lock")):
        mine, its = ([pair[number] for pair in times[one]] for one in (ours, nginx))
        against = "nginx h2" if ours.index_url.startswith("sparse+https") else "nginx"
        value = f"{ratio(mine, its)} × {against} ({spread(mine, ' s')}; nginx {spread(its, ' s')})"
        yield Figure(f"{row}: {what}", value, must, aim)


def _environment() -> dict[str, str]:
    """Return ours without settings of whoever runs this, which could name another registry or a proxy."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("CARGO") and not key.lower().endswith("_proxy")
    }
