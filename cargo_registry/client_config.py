"""What goes into a user's `.cargo/config.toml`."""

from cargo_registry.registry import Registry


def lines(registry: Registry) -> str:
    """Return the lines that make a registry known to cargo by its name."""
    text = f'[registries.{registry.name}]\nindex = "{registry.index_url}"\n'
    if registry.private:
        # Without it cargo refuses an `auth-required` registry before it tries a token.
        text += '\n[registry]\nglobal-credential-providers = ["cargo:token"]\n'
    return text


def replacement_lines(registry: Registry) -> str:
    """Return the lines that make cargo ask this registry whenever it would ask crates.io.

    By the registry's name, not its URL: a source that has only a URL can be given no token.
    """
    return f'[source.crates-io]\nreplace-with = "{registry.name}"\n\n{lines(registry)}'


def token_variable(registry: Registry) -> str:
    """Return the environment variable in which cargo looks for this registry's token."""
    return f"CARGO_REGISTRIES_{registry.name.upper().replace('-', '_')}_TOKEN"
