"""The settings: what `config.toml` and the environment may say, and what they said.

Each setting is one field of a table class below: its name, type, default, unit and check stand there
and nowhere else. A field whose type is another table class is a nested table: `[server.tls]` would be
`tls: TlsTable` in `ServerTable`. `config.example.toml` documents every setting; a test fails until both
agree.

A setting comes from, in this order: the environment as `CRG_<TABLE>__<KEY>` (`CRG_SERVER__PORT`, and
`CRG_REGISTRIES__MY_CRATES__ACCESS` for `my-crates`), the file, its default.
"""

import dataclasses
import difflib
import ipaddress
import json
import os
import re
import types
import typing
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli

from .errors import ConfigError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_FILE = Path("config.toml")

_T = TypeVar("_T")
_Key = tuple[str, ...]  # ("server", "port")

# The command line reads these itself, two of them before there is a Config.
_FOR_THE_CLI = ("CRG_CONFIG", "CRG_DATA_DIR", "CRG_IMPORT_TOKEN")

# What the site answers itself, now or one day: a registry of that name would hide behind it.
# fmt: off
_SITE_SEGMENTS = frozenset((
    "about", "account", "admin", "api", "assets", "crates", "docs", "healthz", "index", "login", "logout",
    "me", "metrics", "readyz", "search", "static", "teams", "tokens", "users",
))
# fmt: on
_MAX_REGISTRY_NAME_CHARS = 64
_REGISTRY_NAME_RULE = (
    "at most 64 lower-case letters, digits and single `-` between them, starting with a letter"
)
# No `a--b` and no `a-`: as `A__B` and `A_` they could not be told from the `__` in the name of a variable.
_REGISTRY_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def check_registry_name(name: str) -> str:
    """Return the name of a registry, which is also its first path segment, if the site can serve it.

    Raises:
        ConfigError: it breaks the rule, which the message tells.
    """
    if not _REGISTRY_NAME.fullmatch(name) or len(name) > _MAX_REGISTRY_NAME_CHARS:
        raise ConfigError(f"`{name}` cannot name a registry; it must be {_REGISTRY_NAME_RULE}.")
    if name in _SITE_SEGMENTS:
        raise ConfigError(f"`{name}` cannot name a registry: the site itself answers at `/{name}`.")
    return name


def setting(
    default: _T,
    *,
    unit: str | None = None,
    unset: str | None = None,
    allowed: str | None = None,
    check: Callable[[Any], object] | None = None,
) -> _T:
    """Declare a field of a table class as a setting.

    Its type is bool, int, float, str, a Literal of strings, what `check` makes of a str, one of these or
    None (an empty string in TOML), or a tuple of them (an array in TOML).

    Args:
        default: the value when nobody sets it.
        unit: what a number counts, for `config.example.toml`; the name says it too (`max_crate_mib`).
        unset: what None as the default means, for `config.example.toml`.
        allowed: ends the sentence "… but must be"; needed with `check`.
        check: takes what the file says (of an array, one item) and returns the value to keep; a ValueError
            or ConfigError refuses it.
    """
    return dataclasses.field(
        default=default, metadata={"unit": unit, "unset": unset, "allowed": allowed, "check": check}
    )


def _between(low: int, high: int) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not low <= value <= high:
            raise ValueError(value)
        return value

    return check


_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")


def _host(text: str) -> str:
    if ":" in text:
        ipaddress.IPv6Address(text)
    elif not _HOST_NAME.fullmatch(text):
        raise ValueError(text)
    return text


# The characters of RFC 3986 without those of a query or fragment. urlsplit would drop tabs and line ends
# without a word, and these texts end up in JSON and HTML.
_URL_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/@!$&'()*+,;=%\[\]-]+")


def _split_url(text: str) -> urllib.parse.SplitResult:
    if not _URL_CHARACTERS.fullmatch(text):
        raise ValueError(text)
    parts = urllib.parse.urlsplit(text)
    _ = parts.port  # raises ValueError for what is not a port
    return parts


