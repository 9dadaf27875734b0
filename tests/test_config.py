import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
import tomli

from cargo_registry import config
from cargo_registry.config import Config
from cargo_registry.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
DATA_DIR = Path("data")


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`config.toml` is looked up in the current folder."""
    monkeypatch.chdir(tmp_path)


def load(toml: str = "", **environ: str) -> Config:
    Path("config.toml").write_text(toml)
    return config.load(None, data_dir=DATA_DIR, environ=environ)


def refusal(toml: str = "", **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(toml, **environ)
    return str(caught.value)


def value_of(loaded: Config, key: str) -> object:
    return {known: value for known, value, _ in config.settings(loaded)}[key]


# --- Where settings come from -------------------------------------------------------------------------


def test_without_file_and_environment_there_is_one_public_local_registry() -> None:
    loaded = config.load(None, data_dir=DATA_DIR, environ={})

    settings = [setting for setting in config.settings(loaded) if ".policy." not in setting[0]]
    assert settings == [
        ("server.host", "127.0.0.1", "default"),
        ("server.port", 8000, "default"),
        ("server.url", None, "default"),
        ("server.implementation", "granian", "default"),
        ("server.default_registry", "main", "default"),
        ("server.trusted_proxies", (), "default"),
        ("server.tls.certificate", None, "default"),
        ("server.tls.key", None, "default"),
        ("server.tls.min_version", "1.2", "default"),
        ("registries.main.kind", "local", "default"),
        ("registries.main.access", "public", "default"),
        ("registries.main.aliases", (), "default"),
        ("registries.main.upstream", "sparse+https://index.crates.io/", "default"),
        ("registries.main.upstream_token", "", "default"),
        ("registries.main.upstream_proxy", "", "default"),
        ("registries.main.upstream_ca", "", "default"),
        ("registries.main.contact", "", "default"),
        ("registries.main.max_age", 60, "default"),
        ("registries.main.offline", False, "default"),
        ("limits.max_crate_mib", 50, "default"),
        ("limits.rate_limits", True, "default"),
        ("upkeep.verify_days", 7, "default"),
    ]
    assert loaded.registries["main"].name == "main"
    assert loaded.limits.max_crate_bytes == 52_428_800
    assert loaded.data_dir == DATA_DIR


def test_file_is_config_toml_of_the_current_folder_unless_named(tmp_path: Path) -> None:
    Path("config.toml").write_text("[server]\nport = 1")
    named = tmp_path / "named.toml"
    named.write_text("[server]\nport = 2")

    found = config.load(None, data_dir=DATA_DIR, environ={})
    asked = config.load(named, data_dir=DATA_DIR, environ={})

    assert (found.server.port, found.origins["server.port"]) == (1, "config.toml")
    assert (asked.server.port, asked.origins["server.port"]) == (2, str(named))


def test_environment_wins_over_file_and_file_over_default() -> None:
    loaded = load(
        '[server]\nhost = "::1"\nport = 1\n[limits]\nmax_crate_mib = 7', CRG_SERVER__PORT="2", PATH="/bin"
    )

    assert (loaded.server.host, loaded.server.port, loaded.limits.max_crate_mib) == ("::1", 2, 7)
    assert {key: origin for key, _, origin in config.settings(loaded) if origin != "default"} == {
        "server.host": "config.toml",
        "server.port": "CRG_SERVER__PORT",
        "limits.max_crate_mib": "config.toml",
    }


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("CRG_SERVER__HOST", "0.0.0.0", "server.host", "0.0.0.0"),
        ("CRG_SERVER__HOST", "::", "server.host", "::"),
        ("CRG_SERVER__HOST", "registry.internal", "server.host", "registry.internal"),
        ("CRG_SERVER__PORT", "0", "server.port", 0),
        ("CRG_SERVER__PORT", "65535", "server.port", 65535),
        ("CRG_SERVER__URL", "https://crates.example.org/", "server.url", "https://crates.example.org"),
        ("CRG_SERVER__URL", "http://[::1]:8000/rust/", "server.url", "http://[::1]:8000/rust"),
        ("CRG_SERVER__URL", "", "server.url", None),
        ("CRG_SERVER__IMPLEMENTATION", "uvicorn", "server.implementation", "uvicorn"),
        ("CRG_SERVER__TRUSTED_PROXIES", "", "server.trusted_proxies", ()),
        (
            "CRG_SERVER__TRUSTED_PROXIES",
            "10.0.0.0/8, ::1,",
            "server.trusted_proxies",
            (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1/128")),
        ),
        (
            "CRG_SERVER__TRUSTED_PROXIES",
            '["127.0.0.1"]',
            "server.trusted_proxies",
            (ipaddress.ip_network("127.0.0.1/32"),),
        ),
        ("CRG_REGISTRIES__MAIN__KIND", "local", "registries.main.kind", "local"),
        ("CRG_REGISTRIES__MAIN__ACCESS", "auth-required", "registries.main.access", "auth-required"),
        (
            "CRG_REGISTRIES__MAIN__ALIASES",
            "sparse+https://old.example.org/index/,ssh://git@example.org/index.git",
            "registries.main.aliases",
            ("sparse+https://old.example.org/index/", "ssh://git@example.org/index.git"),
        ),
        ("CRG_LIMITS__MAX_CRATE_MIB", "4095", "limits.max_crate_mib", 4095),
        ("CRG_LIMITS__RATE_LIMITS", "false", "limits.rate_limits", False),
        ("CRG_LIMITS__RATE_LIMITS", "True", "limits.rate_limits", True),
    ],
)
def test_setting_can_come_from_the_environment(variable: str, text: str, key: str, value: object) -> None:
    loaded = load(**{variable: text})

    assert value_of(loaded, key) == value
    assert loaded.origins[key] == variable


def test_every_setting_has_a_variable_that_cannot_mean_another() -> None:
    variables = [setting.env for setting in config.known().values()]

    assert len(set(variables)) == len(variables)
    assert [v for v in variables if not re.fullmatch(r"CRG(_|__)[A-Z0-9]+((_|__)[A-Z0-9]+)+", v)] == []
    assert config.known()["registries.NAME.access"].env == "CRG_REGISTRIES__NAME__ACCESS"


def test_variables_of_the_command_line_and_of_others_are_not_settings() -> None:
    loaded = load(CRG_CONFIG="/etc/registry.toml", CRG_DATA_DIR="/srv", CARGO_HOME="/c", CRGX__Y="1")

    assert set(loaded.origins.values()) == {"default"}


# --- Registries ---------------------------------------------------------------------------------------


def test_registries_come_from_the_file_and_from_the_environment() -> None:
    loaded = load(
        '[registries.main]\n[registries.my-crates]\naccess = "auth-required"',
        CRG_REGISTRIES__MY_CRATES__ALIASES="sparse+https://old.example.org/",
        CRG_REGISTRIES__TEAM_A__ACCESS="auth-required",
    )

    assert [(r.name, r.access, r.aliases) for r in loaded.registries.values()] == [
        ("main", "public", ()),
        ("my-crates", "auth-required", ("sparse+https://old.example.org/",)),
        ("team-a", "auth-required", ()),
    ]
    assert list(loaded.registries) == ["main", "my-crates", "team-a"]
    assert loaded.origins["registries.my-crates.access"] == "config.toml"
    assert loaded.origins["registries.my-crates.aliases"] == "CRG_REGISTRIES__MY_CRATES__ALIASES"


def test_no_public_registry_appears_beside_the_ones_asked_for() -> None:
    loaded = load('[server]\ndefault_registry = "secret"\n[registries.secret]')

    assert list(loaded.registries) == ["secret"]


@pytest.mark.parametrize(
    ("toml", "environ"),
    [
        ('[registries.secret]\naccess = "auth-required"', {}),
        ("", {"CRG_REGISTRIES__SECRET__ACCESS": "auth-required"}),
    ],
)
def test_a_lone_registry_needs_no_server_table(toml: str, environ: dict[str, str]) -> None:
    assert list(load(toml, **environ).registries) == ["secret"]


def test_default_registry_that_is_set_must_exist() -> None:
    assert refusal(CRG_SERVER__DEFAULT_REGISTRY="other").startswith(
        "`config.toml`: No registry stands at the root of the site: `server.default_registry` is `other`"
        " (from `CRG_SERVER__DEFAULT_REGISTRY`), but there is only `main`."
    )


def test_alias_can_mean_only_one_registry() -> None:
    toml = '[registries.main]\naliases = ["{0}"]\n[registries.b]\naliases = ["{0}"]'

    assert refusal(toml.format("https://old.example.org/index")) == (
        "`config.toml`: `registries.b.aliases` contains `https://old.example.org/index`, but so does"
        " `registries.main.aliases`; an index URL can mean only one registry."
    )


@pytest.mark.parametrize("name", ["a", "main", "crates-io", "team-2", "x86-64-v3"])
def test_registry_name_is_accepted(name: str) -> None:
    assert config.check_registry_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "A", "Main", "my_crates", "2nd", "-a", "a-", "a--b", "a.b", "a/b", "é", "a\n", "a b", "a" * 65],
)
def test_registry_name_that_breaks_the_rule_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="it must be at most 64 lower-case letters, digits and single `-`"):
        config.check_registry_name(name)


# fmt: off
SITE_SEGMENTS = [
    "index", "api", "me", "healthz", "static", "crates", "login", "logout", "search", "tokens", "admin",
    "metrics", "docs", "about", "teams", "users", "assets", "account", "readyz",
]
# fmt: on


@pytest.mark.parametrize("name", SITE_SEGMENTS)
def test_registry_cannot_hide_the_pages_of_the_site(name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"`{name}` cannot name a registry: the site itself answers at `/{name}`"
    ):
        config.check_registry_name(name)


def test_refused_registry_name_is_told_with_its_origin() -> None:
    assert refusal("[registries.api]").startswith("`config.toml`: `api` cannot name a registry")
    assert refusal('[registries."my crates"]').startswith("`config.toml`: `my crates` cannot name a registry")
    assert refusal(CRG_REGISTRIES__2ND__KIND="local").startswith(
        "`CRG_REGISTRIES__2ND__KIND`: `2nd` cannot name"
    )


# --- Values that are refused --------------------------------------------------------------------------

HOST = 'an address or host name without port and brackets, such as "127.0.0.1", "0.0.0.0" or "::"'
PORT = "a port number, 0 to 65535; 0 takes any free one"
URL = 'an absolute http or https URL without login, query or fragment, such as "https://crates.example.org"'
PROXY = 'an IP address or network without host bits, such as "10.0.0.5" or "10.0.0.0/8"'
ALIAS = 'an index URL: "sparse+https://…/" with the last slash, or the URL of a git repository'
SIZE = "a whole number, 1 to 4095"
KIND = '"local" or "mirror"; "overlay" is to come'


@pytest.mark.parametrize(
    ("key", "toml", "found", "allowed"),
    [
        ("server.host", "80", "is `80`", HOST),
        ("server.host", '""', 'is `""`', HOST),
        ("server.host", '"localhost:80"', 'is `"localhost:80"`', HOST),
        ("server.host", '"[::1]"', 'is `"[::1]"`', HOST),
        ("server.host", '"http://a"', 'is `"http://a"`', HOST),
        ("server.port", '"80"', 'is `"80"`', PORT),
        ("server.port", "65536", "is `65536`", PORT),
        ("server.port", "-1", "is `-1`", PORT),
        ("server.port", "true", "is `true`", PORT),
        ("server.port", "80.0", "is `80.0`", PORT),
        ("server.port", "{ http = 80 }", "is a table", PORT),
        ("server.url", "true", "is `true`", URL),
        ("server.url", '"crates.example.org"', 'is `"crates.example.org"`', URL),
        ("server.url", '"/crates"', 'is `"/crates"`', URL),
        ("server.url", '"ftp://a"', 'is `"ftp://a"`', URL),
        ("server.url", '"https://"', 'is `"https://"`', URL),
        ("server.url", '"https://a:99999"', 'is `"https://a:99999"`', URL),
        ("server.url", '"https://a/?"', 'is `"https://a/?"`', URL),
        ("server.url", '"https://a/#b"', 'is `"https://a/#b"`', URL),
        ("server.url", '"https://me:pw@a"', 'is `"https://me:pw@a"`', URL),
        ("server.url", '"https://a/\\t"', 'is `"https://a/\\t"`', URL),
        ("server.url", '"https://a\\\\b"', 'is `"https://a\\\\b"`', URL),
        ("server.implementation", '"gunicorn"', 'is `"gunicorn"`', '"granian" or "uvicorn"'),
        ("server.trusted_proxies", '["proxy"]', 'contains `"proxy"`', PROXY),
        ("server.trusted_proxies", '["10.0.0.1/8"]', 'contains `"10.0.0.1/8"`', PROXY),
        ("server.trusted_proxies", "[10]", "contains `10`", PROXY),
        ("server.trusted_proxies", '"::1"', 'is `"::1"`', f"an array; each item, {PROXY}"),
        ("registries.main.kind", '"overlay"', 'is `"overlay"`', KIND),
        ("registries.main.kind", '"remote"', 'is `"remote"`', KIND),
        ("registries.main.access", '"private"', 'is `"private"`', '"public" or "auth-required"'),
        ("registries.main.access", "1979-05-27", "is `1979-05-27`", '"public" or "auth-required"'),
        ("registries.main.aliases", '["crates"]', 'contains `"crates"`', ALIAS),
        ("registries.main.aliases", '["sparse+https://a"]', 'contains `"sparse+https://a"`', ALIAS),
        ("registries.main.aliases", '["sparse+ssh://a/"]', 'contains `"sparse+ssh://a/"`', ALIAS),
        ("registries.main.aliases", '["git@a:b.git"]', 'contains `"git@a:b.git"`', ALIAS),
        ("limits.max_crate_mib", "0", "is `0`", SIZE),
        ("limits.max_crate_mib", "4096", "is `4096`", SIZE),
        ("limits.rate_limits", '"no"', 'is `"no"`', "true or false"),
        ("limits.rate_limits", "0", "is `0`", "true or false"),
    ],
)
def test_value_that_is_not_allowed_is_told_with_file_and_key(
    key: str, toml: str, found: str, allowed: str
) -> None:
    table, name = key.rsplit(".", 1)

    assert refusal(f"[{table}]\n{name} = {toml}") == f"`config.toml`: `{key}` {found} but must be {allowed}."


@pytest.mark.parametrize(
    ("variable", "text", "found", "allowed"),
    [
        ("CRG_SERVER__PORT", "http", 'is `"http"`', PORT),
        ("CRG_SERVER__PORT", "", 'is `""`', PORT),
        ("CRG_SERVER__PORT", "65536", "is `65536`", PORT),
        ("CRG_LIMITS__RATE_LIMITS", "off", 'is `"off"`', "true or false"),
        ("CRG_SERVER__TRUSTED_PROXIES", "::1,proxy", 'contains `"proxy"`', PROXY),
        ("CRG_SERVER__TRUSTED_PROXIES", "[1]", "contains `1`", PROXY),
        ("CRG_REGISTRIES__TEAM_A__KIND", "overlay", 'is `"overlay"`', KIND),
    ],
)
def test_text_that_is_not_allowed_is_told_with_its_variable(
    variable: str, text: str, found: str, allowed: str
) -> None:
    assert refusal(**{variable: text}) == f"`{variable}` {found} but must be {allowed}."


def test_default_registry_must_be_a_possible_name() -> None:
    for name in ("Main", "api"):
        assert refusal(f'[server]\ndefault_registry = "{name}"').startswith(
            f'`config.toml`: `server.default_registry` is `"{name}"` but must be the name of a registry: '
        )


def test_list_of_a_variable_must_be_a_toml_array() -> None:
    assert refusal(CRG_SERVER__TRUSTED_PROXIES="[::1]").startswith(
        "`CRG_SERVER__TRUSTED_PROXIES` is `[::1]`, which is not a TOML array: "
    )


# --- Names that are unknown ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "key", "hint"),
    [
        ("[server]\nprot = 80", "server.prot", "; did you mean `server.port`?"),
        ("[servr]\nport = 80", "servr", "; did you mean `server`?"),
        ("port = 80", "port", "; did you mean `server.port`?"),
        ("[limits]\nport = 80", "limits.port", "; did you mean `server.port`?"),
        ("[server]\naccess = 'public'", "server.access", "; did you mean `registries.NAME.access`?"),
        ("[registries.main]\nacess = 1", "registries.main.acess", "; did you mean `registries.main.access`?"),
        (
            "[registries.main]\nname = 'x'",
            "registries.main.name",
            (
                "; here can be `kind`, `access`, `aliases`, `upstream`, `upstream_token`, `upstream_proxy`, "
                "`upstream_ca`, `contact`, `max_age`, `offline`, `policy`."
            ),
        ),
        ("[database]", "database", "; here can be `server`, `registries`, `limits`, `upkeep`."),
        ("data_dir = 'x'", "data_dir", "; here can be `server`, `registries`, `limits`, `upkeep`."),
        ("origins = {}", "origins", "; here can be `server`, `registries`, `limits`, `upkeep`."),
    ],
)
def test_unknown_key_is_told_with_a_suggestion(toml: str, key: str, hint: str) -> None:
    assert refusal(toml) == f"`config.toml`: There is no setting `{key}`{hint}"


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("CRG_SERVER__PROT", "; did you mean `CRG_SERVER__PORT`?"),
        ("CRG_SERVERS__PORT", "; did you mean `CRG_SERVER__PORT`?"),
        ("CRG_PORT", "; did you mean `CRG_SERVER__PORT`?"),
        ("CRG_SERVER_PORT", "; did you mean `CRG_SERVER__PORT`?"),
        ("CRG_SERVER__port", "; did you mean `CRG_SERVER__PORT`?"),
        ("CRG_REGISTRIES__TEAM_A__ACCES", "; did you mean `CRG_REGISTRIES__TEAM_A__ACCESS`?"),
        ("CRG_REGISTRIES__MAIN", "; did you mean `CRG_REGISTRIES__MAIN__KIND`?"),
        ("CRG_SERVER__PORT__X", "; did you mean `CRG_SERVER__PORT`?"),
        ("CRG_DEBUG", "; it must be `CRG_<TABLE>__<KEY>`, as `CRG_SERVER__PORT`."),
        ("CRG_DATABASE__DSN", "; it must be `CRG_<TABLE>__<KEY>`, as `CRG_SERVER__PORT`."),
    ],
)
def test_unknown_variable_is_told_with_a_suggestion(variable: str, hint: str) -> None:
    assert refusal(**{variable: "1"}) == f"The environment variable `{variable}` is not a setting{hint}"


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("server = 1", "`server` is `1` but must be a table, `[server]`."),
        ("registries = []", "`registries` is `[]` but must be a table, `[registries]`."),
        (
            "[registries]\nmain = 'local'",
            '`registries.main` is `"local"` but must be a table, `[registries.main]`.',
        ),
    ],
)
def test_table_must_be_a_table(toml: str, message: str) -> None:
    assert refusal(toml) == f"`config.toml`: {message}"


# --- Files that cannot be read ------------------------------------------------------------------------


def test_syntax_error_is_told_with_file_and_line() -> None:
    assert refusal("[server]\nport = = 1") == "`config.toml`, line 2, column 8: Invalid value."
    assert refusal("[server]\nport = 1\nport = 2").startswith("`config.toml`, line 3, ")


def test_file_that_is_not_utf8_is_told_with_its_line() -> None:
    Path("config.toml").write_bytes(b'[server]\nhost = "\xff"')

    with pytest.raises(ConfigError, match=r"^`config\.toml`, line 2: This is not UTF-8, as TOML must be\.$"):
        config.load(None, data_dir=DATA_DIR, environ={})


def test_named_file_must_exist() -> None:
    with pytest.raises(ConfigError, match=r"^`no\.toml` cannot be read: No such file or directory\.$"):
        config.load(Path("no.toml"), data_dir=DATA_DIR, environ={})


def test_config_toml_that_cannot_be_read_is_not_passed_over() -> None:
    Path("config.toml").symlink_to("gone.toml")
    with pytest.raises(ConfigError, match=r"^`config\.toml` cannot be read: No such file or directory\.$"):
        config.load(None, data_dir=DATA_DIR, environ={})

    with pytest.raises(ConfigError, match=r"^`\.` cannot be read: Is a directory\.$"):
        config.load(Path(), data_dir=DATA_DIR, environ={})


# --- config.example.toml ------------------------------------------------------------------------------

SETTING_LINE = re.compile(r"^#([a-z_]+ = .*|\[.*\])$", re.MULTILINE)


def uncommented() -> str:
    return SETTING_LINE.sub(r"\1", EXAMPLE.read_text())


def toml_of(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_of, value))}]"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def test_example_loads_as_it_is_and_changes_nothing() -> None:
    loaded = load(EXAMPLE.read_text())

    assert set(loaded.origins.values()) == {"default"}


def test_example_with_every_line_uncommented_loads_and_sets_every_setting() -> None:
    loaded = load(uncommented())

    assert set(loaded.origins.values()) == {"config.toml"}
    documented = {key.replace(".main.", ".NAME.") for key in loaded.origins}
    assert documented == set(config.known())


def test_example_has_no_setting_that_does_not_exist() -> None:
    def keys(table: Mapping[str, object], at: str = "") -> list[str]:
        return [
            key
            for name, value in table.items()
            for key in (keys(value, f"{at}{name}.") if isinstance(value, dict) else [f"{at}{name}"])
        ]

    documented = [key.replace(".main.", ".NAME.") for key in keys(tomli.loads(uncommented()))]
    assert documented == list(config.known())


def test_example_tells_default_and_unit_of_every_setting() -> None:
    paragraphs = [
        paragraph for paragraph in EXAMPLE.read_text().split("\n\n") if SETTING_LINE.search(paragraph)
    ]

    assert len(paragraphs) == len(config.known())
    for paragraph, (key, setting) in zip(paragraphs, config.known().items(), strict=True):
        *prose, default, line = paragraph.removeprefix(f"[{key.rsplit('.', 1)[0]}]\n").splitlines()
        assert line.startswith(f"#{key.rsplit('.', 1)[1]} = ")
        assert prose, f"{key}: say when to change it"
        said = setting.unset if setting.default is None else toml_of(setting.default)
        assert default == f"# Default: {said}{f' {setting.unit}' if setting.unit else ''}."
        assert setting.default is None or line.endswith(f"= {toml_of(setting.default)}")


def test_bare_numbers_travel_with_their_unit() -> None:
    for key, setting in config.known().items():
        if setting.unit:
            unit = {"MiB": "mib", "bytes": "bytes", "seconds": "s", "minutes": "min", "days": "days"}[
                setting.unit
            ]
            assert key.endswith(f"_{unit}")


# --- Tables that later versions add -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TlsTable:
    cert: Path | None = config.setting(None, unset="no TLS", allowed="a file", check=Path)
    versions: tuple[int, ...] = config.setting((12, 13))


@dataclass(frozen=True, slots=True)
class SiteTable:
    timeout_s: float = config.setting(1.5, unit="seconds")
    tls: TlsTable = field(default_factory=TlsTable)


@dataclass(frozen=True, slots=True)
class PolicyTable:
    mode: Literal["open", "closed"] = config.setting("open")


@dataclass(frozen=True, slots=True)
class RepoTable:
    name: str
    policy: PolicyTable = field(default_factory=PolicyTable)


@dataclass(frozen=True, slots=True)
class Later:
    site: SiteTable
    repos: Mapping[str, RepoTable]
    origins: Mapping[str, str]


def read_later(toml: str = "", **environ: str) -> Later:
    return config.read(Later, tomli.loads(toml), file="later.toml", environ=environ)


def test_tables_can_nest() -> None:
    read = read_later(
        '[site.tls]\ncert = "a.pem"\n[repos.one.policy]\nmode = "closed"\n[repos.two]',
        CRG_SITE__TLS__VERSIONS="13",
        CRG_REPOS__TWO_B__POLICY__MODE="closed",
    )

    assert read.site == SiteTable(1.5, TlsTable(Path("a.pem"), (13,)))
    assert {name: repo.policy.mode for name, repo in read.repos.items()} == {
        "one": "closed",
        "two": "open",
        "two-b": "closed",
    }
    assert read.origins == {
        "site.timeout_s": "default",
        "site.tls.cert": "later.toml",
        "site.tls.versions": "CRG_SITE__TLS__VERSIONS",
        "repos.one.policy.mode": "later.toml",
        "repos.two.policy.mode": "default",
        "repos.two-b.policy.mode": "CRG_REPOS__TWO_B__POLICY__MODE",
    }


def test_nested_tables_have_their_defaults() -> None:
    assert read_later().site == SiteTable()


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("[site]\ntls = true", "`site.tls` is `true` but must be a table, `[site.tls]`."),
        ("[site.tls]\ncert = 1", "`site.tls.cert` is `1` but must be a file."),
        ("[site.tls]\nversions = ['a']", '`site.tls.versions` contains `"a"` but must be a whole number.'),
        ("[site.tls]\nkey = 1", "There is no setting `site.tls.key`; here can be `cert`, `versions`."),
        ("[site]\ncert = ''", "There is no setting `site.cert`; did you mean `site.tls.cert`?"),
        ("[repos.a.policy]\nmode = 1", '`repos.a.policy.mode` is `1` but must be "open" or "closed".'),
        ("[site]\ntimeout_s = '1'", '`site.timeout_s` is `"1"` but must be a number.'),
    ],
)
def test_errors_in_nested_tables_name_the_whole_key(toml: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_later(toml)

    assert str(caught.value) == f"`later.toml`: {message}"


def test_whole_number_is_a_number() -> None:
    assert read_later("[site]\ntimeout_s = 2").site.timeout_s == 2
    assert read_later(CRG_SITE__TIMEOUT_S="0.25").site.timeout_s == 0.25


def test_type_that_toml_does_not_have_needs_a_check() -> None:
    @dataclass(frozen=True, slots=True)
    class WrongTable:
        file: Path | None = config.setting(None)

    @dataclass(frozen=True, slots=True)
    class Wrong:
        site: WrongTable

    with pytest.raises(TypeError, match="`file`"):
        config.read(Wrong, {}, file="later.toml", environ={})
