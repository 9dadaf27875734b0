from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from cargo_registry.config import PolicyTable
from cargo_registry.crate import manifest
from cargo_registry.crate.entry import IndexEntry, OwnUrls
from cargo_registry.crate.names import CrateName
from cargo_registry.errors import Refused
from cargo_registry.policy import rules
from cargo_registry.policy.rules import RULES, Facts

OURS = "sparse+https://crates.example.org/index/"
OTHER = "sparse+https://other.example.org/index/"
CRATES_IO = "https://github.com/rust-lang/crates.io-index"

# Breaks no rule, however strict.
GOOD = """
description = "Adds numbers."
license = "MIT OR Apache-2.0"
"""


def facts(package: str = GOOD, tables: str = "", *, policy: PolicyTable | None = None, **more: Any) -> Facts:
    """Return what a rule looks at, as it is for a crate `sums` of this manifest."""
    read = manifest.parse(f'[package]\nname = "sums"\nversion = "1.0.0"\n{package}\n{tables}'.encode())
    entry = IndexEntry.from_manifest(
        read, cksum="0" * 64, pubtime=datetime(2025, 1, 1, tzinfo=UTC), own_urls=OwnUrls([OURS])
    )
    known: dict[str, Any] = {"is_new": True, "is_admin": False, "teams": ()}
    looked_up: dict[str, Any] = {"unknown": (), "misspelled": (), "similar": ()}
    return Facts(manifest=read, entry=entry, policy=policy or PolicyTable(), **{**known, **looked_up, **more})


@dataclass(frozen=True)
class Case:
    """A defect, what is said of it, and the same facts without the defect."""

    rule: str
    defect: Facts
    text: str
    fixed: Facts = field(default_factory=facts)
    settings: dict[str, Any] = field(default_factory=dict)


def lines(**values: str) -> str:
    return GOOD + "".join(f"{key} = {value}\n" for key, value in values.items())


def dep(
    name: str, rest: str = f'version = "1", registry-index = "{OURS}"', table: str = "dependencies"
) -> str:
    return f"[{table}]\n{name} = {{ {rest} }}\n"


MIT_ONLY = {"allowed_licenses": ("MIT", "ISC")}
OURS_ONLY = {"allowed_registries": (OTHER,)}
TEAMS = {"names_of_teams": ("su*=adders", "s?ms=summers", "billing-*=payments")}

