"""Which features a crate may have, and how the index splits them.

Spec: https://doc.rust-lang.org/cargo/reference/features.html, RFC 3143. The graph is checked as cargo
checks it when it reads an index line (cargo: core/summary.rs, `build_feature_map`): a line that fails
there is an invalid version for everybody, for ever.
"""

from collections.abc import Iterable, Mapping, Sequence

from cargo_registry.crate.names import check_feature_name, shown
from cargo_registry.errors import InvalidManifest, InvalidName

Features = Mapping[str, Sequence[str]]


def check(features: Features, deps: Iterable[tuple[str, bool]]) -> None:
    """Check names, values and the graph; `deps` are pairs (name as the code calls it, optional).

    Raises:
        InvalidManifest: cargo would refuse to read the version.
        InvalidName: a feature's name is not allowed.
    """
    optional = _optional(deps)
    for feature in features:
        check_feature_name(feature)
    everything = {**features, **_implicit(features, optional)}
    for feature, enables in features.items():
        for value in enables:
            _check_value(feature, value, everything, optional)
    _check_each_is_used(everything, optional)


def effective(features: Features, deps: Iterable[tuple[str, bool]]) -> Features:
    """Return the features with those that cargo makes up; `deps` as in `check`."""
    return {**features, **_implicit(features, _optional(deps))}


def split(features: Features) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Split into what every cargo can read, and what needs `dep:` or `?/`: `features` and `features2`.

    A feature that enables an extended one is itself extended: an old cargo reads `features` alone
    and would meet the name of a feature it cannot see.
    """
    users: dict[str, list[str]] = {}
    for feature, enables in features.items():
        for value in enables:
            users.setdefault(value, []).append(feature)

    # Walked from the extended ones to their users: a manifest may hold a chain of 50,000 features.
    found = [
        feature
        for feature, enables in features.items()
        if any(value.startswith("dep:") or "?/" in value for value in enables)
    ]
    extended = set(found)
    while found:
        new = [user for user in users.get(found.pop(), ()) if user not in extended]
        extended.update(new)
        found += new

    return (
        {feature: list(enables) for feature, enables in features.items() if feature not in extended},
        {feature: list(enables) for feature, enables in features.items() if feature in extended},
    )


def _optional(deps: Iterable[tuple[str, bool]]) -> dict[str, bool]:
    """Return which names are optional: one that is so for one target and not for another counts as optional."""
    optional: dict[str, bool] = {}
    for dep, is_optional in deps:
        optional[dep] = optional.get(dep, False) or is_optional
    return optional


def _implicit(features: Features, optional: Mapping[str, bool]) -> Features:
    """Return the features that cargo makes up: one for each optional dependency that none names with `dep:`."""
    named = {value for enables in features.values() for value in enables if value.startswith("dep:")}
    return {
        dep: [f"dep:{dep}"]
        for dep, is_optional in optional.items()
        if is_optional and dep not in features and f"dep:{dep}" not in named
    }


def _check_value(feature: str, value: str, everything: Features, optional: Mapping[str, bool]) -> None:
    dep, slash, dep_feature = value.partition("/")
    if slash:
        _check_dep_feature(feature, value, dep, dep_feature, optional)
    elif value.startswith("dep:"):
        _check_optional(feature, value, value.removeprefix("dep:"), optional)
    elif value not in everything:
        _refuse_unknown(feature, value, optional)


def _check_dep_feature(
    feature: str, value: str, dep: str, dep_feature: str, optional: Mapping[str, bool]
) -> None:
    """Check `dep/feature` and `dep?/feature`."""
    if dep.startswith("dep:"):
        raise InvalidManifest(
            f"the feature {shown(feature)} has the value {shown(value)} with both `dep:` and `/`; remove `dep:`"
        )
    try:
        check_feature_name(dep_feature)
    except InvalidName as error:
        raise InvalidManifest(
            f"the feature {shown(feature)} has the wrong value {shown(value)}: {error}"
        ) from None
    if dep.endswith("?"):
        _check_optional(feature, value, dep[:-1], optional)
    elif dep not in optional:
        raise InvalidManifest(
            f"the feature {shown(feature)} has the value {shown(value)}, but there is no dependency "
            f"{shown(dep)}; add the dependency or remove the value"
        )


def _check_optional(feature: str, value: str, dep: str, optional: Mapping[str, bool]) -> None:
    """Check what only an optional dependency may have: `dep:x` and `x?/y`."""
    if dep not in optional:
        raise InvalidManifest(
            f"the feature {shown(feature)} has the value {shown(value)}, but there is no dependency "
            f"{shown(dep)}; add the dependency or remove the value"
        )
    if not optional[dep]:
        raise InvalidManifest(
            f"the feature {shown(feature)} has the value {shown(value)}, but the dependency {shown(dep)} is not "
            "optional; add `optional = true` to it or remove the value"
        )


def _refuse_unknown(feature: str, value: str, optional: Mapping[str, bool]) -> None:
    match optional.get(value):
        case None:
            advice = "there is no such feature or optional dependency; add it or remove the value"
        case False:
            advice = "that dependency is not optional; add `optional = true` to it or remove the value"
        case True:
            advice = f"that optional dependency has no feature of its name; write `dep:{value}`"
    raise InvalidManifest(f"the feature {shown(feature)} has the value {shown(value)}, but {advice}")


def _check_each_is_used(everything: Features, optional: Mapping[str, bool]) -> None:
    """Check that each optional dependency can be switched on, if only by a feature of its name."""
    used: set[str] = set()
    for enables in everything.values():
        for value in enables:
            dep, slash, _ = value.partition("/")
            if slash:
                used.add(dep.removesuffix("?"))
            elif value.startswith("dep:"):
                used.add(value.removeprefix("dep:"))
    for dep, is_optional in optional.items():
        if is_optional and dep not in used:
            raise InvalidManifest(
                f"the optional dependency {shown(dep)} is not included in any feature, because a feature of its "
                f"name hides it; add `dep:{dep}` to one of the features"
            )
