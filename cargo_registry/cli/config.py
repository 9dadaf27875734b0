"""`cargo-registry config show` and `client-config`: settings, the server's and the users'."""

from typing import Annotated

import typer

from cargo_registry import client_config as client
from cargo_registry import config as settings
from cargo_registry.cli.session import HERE, AsJson, ConfigFile, DataDir, load, pick, run, show, show_rows
from cargo_registry.registry import Site

app = typer.Typer(help="The server's settings.", no_args_is_help=True)


@app.command("show")
def show_(config: ConfigFile = None, data_dir: DataDir = HERE, as_json: AsJson = False) -> None:
    """Print each setting, its value, and where that came from."""
    rows = [
        (key, _plain("(secret)" if value and key.endswith("_token") else value), origin)
        for key, value, origin in settings.settings(load(config, data_dir))
    ]
    if as_json:
        show([{"key": key, "value": value, "origin": origin} for key, value, origin in rows])
    else:
        show_rows(
            ("setting", "value", "from"),
            [(key, _toml(value), origin) for key, value, origin in rows],
            none="",
        )


def client_config(
    registry: Annotated[
        str | None,
        typer.Argument(metavar="[REGISTRY]", help="Default: the default registry.", show_default=False),
    ] = None,
    replace_crates_io: Annotated[
        bool,
        typer.Option("--replace-crates-io", help="Ask this registry whenever cargo would ask crates.io."),
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Print what goes into `.cargo/config.toml` to use a registry."""

    async def work(site: Site) -> tuple[str, str, dict[str, str]]:
        chosen = pick(site, registry)
        facts = {
            "name": client.name(chosen),
            "index": chosen.index_url,
            "token_variable": client.token_variable(chosen),
        }
        return client.lines(chosen), client.replacement_lines(chosen), facts

    lines, replacement, facts = run(config, data_dir, work)
    if as_json:
        show(facts | {"config": lines, "source_replacement": replacement})
    elif replace_crates_io:
        print(replacement, end="")
    else:
        print(lines, end="")
        print("\n# To ask this registry whenever cargo would ask crates.io, add:")
        print("".join(f"# {line}\n" for line in replacement.partition("\n\n")[0].splitlines()), end="")


def _plain(value: object) -> object:
    """Return a setting's value in types that JSON has."""
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _toml(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case list():
            return f"[{', '.join(_toml(item) for item in value)}]"
    return str(value)