CASES = [
    Case(
        "missing_description",
        facts('license = "MIT"'),
        "crate `sums` has no description; add `description` to `[package]` in `Cargo.toml`",
    ),
    Case(
        "missing_description",
        facts('license = "MIT"\ndescription = " \\n "'),
        "crate `sums` has no description; add `description` to `[package]` in `Cargo.toml`",
    ),
    Case(
        "missing_license",
        facts('description = "x"'),
        "crate `sums` has no license; add `license` or `license-file` to `[package]` in `Cargo.toml`",
        facts('description = "x"\nlicense-file = "LICENSE"'),
    ),
    Case(
        "license_syntax",
        facts('license = "MIT, Apache"'),
        "the license `MIT, Apache` of crate `sums` is not an SPDX expression; write one such as "
        "`MIT OR Apache-2.0`, see https://spdx.org/licenses",
        facts('license = "MIT/Apache-2.0"'),
    ),
    Case(
        "license_not_allowed",
        facts('license = "GPL-3.0-only AND MIT"'),
        "the license `GPL-3.0-only AND MIT` of crate `sums` is not allowed here; allowed are MIT, ISC",
        facts('license = "GPL-3.0-only OR MIT"'),
        MIT_ONLY,
    ),
    Case(
        "license_not_allowed",
        facts('license = "mine"'),
        "the license `mine` of crate `sums` is not allowed here; allowed are MIT, ISC",
        facts('license = "isc"'),
        MIT_ONLY,
    ),
    Case(
        "license_not_allowed",
        facts('license-file = "LICENSE"'),
        "the license of crate `sums` is not allowed here; allowed are MIT, ISC",
        settings=MIT_ONLY,
    ),
    Case(
        "keywords",
        facts(lines(keywords='["a", "b", "c", "d", "e", "f"]')),
        "crate `sums` has 6 keywords; keep the best 5",
        facts(lines(keywords='["a", "b", "c", "d", "e"]')),
    ),
    Case(
        "keywords",
        facts(lines(keywords='["good", "two words"]')),
        "the keyword `two words` of crate `sums` is not good to search for; use a letter or digit and then "
        "letters, digits, `-`, `_` and `+`, at most 20 characters",
        facts(lines(keywords='["good", "two-words", "c++", "2d"]')),
    ),
    Case(
        "keywords",
        facts(lines(keywords=f'["{"k" * 21}"]')),
        f"the keyword `{'k' * 21}` of crate `sums` is not good to search for; use a letter or digit and then "
        "letters, digits, `-`, `_` and `+`, at most 20 characters",
        facts(lines(keywords=f'["{"k" * 20}"]')),
    ),
    Case(
        "categories",
        facts(lines(categories='["a", "b", "c", "d", "e", "f"]')),
        "crate `sums` has 6 categories; keep the best 5",
        facts(lines(categories='["a", "b", "c", "d", "e"]')),
    ),
    Case(
        "categories",
        facts(lines(categories='["Command Line"]')),
        "the category `Command Line` of crate `sums` is not a slug; write it like `command-line-utilities` or "
        "`development-tools::testing`",
        facts(lines(categories='["command-line-utilities", "development-tools::testing", "no-std"]')),
    ),
    *(
        Case(
            "urls",
            facts(lines(**{key: f'"{url}"'})),
            f"the {key} `{url}` of crate `sums` is not a URL of the web; begin it with `https://`",
            facts(lines(**{key: '"https://example.org/sums"'})),
        )
        for key in ("homepage", "documentation", "repository")
        for url in ("javascript:alert(1)", "git@example.org:sums", "https://", "http://[::1", "https://a b/")
    ),
    Case(
        "wildcard_requirements",
        facts(tables=dep("log", 'version = "*"')),
        'crate `sums` takes any version of `log`; say from which on, such as `log = "1.0"`, or a breaking '
        "release will break it",
        facts(tables=dep("log", 'version = "1.*"')),
    ),
    Case(
        "wildcard_requirements",
        facts(tables='[build-dependencies]\ncc = "*"\n[dependencies]\nlog = "x"'),
        'crate `sums` takes any version of `cc`, `log`; say from which on, such as `cc = "1.0"`, or a breaking '
        "release will break it",
        # Nobody but its author runs a crate's tests.
        facts(tables='[dev-dependencies]\ncc = "*"'),
    ),
    Case(
        "unknown_dependencies",
        facts(unknown=["gone", "lost"]),
        "crate `sums` depends on `gone`, `lost`, which this registry does not have; publish that first, or nobody "
        "can build this one",
    ),
    Case(
        "unknown_dependencies",
        facts(unknown=list("abcdefg")),
        "crate `sums` depends on `a`, `b`, `c`, `d`, `e` and 2 more, which this registry does not have; publish "
        "that first, or nobody can build this one",
    ),
    Case(
        "misspelled_dependencies",
        facts(misspelled=[("big_num", "big-num")]),
        "crate `sums` depends on `big_num`, but this registry has it as `big-num`; spell it so, as cargo cannot "
        "resolve the other spelling",
    ),
    Case(
        "dependency_registries",
        facts(tables=dep("log", 'version = "1"')),
        f"crate `sums` takes `log` from crates.io; here it may come from this registry or {OTHER}",
        facts(tables=dep("log", f'version = "1", registry-index = "{OURS}"')),
        OURS_ONLY,
    ),
    Case(
        "dependency_registries",
        facts(tables=dep("a", 'version = "1", package = "b", registry-index = "https://evil.example/i"')),
        f"crate `sums` takes `b` from `https://evil.example/i`; here it may come from this registry or {OTHER}",
        facts(tables=dep("a", f'version = "1", package = "b", registry-index = "{OTHER}"')),
        OURS_ONLY,
    ),
    Case(
        "dependency_registries",
        # Also for tests, which run on the machines of this house.
        facts(
            tables=dep("a", 'version = "1", registry-index = "ssh://git@h/i"', "target.x.dev-dependencies")
        ),
        f"crate `sums` takes `a` from crates.io; here it may come from this registry or {OTHER}".replace(
            "crates.io", "`ssh://git@h/i`"
        ),
        settings=OURS_ONLY,
    ),
    Case(
        "count_limits",
        facts(tables='[features]\na = []\nb = ["a"]\nc = []\n'),
        "crate `sums` has 3 features; at most 2 are allowed",
        facts(tables='[features]\na = []\nb = ["a"]\n'),
        {"max_features": 2},
    ),
    Case(
        "count_limits",
        facts(tables='[dependencies]\na = "1"\n[dev-dependencies]\na = "1"\n'),
        "crate `sums` has 2 dependencies; at most 1 are allowed",
        facts(tables='[dev-dependencies]\na = "1"\n'),
        {"max_dependencies": 1},
    ),
    Case(
        "count_limits",
        facts(f'description = "{"ä" * 1001}"'),
        "the description of crate `sums` has 1001 characters; use at most 1000",
        facts(f'description = "{"ä" * 1000}"'),
    ),
    Case(
        "similar_names",
        facts(similar=["sum"]),
        "the name `sums` is easily taken for `sum`, which this registry has; make sure that this is not a misspelling",
        facts(similar=["sum"], is_new=False),
    ),
    Case(
        "new_names_by_publishers",
        facts(),
        "crate `sums` is new here, and only admins may publish new names; ask one to publish it first",
        facts(is_admin=True),
    ),
    Case(
        "new_names_by_publishers",
        facts(),
        "crate `sums` is new here, and only admins may publish new names; ask one to publish it first",
        facts(is_new=False),
    ),
    Case(
        "reserved_names",
        facts(teams=["payments"]),
        "the name `sums` is kept for the team `adders`, `summers`; choose another name, or join it",
        facts(teams=["payments", "Summers"]),
        TEAMS,
    ),
    Case(
        "reserved_names",
        facts(is_admin=True),
        "the name `sums` is kept for the team `adders`, `summers`; choose another name, or join it",
        facts(is_new=False),
        TEAMS,
    ),
]


