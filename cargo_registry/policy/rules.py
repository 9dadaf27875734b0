"""The rules of `[registries.NAME.policy]`: each a function from facts to a sentence, or None if all is well.

What is malformed, hostile or would make cargo reject the index entry never gets here: `crate/` refuses it
everywhere. These are a matter of taste and of the house; most are crates.io's (crates-io: publish.rs).
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from cargo_registry.config import PolicyTable
from cargo_registry.crate.entry import CRATES_IO, IndexEntry
from cargo_registry.crate.manifest import Manifest
from cargo_registry.crate.names import CrateName, matches, shown
from cargo_registry.errors import Refused
from cargo_registry.policy import licenses

_MAX_DESCRIPTION_CHARS = 1000
_MAX_LABELS = 5
_MAX_KEYWORD_CHARS = 20
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+-]*")
_CATEGORY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*(::[a-z0-9]+(-[a-z0-9]+)*)*")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a rule may look at. What the registry knows was looked up by whoever publishes."""

    manifest: Manifest
    entry: IndexEntry
    policy: PolicyTable
    is_new: bool  # the registry has no crate of this name
    is_admin: bool
    teams: Sequence[str]  # the publisher's
    unknown: Sequence[str]  # dependencies in this registry that it does not have
    misspelled: Sequence[tuple[str, str]]  # as depended on, as the registry has it
    similar: Sequence[str]  # crates whose names a reader could take for this one

    @property
    def name(self) -> CrateName:
        """The crate's name."""
        return self.entry.name


Rule = Callable[[Facts], str | None]


def check(facts: Facts) -> list[str]:
    """Return what the publisher should be warned of.

    Raises:
        Refused: a rule is broken that this registry enforces.
    """
    warnings = []
    for key, rule in RULES.items():
        strictness = getattr(facts.policy, key)
        if strictness == "off":
            continue
        sentence = rule(facts)
        if sentence is None:
            continue
        if strictness == "refuse":
            raise Refused(f"{sentence} (this registry's policy `{key}`)")
        warnings.append(sentence)
    return warnings


def missing_description(facts: Facts) -> str | None:
    """A crate says in a sentence what it is."""
    if (facts.manifest.description or "").strip():
        return None
    return f"crate `{facts.name}` has no description; add `description` to `[package]` in `Cargo.toml`"


def missing_license(facts: Facts) -> str | None:
    """A crate says under which license it is."""
    if (facts.manifest.license or "").strip() or facts.manifest.license_file:
        return None
    return (
        f"crate `{facts.name}` has no license; add `license` or `license-file` to `[package]` in `Cargo.toml`"
    )


def license_syntax(facts: Facts) -> str | None:
    """A license is an SPDX expression."""
    text = facts.manifest.license
    if not text or licenses.normal_form(text) is not None:
        return None
    return (
        f"the license {shown(text)} of crate `{facts.name}` is not an SPDX expression; "
        "write one such as `MIT OR Apache-2.0`, see https://spdx.org/licenses"
    )


def license_not_allowed(facts: Facts) -> str | None:
    """A license is one of those that this house allows."""
    allowed = facts.policy.allowed_licenses
    if not allowed:
        return None
    text = facts.manifest.license
    normal = licenses.normal_form(text) if text else None
    if normal is not None and licenses.is_allowed(normal, allowed):
        return None
    what = f"the license {shown(text)}" if text else "the license"
    return f"{what} of crate `{facts.name}` is not allowed here; allowed are {', '.join(allowed)}"


def keywords(facts: Facts) -> str | None:
    """Keywords are few and short."""
    words = facts.manifest.keywords
    if len(words) > _MAX_LABELS:
        return f"crate `{facts.name}` has {len(words)} keywords; keep the best {_MAX_LABELS}"
    wrong = next(
        (word for word in words if len(word) > _MAX_KEYWORD_CHARS or not _KEYWORD.fullmatch(word)), None
    )
    if wrong is None:
        return None
    return (
        f"the keyword {shown(wrong)} of crate `{facts.name}` is not good to search for; use a letter or digit and "
        f"then letters, digits, `-`, `_` and `+`, at most {_MAX_KEYWORD_CHARS} characters"
    )


def categories(facts: Facts) -> str | None:
    """Categories are few, and spelled as slugs."""
    slugs = facts.manifest.categories
    if len(slugs) > _MAX_LABELS:
        return f"crate `{facts.name}` has {len(slugs)} categories; keep the best {_MAX_LABELS}"
    wrong = next((slug for slug in slugs if not _CATEGORY.fullmatch(slug)), None)
    if wrong is None:
        return None
    return (
        f"the category {shown(wrong)} of crate `{facts.name}` is not a slug; "
        "write it like `command-line-utilities` or `development-tools::testing`"
    )


def urls(facts: Facts) -> str | None:
    """Links of a crate can be followed, and are no scripts."""
    manifest = facts.manifest
    links = {
        "homepage": manifest.homepage,
        "documentation": manifest.documentation,
        "repository": manifest.repository,
    }
    for key, url in links.items():
        if url and not _is_web_url(url):
            return f"the {key} {shown(url)} of crate `{facts.name}` is not a URL of the web; begin it with `https://`"
    return None


