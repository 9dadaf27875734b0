"""A reproducible registry: rows, index files and tarballs, written straight into a data folder."""

import asyncio
import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import struct
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text

from benchmarks import servers
from cargo_registry import accounts, tokens
from cargo_registry import config as settings
from cargo_registry.crate.entry import index_path, tarball_key
from cargo_registry.crate.names import CrateName
from cargo_registry.db import schema, search
from cargo_registry.db.users import Role
from cargo_registry.registry import Site, close_site, open_site

CRATES = {"S": (1_000, 10_000), "M": (50_000, 500_000), "L": (250_000, 2_000_000)}
SEARCH = (200_000, 1_000_000)

# What a crate's index file weighs where a path is measured at one size.
SIZED_INDEX = {"exact-10k": 10 * 1024, "exact-200k": 200 * 1024, "exact-1m": 1024 * 1024}
SIZED_DOWNLOADS = {"down-10k": 10 * 1024, "down-100k": 100 * 1024, "down-1m": 2**20, "down-10m": 10 * 2**20}

_WORDS = [
    "async",
    "parser",
    "http",
    "client",
    "server",
    "error",
    "json",
    "toml",
    "macro",
    "derive",
    "trait",
    "iterator",
    "stream",
    "buffer",
    "codec",
    "crypto",
    "hash",
    "tree",
    "graph",
    "matrix",
    "linear",
    "sparse",
    "vector",
    "image",
    "audio",
    "video",
    "font",
    "shader",
    "window",
    "event",
    "queue",
    "channel",
    "lock",
    "atomic",
    "thread",
    "pool",
    "task",
    "future",
    "runtime",
    "executor",
    "timer",
    "clock",
    "date",
    "time",
    "zone",
    "locale",
    "unicode",
    "string",
    "text",
    "regex",
    "glob",
    "path",
    "file",
    "system",
    "process",
    "signal",
    "socket",
    "dns",
    "tls",
    "proxy",
    "cache",
    "store",
    "database",
    "query",
    "schema",
    "migration",
    "orm",
    "serialize",
    "binary",
    "compress",
    "archive",
    "log",
    "trace",
    "metric",
    "test",
    "mock",
    "bench",
    "fuzz",
    "lint",
    "format",
    "syntax",
]
_NOW = datetime(2026, 1, 1, tzinfo=UTC)


