"""What stands in the body of a publish request besides the tarball: cargo's view of the crate, as JSON.

The body is: length of the JSON (4 bytes, little endian), the JSON, length of the tarball, the tarball.
The JSON is only compared with the manifest in the tarball, which is what counts: see `entry`.

Spec: https://doc.rust-lang.org/cargo/reference/registry-web-api.html#publish (cargo: crates-io/lib.rs,
`NewCrate`). Cargos of all ages send it, so keys may be missing, null or unknown.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from cargo_registry.errors import InvalidPublish

MAX_METADATA_BYTES = 1024 * 1024


class PublishDep(msgspec.Struct, frozen=True):
    """A dependency as cargo sends it: `name` is the real crate, the alias has a key of its own."""

    name: str
    version_req: str
    features: list[str] = []
    optional: bool = False
    default_features: bool = True
    target: str | None = None
    kind: Literal["normal", "build", "dev"] | None = None  # None = normal
    registry: str | None = None  # index URL; None = the registry published to
    explicit_name_in_toml: str | None = None
    artifact: list[str] | None = None
    bindep_target: str | None = None
    lib: bool = False


class PublishMetadata(msgspec.Struct, frozen=True):
    """A crate as cargo sends it. A key that is missing or null has its default here."""

    name: str
    vers: str
    deps: list[PublishDep] = []
    features: dict[str, list[str]] = {}
    authors: list[str] = []
    description: str | None = None
    documentation: str | None = None
    homepage: str | None = None
    readme: str | None = None  # the text
    readme_file: str | None = None
    keywords: list[str] = []
    categories: list[str] = []
    license: str | None = None
    license_file: str | None = None
    repository: str | None = None
    badges: dict[str, dict[str, str]] = {}
    # Null says that there is none. Where the key is missing, cargo is too old to say (`links` is sent
    # since 1.23, `rust_version` since 1.73).
    links: str | UnsetType | None = UNSET
    rust_version: str | UnsetType | None = UNSET


def parse_length(four: bytes) -> int:
    """Return a length in the body: four bytes, little endian.

    Raises:
        InvalidPublish: fewer bytes, because the body ended.
    """
    if len(four) != 4:
        raise InvalidPublish(
            "the publish request ends within a length; send it again, or look at proxies on the way"
        )
    return int.from_bytes(four, "little")


def decode(data: bytes) -> PublishMetadata:
    """Return what the JSON of a publish request says.

    Raises:
        InvalidPublish: no JSON in UTF-8, or not of the shape that cargo sends.
    """
    try:
        # Checked first: msgspec need not look at what it skips.
        data.decode()
        return msgspec.convert(_without_nulls(msgspec.json.decode(data)), PublishMetadata)
    except UnicodeDecodeError:
        raise InvalidPublish(
            "the JSON of the publish request is not in UTF-8; publish with `cargo publish`"
        ) from None
    except RecursionError:
        raise InvalidPublish(
            "the JSON of the publish request nests too deeply; publish with `cargo publish`"
        ) from None
    except msgspec.ValidationError as error:
        raise InvalidPublish(
            f"the JSON of the publish request has the wrong shape: {error}; publish with `cargo publish`"
        ) from None
    except msgspec.DecodeError as error:
        raise InvalidPublish(
            f"the publish request does not start with JSON: {error}; publish with `cargo publish`"
        ) from None


def _without_nulls(value: Any) -> Any:
    """Drop null keys, so that null means what a missing key means; only two keys keep theirs.

    Looks just as deep as the structs above do: at the crate and at its dependencies.
    """
    if not isinstance(value, dict):
        return value
    crate = {
        key: held
        for key, held in value.items()
        if held is not None or key in {"name", "vers", "links", "rust_version"}
    }
    if isinstance(crate.get("deps"), list):
        crate["deps"] = [
            {key: held for key, held in dep.items() if held is not None} if isinstance(dep, dict) else dep
            for dep in crate["deps"]
        ]
    return crate