def _site_url(text: str) -> str:
    parts = _split_url(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ValueError(text)
    return text.rstrip("/")


def _index_url(text: str) -> str:
    if text.startswith("sparse+"):
        parts = _split_url(text.removeprefix("sparse+"))
        # "sparse registry url must end in a slash" (cargo: sources/registry/http_remote.rs)
        if parts.scheme not in ("http", "https") or not parts.hostname or not text.endswith("/"):
            raise ValueError(text)
        return text
    parts = _split_url(text)
    # What people know from `git clone`, `git@host:path`, is no URL and cargo refuses it too.
    if parts.scheme not in ("http", "https", "ssh", "git", "file") or not (
        parts.hostname or parts.scheme == "file"
    ):
        raise ValueError(text)
    return text


def _sparse_url(text: str) -> str:
    parts = _split_url(text.removeprefix("sparse+"))
    # A password in a URL ends up in logs and lock files; `upstream_token` is the place for it.
    if not text.startswith("sparse+") or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise ValueError(text)
    return _index_url(text)


def _proxy_url(text: str) -> str:
    if not text:
        return text
    parts = _split_url(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(text)
    return text


def _crate_pattern(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_\-*?\[\]!]{1,200}(@[0-9A-Za-z.*^~<>=, +-]{1,200})?", text):
        raise ValueError(text)
    return text


def _name_pattern(text: str) -> str:
    if "@" in text:
        raise ValueError(text)
    return _crate_pattern(text)


def _one_line(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise ValueError(text)
    return text


_PATTERN = (
    "the name of a crate or a shell glob, and a requirement if not all versions are meant: "
    '"evil-*", "time@<0.2.23"'
)
_SECONDS = "a whole number of seconds, from 0 up"


def _names_of_team(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_*?-]*=[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise ValueError(text)
    return text


@dataclass(frozen=True, slots=True)
class TlsTable:
    """`[server.tls]`: HTTPS by the server itself, with HTTP/2."""

    certificate: str | None = setting(None, unset="no TLS", allowed="the path of a PEM file")
    key: str | None = setting(None, unset="no TLS", allowed="the path of a PEM file")
    min_version: Literal["1.2", "1.3"] = setting("1.2")


@dataclass(frozen=True, slots=True)
class ServerTable:
    """`[server]`: where the site listens and how the world reaches it."""

    host: str = setting(
        "127.0.0.1",
        allowed='an address or host name without port and brackets, such as "127.0.0.1", "0.0.0.0" or "::"',
        check=_host,
    )
    port: int = setting(
        8000, allowed="a port number, 0 to 65535; 0 takes any free one", check=_between(0, 65535)
    )
    url: str | None = setting(
        None,
        unset="the address it listens on",
        allowed='an absolute http or https URL without login, query or fragment, such as "https://crates.example.org"',
        check=_site_url,
    )
    implementation: Literal["granian", "uvicorn"] = setting("granian")
    default_registry: str = setting(
        "main",
        allowed=f"the name of a registry: {_REGISTRY_NAME_RULE}, and no address of the site, as `api`",
        check=check_registry_name,
    )
    trusted_proxies: tuple[Network, ...] = setting(
        (),
        allowed='an IP address or network without host bits, such as "10.0.0.5" or "10.0.0.0/8"',
        check=ipaddress.ip_network,
    )
    tls: TlsTable = field(default_factory=TlsTable)


Strictness = Literal["off", "warn", "refuse"]
"""What a policy rule does: nothing, tell the publisher, or refuse the publish."""


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """`[registries.NAME.policy]`: what local registries take (`policy.rules`) and mirrors serve (`policy.serving`)."""

    missing_description: Strictness = setting("warn")
    missing_license: Strictness = setting("warn")
    license_syntax: Strictness = setting("warn")
    license_not_allowed: Strictness = setting("refuse")
    allowed_licenses: tuple[str, ...] = setting((), allowed='an SPDX license, such as "MIT"')
    keywords: Strictness = setting("warn")
    categories: Strictness = setting("warn")
    urls: Strictness = setting("warn")
    wildcard_requirements: Strictness = setting("warn")
    unknown_dependencies: Strictness = setting("off")
    misspelled_dependencies: Strictness = setting("warn")
    dependency_registries: Strictness = setting("refuse")
    allowed_registries: tuple[str, ...] = setting(
        (),
        allowed='an index URL: "sparse+https://…/" with the last slash, or the URL of a git repository',
        check=_index_url,
    )
    count_limits: Strictness = setting("off")
    max_features: int = setting(300, allowed="a whole number from 1 up", check=_between(1, 10**9))
    max_dependencies: int = setting(500, allowed="a whole number from 1 up", check=_between(1, 10**9))
    similar_names: Strictness = setting("warn")
    new_names_by_publishers: Strictness = setting("off")
    reserved_names: Strictness = setting("refuse")
    names_of_teams: tuple[str, ...] = setting(
        (),
        allowed='a name pattern and the team it is kept for: "billing-*=payments"',
        check=_names_of_team,
    )

    # Of a mirror, from here on.
    min_age: int = setting(0, allowed=_SECONDS, check=_between(0, 10**10))
    trust_pubtime: bool = setting(True)
    min_age_exempt: tuple[str, ...] = setting((), allowed=_PATTERN, check=_crate_pattern)
    deny: tuple[str, ...] = setting((), allowed=_PATTERN, check=_crate_pattern)
    allow: tuple[str, ...] = setting((), allowed=_PATTERN, check=_crate_pattern)
    internal: tuple[str, ...] = setting(
        (), allowed='the name of a crate or a shell glob such as "acme-*"', check=_name_pattern
    )
    vanished: Literal["quarantine", "serve"] = setting("quarantine")


@dataclass(frozen=True, slots=True)
class RegistryTable:
    """`[registries.NAME]`: one registry of the site."""

    name: str
    kind: Literal["local", "mirror"] = setting("local", allowed='"local" or "mirror"; "overlay" is to come')
    access: Literal["public", "auth-required"] = setting("public")
    aliases: tuple[str, ...] = setting(
        (),
        allowed='an index URL: "sparse+https://…/" with the last slash, or the URL of a git repository',
        check=_index_url,
    )

    # Of a mirror, from here on. The address is the one that cargo itself asks for crates.io.
    upstream: str = setting(
        "sparse+https://index.crates.io/",
        allowed='the URL of a sparse index, with the last slash and without login: "sparse+https://…/"',
        check=_sparse_url,
    )
    upstream_token: str = setting("", allowed="a token, of ASCII characters without spaces", check=_one_line)
    upstream_proxy: str = setting(
        "",
        allowed='empty or the URL of an HTTP proxy, such as "http://proxy.example.org:3128"',
        check=_proxy_url,
    )
    upstream_ca: str = setting("")
    contact: str = setting(
        "", allowed='one line of ASCII text, such as "registry-team@example.org"', check=_one_line
    )
    max_age: int = setting(60, allowed=_SECONDS, check=_between(0, 10**10))
    offline: bool = setting(False)
    policy: PolicyTable = field(default_factory=PolicyTable)


@dataclass(frozen=True, slots=True)
class LimitsTable:
    """`[limits]`: how much one caller may ask for."""

    # A publish request has 32 bits for the length of the tarball.
    max_crate_mib: int = setting(50, unit="MiB", allowed="a whole number, 1 to 4095", check=_between(1, 4095))
    rate_limits: bool = setting(True)

    @property
    def max_crate_bytes(self) -> int:
        """The size of the largest tarball taken."""
        return self.max_crate_mib * 1024 * 1024


@dataclass(frozen=True, slots=True)
class UpkeepTable:
    """`[upkeep]`: what the server looks after by itself."""

    verify_days: int = setting(7, unit="days", allowed="a whole number, 0 to 3650", check=_between(0, 3650))


@dataclass(frozen=True, slots=True)
class Config:
    """Everything the operator decides, read once by `load`.

    `origins` says where each setting came from, by its full key (`registries.main.access`): the name of an
    environment variable, the file as it was named, or `default`.
    """

    server: ServerTable
    registries: Mapping[str, RegistryTable]
    limits: LimitsTable
    upkeep: UpkeepTable
    data_dir: Path
    origins: Mapping[str, str]


def load(file: Path | None, *, data_dir: Path, environ: Mapping[str, str]) -> Config:
    """Read the settings from a TOML file and the environment.

    `file` None means `config.toml` in the current folder, or only defaults if there is none.

    Without any registry in the file or the environment there is one, the public `main`. A lone
    `[registries.secret]` is not put at the root of the site: the address of a registry is in every user's
    `Cargo.lock` and must not move when the operator adds a second one. Nor does a public `main` appear beside
    it that nobody asked for. Then nothing stands at the root.

    Raises:
        ConfigError: the file cannot be read or is no TOML; a table, key or variable is unknown; a value is
            not allowed. The message names the file or variable, and the key.
    """
    if file is None and os.path.lexists(DEFAULT_FILE):
        file = DEFAULT_FILE
    document = {} if file is None else _read_file(file)
    if document.get("registries", {}) == {} and not any(
        name.startswith("CRG_REGISTRIES__") for name in environ
    ):
        document["registries"] = {"main": {}}
    config = read(Config, document, file=str(file), environ=environ, data_dir=data_dir)
    _check_together(config, None if file is None else str(file))
    return config


def settings(config: Config) -> list[tuple[str, object, str]]:
    """Return (full key, value, origin) of every setting, in the order of `config.example.toml`.

    Values are as the settings' types say, registries in the order in which they were named.
    """
    return [(".".join(key), value, config.origins[".".join(key)]) for key, value in _values(config, ())]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known about one setting, apart from its value."""

    env: str
    default: object
    unit: str | None
    unset: str | None
    allowed: str


def known() -> dict[str, Setting]:
    """Return every setting there is by its full key, with NAME for the name of a registry."""
    return {
        ".".join(key): Setting(_variable(key), leaf.default, leaf.unit, leaf.unset, leaf.allowed)
        for key, leaf in _leaves(Config, ())
    }


def read(
    root: type[_T], document: Mapping[str, object], *, file: str, environ: Mapping[str, str], **others: object
) -> _T:
    """Return a dataclass of table classes, as `Config` is one, from a TOML document and the environment.

    `others` are its fields that are no tables, except `origins`. `file` is how errors call the document.

    Raises:
        ConfigError: as `load`.
    """
    reading = _Reading(root, file, _settings_in(environ, root))
    values = reading.table(root, document, ())
    build: Callable[..., _T] = root
    return build(**values, origins=reading.origins, **others)


# --- Checks that need more than one setting -----------------------------------------------------------


def _check_together(config: Config, file: str | None) -> None:
    tls = config.server.tls
    if (tls.certificate is None) != (tls.key is None):
        missing, there = ("key", "certificate") if tls.key is None else ("certificate", "key")
        origin = config.origins[f"server.tls.{there}"]
        raise ConfigError(
            f"`{origin}`: `server.tls.{there}` is set but `server.tls.{missing}` is not; TLS needs both."
        )
    default = config.server.default_registry
    if default not in config.registries and config.origins["server.default_registry"] != "default":
        first = next(iter(config.registries))
        names = ", ".join(f"`{name}`" for name in config.registries)
        origin = config.origins["server.default_registry"]
        raise ConfigError(
            (f"`{file}`: " if file else "")
            + f"No registry stands at the root of the site: `server.default_registry` is `{default}`"
            + f" (from `{origin}`)"
            + f", but there is only {names}. Set"
            + f' `default_registry = "{first}"` in `[server]` or `CRG_SERVER__DEFAULT_REGISTRY={first}`,'
            + f" or add the table `[registries.{default}]`."
        )
    for name, registry in config.registries.items():
        _check_kind(config, name, registry)
    owners: dict[str, str] = {}
    for name, registry in config.registries.items():
        for alias in registry.aliases:
            if owners.setdefault(alias, name) != name:
                origin = config.origins[f"registries.{name}.aliases"]
                raise ConfigError(
                    f"`{origin}`: `registries.{name}.aliases` contains `{alias}`, but so does"
                    f" `registries.{owners[alias]}.aliases`; an index URL can mean only one registry."
                )


# What only a mirror has; every other policy is about publishing, which a mirror does not take.
# fmt: off
_MIRROR_SETTINGS = frozenset((
    "upstream", "upstream_token", "upstream_proxy", "upstream_ca", "contact", "max_age", "offline",
))
_MIRROR_POLICIES = frozenset((
    "min_age", "trust_pubtime", "min_age_exempt", "deny", "allow", "internal", "vanished",
))
# fmt: on


def _check_kind(config: Config, name: str, registry: RegistryTable) -> None:
    """Refuse what is set for a registry of another kind: whoever wrote it believes that it holds."""
    for (*at, key), value in _values(registry, ()):
        if at:
            kind = "mirror" if key in _MIRROR_POLICIES else "local"
        elif key in _MIRROR_SETTINGS:
            kind = "mirror"
        else:
            continue
        dotted = ".".join((*at, key))
        if kind != registry.kind and value != known()[f"registries.NAME.{dotted}"].default:
            origin = config.origins[f"registries.{name}.{dotted}"]
            hint = 'set `kind = "mirror"` too, or remove it' if kind == "mirror" else "remove it"
            raise ConfigError(
                f"`{origin}`: `registries.{name}.{dotted}` is for registries of the kind `{kind}`, and `{name}` is"
                f" `{registry.kind}`; {hint}."
            )


# --- From table classes to what they may contain ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A field that is a setting, as the reader needs it."""

    default: object
    unit: str | None
    unset: str | None
    allowed: str
    check: Callable[[Any], object] | None
    kind: type[bool | int | float | str]  # of an array, its items'
    choices: tuple[str, ...]
    is_array: bool
    may_be_none: bool

    def from_toml(self, found: object, said_by: str) -> object:
        """Return the value to keep for what the file says."""
        if self.may_be_none and found == "":
            return None
        if not self.is_array:
            return self._item(found, f"{said_by} is")
        if not isinstance(found, list):
            raise ConfigError(
                f"{said_by} is {_shown(found)} but must be an array; each item, {self.allowed}."
            )
        return tuple(self._item(item, f"{said_by} contains") for item in found)

    def from_text(self, text: str, said_by: str) -> object:
        """Return the value to keep for the text of an environment variable."""
        if not self.is_array:
            return self.from_toml(self._from_word(text), said_by)
        if text.lstrip().startswith("["):
            try:
                found = tomli.loads(f"array = {text}")["array"]
            except tomli.TOMLDecodeError as error:
                raise ConfigError(f"{said_by} is `{text}`, which is not a TOML array: {error}.") from None
        else:
            found = [self._from_word(word.strip()) for word in text.split(",") if word.strip()]
        return self.from_toml(found, said_by)

    def _from_word(self, word: str) -> object:
        try:
            if self.kind is bool:
                return {"true": True, "false": False}[word.lower()]
            return self.kind(word)
        except (KeyError, ValueError):
            return word  # `_item` refuses it and says what is allowed

    def _item(self, found: object, said: str) -> object:
        refused = ConfigError(f"{said} {_shown(found)} but must be {self.allowed}.")
        # In Python `True` is an int. In TOML it is not, while `1` is good enough for a float.
        if type(found) is not self.kind and not (self.kind is float and type(found) is int):
            raise refused
        if self.choices and found not in self.choices:
            raise refused
        if self.check is None:
            return self.kind(found)
        try:
            return self.check(found)
        except (ValueError, ConfigError):
            raise refused from None


@dataclass(frozen=True, slots=True)
class _Nested:
    """A field that is a table (`[server]`), or a table of named tables (`[registries.NAME]`)."""

    table: type
    is_named: bool


def _parts(table: type) -> dict[str, _Leaf | _Nested]:
    """Return what a table class may contain, by key; without fields that are no settings, as `name`."""
    hints = typing.get_type_hints(table)
    parts: dict[str, _Leaf | _Nested] = {}
    for each in dataclasses.fields(table):
        hint = hints[each.name]
        if dataclasses.is_dataclass(hint):
            parts[each.name] = _Nested(typing.cast("type", hint), is_named=False)
        elif "allowed" in each.metadata:
            parts[each.name] = _leaf(hint, each)
        elif typing.get_origin(hint) is Mapping and dataclasses.is_dataclass(typing.get_args(hint)[1]):
            parts[each.name] = _Nested(typing.get_args(hint)[1], is_named=True)
    return parts


_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def _leaf(hint: Any, field: dataclasses.Field[object]) -> _Leaf:
    may_be_none = isinstance(hint, types.UnionType) and type(None) in typing.get_args(hint)
    if may_be_none:
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    is_array = typing.get_origin(hint) is tuple
    if is_array:
        hint = typing.get_args(hint)[0]
    choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
    kind = hint if hint in _WORDS else str
    if kind is not hint and not choices and field.metadata["check"] is None:
        raise TypeError(f"the setting `{field.name}` needs a `check` that makes its type of a string")
    return _Leaf(
        field.default,
        field.metadata["unit"],
        field.metadata["unset"],
        field.metadata["allowed"] or " or ".join(map(_shown_bare, choices)) or _WORDS[kind],
        field.metadata["check"],
        kind,
        choices,
        is_array,
        may_be_none,
    )


def _leaves(table: type, at: _Key) -> Iterable[tuple[_Key, _Leaf]]:
    for name, part in _parts(table).items():
        if isinstance(part, _Leaf):
            yield (*at, name), part
        else:
            yield from _leaves(part.table, (*at, name, "NAME") if part.is_named else (*at, name))


def _values(table: Any, at: _Key) -> Iterable[tuple[_Key, object]]:
    for name, part in _parts(type(table)).items():
        value = getattr(table, name)
        if isinstance(part, _Leaf):
            yield (*at, name), value
        elif part.is_named:
            for key, child in value.items():
                yield from _values(child, (*at, name, key))
        else:
            yield from _values(value, (*at, name))


# --- From file and environment to table classes -------------------------------------------------------


class _Reading:
    """One pass over what the file and the environment say; `origins` fills up on the way."""

    def __init__(self, root: type, file: str, environ: Mapping[_Key, tuple[str, str]]) -> None:
        self._root = root
        self._file = file
        self._environ = environ
        self.origins: dict[str, str] = {}

    def table(self, table: type, found: object, at: _Key) -> dict[str, Any]:
        """Return the arguments for a table class, except those that are no settings."""
        parts = _parts(table)
        document = self._document(found, at)
        unknown = [key for key in document if key not in parts]
        if unknown:
            dotted = ".".join((*at, unknown[0]))
            hint = self._hint(unknown[0], parts, at)
            raise ConfigError(f"`{self._file}`: There is no setting `{dotted}`{hint}")
        values: dict[str, Any] = {}
        for name, part in parts.items():
            key = (*at, name)
            if isinstance(part, _Leaf):
                values[name] = self._value(part, document, key)
            elif part.is_named:
                values[name] = self.tables(part.table, document.get(name, {}), key)
            else:
                values[name] = part.table(**self.table(part.table, document.get(name, {}), key))
        return values

    def tables(self, table: type, found: object, at: _Key) -> dict[str, Any]:
        """Return the named tables that the file or a variable names, in that order."""
        document = self._document(found, at)
        names = dict.fromkeys(document, f"`{self._file}`: ")
        for key, (variable, _) in self._environ.items():
            if key[: len(at)] == at:
                names.setdefault(key[len(at)], f"`{variable}`: ")
        named = {}
        for name, said_by in names.items():
            try:
                check_registry_name(name)
            except ConfigError as error:
                raise ConfigError(f"{said_by}{error}") from None
            named[name] = table(name=name, **self.table(table, document.get(name, {}), (*at, name)))
        return named

    def _document(self, found: object, at: _Key) -> dict[str, object]:
        if not isinstance(found, dict):
            key = ".".join(at)
            raise ConfigError(f"`{self._file}`: `{key}` is {_shown(found)} but must be a table, `[{key}]`.")
        return found

    def _value(self, leaf: _Leaf, document: Mapping[str, object], key: _Key) -> object:
        dotted = ".".join(key)
        if key in self._environ:
            variable, text = self._environ[key]
            self.origins[dotted] = variable
            return leaf.from_text(text, f"`{variable}`")
        if key[-1] in document:
            self.origins[dotted] = self._file
            return leaf.from_toml(document[key[-1]], f"`{self._file}`: `{dotted}`")
        self.origins[dotted] = "default"
        return leaf.default

    def _hint(self, key: str, parts: Iterable[str], at: _Key) -> str:
        near = [".".join((*at, part)) for part in difflib.get_close_matches(key, parts, n=1)]
        # A key of another table: the line stands under the wrong heading.
        near += [".".join(path) for path, _ in _leaves(self._root, ()) if path[-1] == key]
        return _did_you_mean(near) or f"; here can be {', '.join(f'`{part}`' for part in parts)}."


def _read_file(file: Path) -> dict[str, object]:
    try:
        return tomli.loads(file.read_bytes().decode())
    except OSError as error:
        raise ConfigError(f"`{file}` cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"`{file}`, line {line}: This is not UTF-8, as TOML must be.") from None
    except tomli.TOMLDecodeError as error:
        raise ConfigError(f"`{file}`, line {error.lineno}, column {error.colno}: {error.msg}.") from None


def _settings_in(environ: Mapping[str, str], root: type) -> dict[_Key, tuple[str, str]]:
    """Return (variable, text) by the key of the setting, for all of our variables."""
    keys = [key for key, _ in _leaves(root, ())]
    found: dict[_Key, tuple[str, str]] = {}
    for variable, text in environ.items():
        if not variable.startswith("CRG_") or variable in _FOR_THE_CLI:
            continue
        words = variable.removeprefix("CRG_").split("__")
        candidates = [_named(key, words) for key in keys]
        key = next((key for key in candidates if _variable(key) == variable), None)
        if key is None:
            variables = [_variable(key) for key in candidates]
            near = [name for name in variables if name.endswith((f"__{words[-1]}", f"__{words[0]}"))]
            near += difflib.get_close_matches(variable.upper(), variables, n=1, cutoff=0.8)
            raise ConfigError(
                f"The environment variable `{variable}` is not a setting"
                f"{_did_you_mean(near) or '; it must be `CRG_<TABLE>__<KEY>`, as `CRG_SERVER__PORT`.'}"
            )
        found[key] = variable, text
    return found


def _named(key: _Key, words: list[str]) -> _Key:
    """Put the name that a variable's second word spells in place of NAME."""
    name = words[1].lower().replace("_", "-") if len(words) > 1 else "NAME"
    return tuple(name if part == "NAME" else part for part in key)


def _variable(key: _Key) -> str:
    return "CRG_" + "__".join(part.upper().replace("-", "_") for part in key)


def _did_you_mean(near: list[str]) -> str:
    return f"; did you mean `{near[0]}`?" if near else ""


def _shown(found: object) -> str:
    if isinstance(found, dict):
        return "a table"
    return f"`{_shown_bare(found)}`"


def _shown_bare(found: object) -> str:
    if isinstance(found, bool | str | list):
        return json.dumps(found, ensure_ascii=False, default=str)
    return str(found)