def only(rule: str, strictness: str, settings: dict[str, Any]) -> PolicyTable:
    """Return a policy with this rule alone."""
    chosen: dict[str, Any] = {key: strictness if key == rule else "off" for key in RULES}
    return PolicyTable(**chosen, **settings)


def name_of(case: Case) -> str:
    return case.rule


@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_a_broken_rule_is_ignored_told_or_refused(case: Case) -> None:
    def check(found: Facts, strictness: str) -> list[str]:
        return rules.check(replace(found, policy=only(case.rule, strictness, case.settings)))

    assert check(case.defect, "off") == []
    assert check(case.defect, "warn") == [case.text]
    with pytest.raises(Refused) as refused:
        check(case.defect, "refuse")
    assert str(refused.value) == f"{case.text} (this registry's policy `{case.rule}`)"
    for strictness in ("off", "warn", "refuse"):
        assert check(case.fixed, strictness) == []


def test_every_rule_has_a_setting_and_a_case() -> None:
    strictness = {one.name for one in fields(PolicyTable) if one.default in ("off", "warn", "refuse")}
    assert RULES.keys() == strictness == {case.rule for case in CASES}


def test_warnings_come_for_each_broken_rule_in_their_order() -> None:
    found = facts(lines(homepage='"x"', keywords='["a b"]').replace("description", "authors = []\n#"))
    assert [warning.split()[1] for warning in rules.check(found)] == ["`sums`", "keyword", "homepage"]


def test_lists_that_are_empty_allow_everything() -> None:
    policy = PolicyTable(
        license_not_allowed="refuse", dependency_registries="refuse", reserved_names="refuse"
    )
    found = facts('license = "mine"\ndescription = "x"', dep("log", 'version = "1"'), policy=policy)
    assert [warning for warning in rules.check(found) if "SPDX" not in warning] == []


def test_crates_io_can_be_allowed_by_its_name_in_indexes() -> None:
    policy = PolicyTable(allowed_registries=(CRATES_IO,))
    for registry in ("", ', registry-index = "sparse+https://index.crates.io/"'):
        found = facts(tables=dep("log", f'version = "1"{registry}'), policy=policy)
        assert rules.dependency_registries(found) is None


@pytest.mark.parametrize(
    ("name", "alike"),
    [
        ("serde", "sered"),
        ("tokios", "tokio"),
        ("serde", "serdes"),
        ("serde", "serbe"),
        ("serde", "xserde"),
        ("rand-core", "randcore"),
        ("rand-core", "rand_coer"),
        ("num_cpus", "numcpus"),
    ],
)
def test_names_one_slip_apart_are_similar(name: str, alike: str) -> None:
    assert alike in rules.similar(CrateName(name))
    assert name.replace("-", "_") in rules.similar(CrateName(alike))


@pytest.mark.parametrize(("name", "other"), [("serde", "serde"), ("Foo-Bar", "foo_bar"), ("serde", "sxrdx")])
def test_other_spellings_and_other_words_are_not_similar(name: str, other: str) -> None:
    assert other not in rules.similar(CrateName(name))


def test_short_names_are_all_alike_and_warn_of_nothing() -> None:
    assert rules.similar(CrateName("rand")) == []


def test_similar_names_are_few_enough_to_look_up_at_once() -> None:
    longest = rules.similar(CrateName("a" + "b-c" * 21))
    assert 1000 < len(longest) < 10_000
    assert len(set(longest)) == len(longest)