def wildcard_requirements(facts: Facts) -> str | None:
    """A dependency says from which version on."""
    wild = [dep.name for dep in facts.entry.deps if dep.req == "*" and dep.kind != "dev"]
    if not wild:
        return None
    return (
        f"crate `{facts.name}` takes any version of {_list(wild)}; say from which on, such as "
        f'`{wild[0]} = "1.0"`, or a breaking release will break it'
    )


def unknown_dependencies(facts: Facts) -> str | None:
    """What a crate depends on in this registry is there."""
    if not facts.unknown:
        return None
    return (
        f"crate `{facts.name}` depends on {_list(facts.unknown)}, which this registry does not have; "
        "publish that first, or nobody can build this one"
    )


def misspelled_dependencies(facts: Facts) -> str | None:
    """What a crate depends on is spelled as the registry has it: cargo finds no other spelling."""
    if not facts.misspelled:
        return None
    said, held = facts.misspelled[0]
    return (
        f"crate `{facts.name}` depends on {shown(said)}, but this registry has it as {shown(held)}; "
        "spell it so, as cargo cannot resolve the other spelling"
    )


def dependency_registries(facts: Facts) -> str | None:
    """Dependencies come from registries that this house allows. Its own is always one."""
    allowed = facts.policy.allowed_registries
    if not allowed:
        return None
    for dep in facts.entry.deps:
        if dep.registry is not None and dep.registry.rstrip("/") not in {url.rstrip("/") for url in allowed}:
            where = "crates.io" if dep.registry == CRATES_IO else shown(dep.registry)
            return (
                f"crate `{facts.name}` takes {shown(dep.package or dep.name)} from {where}; "
                f"here it may come from this registry{''.join(f' or {url}' for url in allowed)}"
            )
    return None


def count_limits(facts: Facts) -> str | None:
    """As few features and dependencies, and as short a description, as crates.io takes."""
    features, dependencies = len(facts.entry.features), len(facts.entry.deps)
    if features > facts.policy.max_features:
        return (
            f"crate `{facts.name}` has {features} features; at most {facts.policy.max_features} are allowed"
        )
    if dependencies > facts.policy.max_dependencies:
        most = facts.policy.max_dependencies
        return f"crate `{facts.name}` has {dependencies} dependencies; at most {most} are allowed"
    length = len(facts.manifest.description or "")
    if length > _MAX_DESCRIPTION_CHARS:
        return f"the description of crate `{facts.name}` has {length} characters; use at most {_MAX_DESCRIPTION_CHARS}"
    return None


def similar_names(facts: Facts) -> str | None:
    """A new name is not easily taken for another."""
    if not facts.is_new or not facts.similar:
        return None
    return (
        f"the name `{facts.name}` is easily taken for {_list(facts.similar)}, which this registry has; "
        "make sure that this is not a misspelling"
    )


def new_names_by_publishers(facts: Facts) -> str | None:
    """Only admins bring in new names."""
    if not facts.is_new or facts.is_admin:
        return None
    return f"crate `{facts.name}` is new here, and only admins may publish new names; ask one to publish it first"


def reserved_names(facts: Facts) -> str | None:
    """Some names are kept for teams."""
    if not facts.is_new:
        return None
    owners = [
        team
        for pattern, _, team in (item.partition("=") for item in facts.policy.names_of_teams)
        if matches(pattern, facts.name.text)
    ]
    if not owners or {team.lower() for team in owners} & {team.lower() for team in facts.teams}:
        return None
    return f"the name `{facts.name}` is kept for the team {_list(owners)}; choose another name, or join it"


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        missing_description,
        missing_license,
        license_syntax,
        license_not_allowed,
        keywords,
        categories,
        urls,
        wildcard_requirements,
        unknown_dependencies,
        misspelled_dependencies,
        dependency_registries,
        count_limits,
        similar_names,
        new_names_by_publishers,
        reserved_names,
    )
}


def similar(name: CrateName) -> list[str]:
    """Return the canonical names that are one slip of the finger away from a name, itself not among them.

    A letter too many or too few, a wrong one, two swapped. Short names are all alike, so they have none. Some of
    what is returned can be no name; to find out takes longer than to look it up in vain.
    """
    word = name.canonical
    if len(word) < 5:
        return []
    letters = "abcdefghijklmnopqrstuvwxyz0123456789_"
    cuts = [(word[:at], word[at:]) for at in range(len(word) + 1)]
    slips = {before + after[1:] for before, after in cuts if after}
    slips |= {before + after[1] + after[0] + after[2:] for before, after in cuts if len(after) > 1}
    slips |= {before + letter + after[1:] for before, after in cuts if after for letter in letters}
    slips |= {before + letter + after for before, after in cuts for letter in letters}
    return list(slips - {word})


def _is_web_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and url.isprintable() and " " not in url


def _list(names: Sequence[str]) -> str:
    listed = ", ".join(shown(name) for name in names[:5])
    return listed if len(names) <= 5 else f"{listed} and {len(names) - 5} more"