@contextlib.contextmanager
def scratch(where: Path | None = None) -> Iterator[Path]:
    """Give a folder that is gone afterwards, even if an interruption comes while it is being removed."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=where))
    try:
        folder.chmod(0o755)  # nginx's workers have another account
        yield folder
    finally:
        try:
            shutil.rmtree(folder)
        except KeyboardInterrupt:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@dataclass(frozen=True, slots=True)
class Made:
    """What a data folder holds for those who measure it."""

    names: list[str]  # most popular first
    token: str
    downloads: dict[str, str]  # name → key of its tarball


def generate(root: Path, size: tuple[int, int], *, files: bool = True) -> Made:
    """Make a data folder with as many crates and versions; without `files` the rows only."""
    root.mkdir()
    file = root.parent / f"{root.name}.gen.toml"
    file.write_text(servers.REGISTRIES)

    async def made() -> Made:
        site = open_site(settings.load(file, data_dir=root, environ={}))
        try:
            return await fill(site, size, files=files)
        finally:
            await close_site(site)

    filled = asyncio.run(made())
    os.sync()
    return filled


async def fill(site: Site, size: tuple[int, int], *, files: bool = True) -> Made:
    """Fill an empty site. Rows in bulk: through `publish`, 500,000 versions would take an hour."""
    rng = random.Random(7)
    await accounts.add_user(site, "bench", name=None, role=Role.ADMIN)
    token = await tokens.create(site, "bench", name="bench")
    crates, versions = size
    names = list(_names(rng, crates))
    per_crate = _zipf_counts(crates, versions)
    made: dict[str, str] = {}

    def insert(tx: object) -> None:
        version_id = 0
        rows: dict[str, list[dict[str, object]]] = {
            "crates": [],
            "versions": [],
            "dependencies": [],
            "words": [],
        }
        for crate_id, name in enumerate(names, 1):
            count = per_crate[crate_id - 1]
            lines = [_line(rng, name, f"1.{n}.0", names) for n in range(count)]
            version_id = _add(rng, rows, crate_id, name, "main", lines, version_id)
            if files:
                _write(site, "main", name, b"".join(lines))
            if len(rows["versions"]) > 20_000:
                _flush(tx, rows)
        crate_id = crates
        special = [
            (registry, name, size) for registry in ("main", "closed") for name, size in SIZED_INDEX.items()
        ]
        for registry, name, bytes_ in special:
            crate_id += 1
            lines = _lines_of_size(rng, name, bytes_, names)
            version_id = _add(rng, rows, crate_id, name, registry, lines, version_id)
            _write(site, registry, name, b"".join(lines))
        for name, bytes_ in SIZED_DOWNLOADS.items():
            crate_id += 1
            data = rng.randbytes(bytes_)
            line = _line(rng, name, "1.0.0", names, hashlib.sha256(data).hexdigest())
            version_id = _add(rng, rows, crate_id, name, "main", [line], version_id, bytes_)
            _write(site, "main", name, line)
            key = "main/" + tarball_key(CrateName(name), "1.0.0", hashlib.sha256(data).hexdigest())
            path = site.registries["main"].tarballs.path(key)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            made[name] = key
        _flush(tx, rows)

    await site.db.write(insert)
    return Made(names, token, made)


def _names(rng: random.Random, count: int) -> Iterator[str]:
    seen: set[str] = set()
    while len(seen) < count:
        name = "-".join(rng.sample(_WORDS, rng.choice((1, 2, 2, 3)))) + str(rng.randrange(1000))
        if name not in seen:
            seen.add(name)
            yield name


def _zipf_counts(crates: int, versions: int) -> list[int]:
    """Return how many versions each crate has: popular ones more, each at least one."""
    spare = versions - crates
    weights = [1 / (rank + 10) ** 0.7 for rank in range(crates)]
    scale = spare / sum(weights)
    return [1 + min(600, round(weight * scale)) for weight in weights]


def _line(rng: random.Random, name: str, vers: str, names: list[str], cksum: str = "") -> bytes:
    deps = [
        f'{{"name":"{names[min(int(rng.paretovariate(0.6)), len(names) - 1)]}","req":"^1.{rng.randrange(9)}",'
        '"features":["std"],"optional":false,"default_features":true,"target":null,"kind":"normal"}'
        for _ in range(rng.randrange(9))
    ]
    cksum = cksum or f"{rng.getrandbits(256):064x}"
    return (
        f'{{"name":"{name}","vers":"{vers}","deps":[{",".join(deps)}],"cksum":"{cksum}",'
        '"features":{"default":["std"],"std":[]},"yanked":false,"rust_version":"1.70"}\n'
    ).encode()


def _lines_of_size(rng: random.Random, name: str, size: int, names: list[str]) -> list[bytes]:
    lines: list[bytes] = []
    while sum(map(len, lines)) < size:
        line = _line(rng, name, f"1.{len(lines)}.0", names)
        lines.append(line)
    return lines


def _add(
    rng: random.Random,
    rows: dict[str, list[dict[str, object]]],
    crate_id: int,
    name: str,
    registry: str,
    lines: list[bytes],
    version_id: int,
    size: int = 1000,
) -> int:
    description = " ".join(rng.choices(_WORDS, k=10))
    keywords = rng.sample(_WORDS, 3)
    manifest = json.dumps(
        {"description": description, "keywords": keywords, "categories": [], "license": "MIT"}
    )
    last = json.loads(lines[-1])["vers"]
    rows["crates"].append(
        {
            "id": crate_id,
            "registry": registry,
            "name": name,
            "canonical": name.replace("-", "_"),
            "created_at": _NOW,
            "updated_at": _NOW,
            "downloads": int(10_000_000 / crate_id),
            "description": description,
            "keywords": json.dumps(keywords),
            "categories": "[]",
            "default_version": last,
            "max_version": last,
            "max_stable_version": last,
        }
    )
    canonical = name.replace("-", "_")
    words = search.words_of(canonical, description, *keywords)
    rows["words"].append({"id": crate_id, "canonical": canonical, "words": words})
    for line in lines:
        version_id += 1
        start = line.index(b'"vers":"') + 8
        vers = line[start : line.index(b'"', start)].decode()
        start = line.index(b'"cksum":"') + 9
        rows["versions"].append(
            {
                "id": version_id,
                "crate_id": crate_id,
                "vers": vers,
                "vers_key": vers,
                "yanked": False,
                "cksum": line[start : start + 64].decode(),
                "size": size,
                "line": line.rstrip(b"\n"),
                "manifest": manifest,
                "published_at": _NOW,
                "published_by": 1,
                "downloads": 10,
                "verified_at": _NOW,
            }
        )
    return version_id


def _flush(tx: object, rows: dict[str, list[dict[str, object]]]) -> None:
    connection = tx
    for table in ("crates", "versions"):
        if rows[table]:
            connection.execute(getattr(schema, table).insert(), rows[table])  # type: ignore[attr-defined]
            rows[table].clear()
    if rows["words"]:
        connection.execute(  # type: ignore[attr-defined]
            text("INSERT OR IGNORE INTO registry_numbers (registry) SELECT DISTINCT registry FROM crates")
        )
        held = "SELECT number << 32 | crates.id, {} FROM crates JOIN registry_numbers USING (registry) WHERE crates.id = :id"
        for table, column in (("crate_words", "words"), ("crate_names", "canonical")):
            connection.execute(  # type: ignore[attr-defined]
                text(f"INSERT INTO {table} (rowid, {column}) {held.format(f':{column}')}"), rows["words"]
            )
        rows["words"].clear()


def _write(site: Site, registry: str, name: str, data: bytes) -> None:
    path = site.registries[registry].index_files.path(f"{registry}/{index_path(CrateName(name))}")
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o644)
    os.write(descriptor, data)
    os.close(descriptor)


# --- What a publisher sends ---


def publish_body(name: str, vers: str, *, files: int, size: int) -> bytes:
    """Return the body of a publish of a crate of `files` files and about `size` bytes packed."""
    packed = tarball(name, vers, files=files, size=size)
    metadata = {
        "name": name,
        "vers": vers,
        "deps": [],
        "features": {},
        "authors": [],
        "description": "made by make bench",
        "license": "MIT",
    }
    said = json.dumps(metadata).encode()
    return struct.pack("<I", len(said)) + said + struct.pack("<I", len(packed)) + packed


def tarball(name: str, vers: str, *, files: int, size: int, deps: Sequence[str] = ()) -> bytes:
    """Return a crate of `files` files and about `size` bytes packed, the same for the same name and version.

    `deps` are crates of crates.io, or of what stands in for it.
    """
    rng = random.Random(f"{name} {vers}")
    each = max(1, size // files)
    listed = "".join(f'{dep} = "1"\n' for dep in deps)
    manifest = (
        f'[package]\nname = "{name}"\nversion = "{vers}"\nedition = "2021"\ndescription = "made by make bench"\n'
        f'license = "MIT"\n\n[dependencies]\n{listed}'
    )
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for number in range(files):
            path = (
                "Cargo.toml"
                if number == 0
                else "src/lib.rs"
                if number == 1
                else f"src/d{number % 50}/f{number}.rs"
            )
            data = manifest.encode() if number == 0 else b"" if number == 1 else rng.randbytes(each)
            info = tarfile.TarInfo(f"{name}-{vers}/{path}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return packed.getvalue()


def paths_by_popularity(names: Sequence[str], count: int, *, under: str = "/index") -> list[str]:
    """Return index paths as a crowd of users asks for them: Zipf with exponent 1, `names` most popular first."""
    rng = random.Random(11)
    weights = [1 / (rank + 1) for rank in range(len(names))]
    return [f"{under}/{index_path(CrateName(name))}" for name in rng.choices(names, weights, k=count)]


def index_file(root: Path, name: str) -> Path:
    """Return where the index file of a crate of `main` lies."""
    return root / "index_data" / "main" / index_path(CrateName(name))
