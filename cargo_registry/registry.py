"""A registry and the site that serves it: values that every verb takes first. No behaviour here."""

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from cargo_registry.config import Config, RegistryTable
from cargo_registry.crate.entry import OwnUrls
from cargo_registry.db import upgrade
from cargo_registry.db.engine import Database
from cargo_registry.errors import ConfigError, Forbidden
from cargo_registry.gate import Reader
from cargo_registry.policy.serving import Policy, read_policy
from cargo_registry.storage.disk import DiskStore, reporting
from cargo_registry.storage.locks import Locks


@dataclass(frozen=True, slots=True)
class Used:
    """What happened since the last flush and may be lost in a crash: never a write per download."""

    downloads: Counter[tuple[int, date]] = field(default_factory=Counter)  # by version id and day
    tokens: dict[int, datetime] = field(default_factory=dict)  # last use by token id
    # from mirrors: by registry, lower-case name, version, and login or address
    downloaders: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)


class Uses:
    """Counts what happens, from any thread, until it is taken to be written."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used = Used()

    def count_download(self, version_id: int, day: date) -> None:
        """Count one download of a version."""
        with self._lock:
            self._used.downloads[version_id, day] += 1

    def note_token(self, token_id: int, at: datetime) -> None:
        """Note when a token was used last."""
        with self._lock:
            self._used.tokens[token_id] = at

    def note_downloader(self, registry: str, name: str, vers: str, who: str) -> None:
        """Note who has a version of a mirror now; `name` in lower case."""
        with self._lock:
            self._used.downloaders[registry, name, vers, who] += 1

    def take(self) -> Used:
        """Return what was counted, and begin anew."""
        with self._lock:
            taken, self._used = self._used, Used()
        return taken

    def give_back(self, taken: Used) -> None:
        """Count again what was taken and could not be written."""
        with self._lock:
            self._used.downloads.update(taken.downloads)
            for token_id, at in taken.tokens.items():
                self._used.tokens.setdefault(token_id, at)
            self._used.downloaders.update(taken.downloaders)


@dataclass(frozen=True, slots=True)
class Registry:
    """One named registry."""

    name: str
    table: RegistryTable
    url: str  # what config.json calls `api`; no slash at the end
    own_urls: OwnUrls  # spellings that mean this registry in a dependency
    max_crate_bytes: int
    db: Database
    index_files: DiskStore  # keys: {name}/se/rd/serde
    tarballs: DiskStore  # keys: {name}/se/rd/serde/serde-1.0.0-{cksum}.crate
    locks: Locks  # one per crate
    uses: Uses
    now: Callable[[], datetime]
    reader: Reader | None  # of uploads; None: a thread reads them
    # Changes of `index` that the writer thread has not begun; of all registries of a site.
    waiting: deque[Any]
    policy: Policy | None = None  # what is served, of a mirror

    @property
    def is_mirror(self) -> bool:
        """Whether it follows an upstream, and so takes no changes from anybody else."""
        return self.table.kind == "mirror"

    def must_take_changes(self) -> None:
        """Refuse a publish, yank or change of owners.

        Raises:
            Forbidden: the registry is a mirror.
        """
        if self.is_mirror:
            raise Forbidden(
                f"registry `{self.name}` is a mirror of `{self.table.upstream}` and takes no changes; "
                "publish, yank and change owners there, or in a registry of the kind `local`"
            )

    @property
    def index_url(self) -> str:
        """The URL that users configure."""
        return f"sparse+{self.url}/index/"

    @property
    def private(self) -> bool:
        """Whether reading needs a token."""
        return self.table.access == "auth-required"


@dataclass(frozen=True, slots=True)
class Site:
    """All registries of a server, on one database."""

    config: Config
    url: str  # no slash at the end
    db: Database
    registries: Mapping[str, Registry]
    uses: Uses
    now: Callable[[], datetime]

    @property
    def root(self) -> Registry | None:
        """The registry at the root of the site; None if every one has its name in the path."""
        return self.registries.get(self.config.server.default_registry)


def open_site(config: Config, url: str | None = None, reader: Reader | None = None) -> Site:
    """Open the data under `config.data_dir`, made and migrated as needed. `close_site` when done.

    `url` is the address the server listens on; `server.url` of the configuration goes before it.

    Raises:
        ConfigError: the data was written by a newer release, or its folder is none.
        Unavailable: the disk cannot be written to.
    """
    try:
        with reporting():
            config.data_dir.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ConfigError(
            f"the data cannot be in `{config.data_dir}`, which is no folder; name another with `--data-dir`"
        ) from None
    scheme = "https" if config.server.tls.certificate else "http"
    url = config.server.url or url or f"{scheme}://{_authority(config.server.host, config.server.port)}"
    database = config.data_dir / "registry.db"
    upgrade.upgrade(database)
    db = Database(database)
    index_files = DiskStore(config.data_dir / "index_data")
    tarballs = DiskStore(config.data_dir / "crates_storage")
    locks = Locks(config.data_dir / "index_data" / ".locks")
    uses = Uses()
    waiting: deque[Any] = deque()

    def registry(table: RegistryTable) -> Registry:
        base = url if table.name == config.server.default_registry else f"{url}/{table.name}"
        return Registry(
            name=table.name,
            table=table,
            url=base,
            own_urls=OwnUrls([f"sparse+{base}/index/", *table.aliases]),
            max_crate_bytes=config.limits.max_crate_bytes,
            db=db,
            index_files=index_files,
            tarballs=tarballs,
            locks=locks,
            uses=uses,
            now=_now,
            reader=reader,
            waiting=waiting,
            policy=read_policy(table.policy, offline=table.offline, registry=table.name)
            if table.kind == "mirror"
            else None,
        )

    registries = {name: registry(table) for name, table in config.registries.items()}
    return Site(config, url, db, registries, uses, _now)


async def close_site(site: Site) -> None:
    """Close what `open_site` opened; what is being written is finished first."""
    for registry in site.registries.values():
        if registry.reader is not None:
            await registry.reader.close()
    await site.db.close()
    for registry in site.registries.values():
        registry.index_files.close()
        registry.tarballs.close()


def _now() -> datetime:
    return datetime.now(UTC)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
