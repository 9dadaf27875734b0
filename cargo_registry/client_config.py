"""What goes into a user's `.cargo/config.toml`."""

from cargo_registry.registry import Registry


def name(registry: Registry) -> str:
    """Return what cargo calls a registry; `crates-io` is its own name for crates.io, which is not to be had twice."""
    return "crates-io-mirror" if registry.name == "crates-io" else registry.name


def lines(registry: Registry) -> str:
    """Return the lines that make a registry known to cargo by its name."""
    text = f'[registries.{name(registry)}]\nindex = "{registry.index_url}"\n'
    if registry.private:
        # Without it cargo refuses an `auth-required` registry before it tries a token.
        text += '\n[registry]\nglobal-credential-providers = ["cargo:token"]\n'
    return text


def replacement_lines(registry: Registry) -> str:
    """Return the lines that make cargo ask this registry whenever it would ask crates.io.

    By the registry's name, not its URL: a source that has only a URL can be given no token.
    """
    return f'[source.crates-io]\nreplace-with = "{name(registry)}"\n\n{lines(registry)}'


def token_variable(registry: Registry) -> str:
    """Return the environment variable in which cargo looks for this registry's token."""
    return f"CARGO_REGISTRIES_{name(registry).upper().replace('-', '_')}_TOKEN"
