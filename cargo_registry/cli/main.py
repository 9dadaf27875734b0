"""The commands, and what happens around each: errors on stderr, exit codes."""

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from cargo_registry.cli import (
    config,
    crate,
    downloads,
    importing,
    index,
    mirror,
    owner,
    publish,
    serve,
    team,
    token,
    upkeep,
    user,
)
from cargo_registry.errors import RegistryError

app = typer.Typer(
    help="A Cargo registry and crates.io mirror.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("publish")(publish.publish)
app.command("client-config")(config.client_config)
app.command("import")(importing.import_)
app.command("fsck")(upkeep.fsck)
app.command("backup")(upkeep.backup)
app.command("restore")(upkeep.restore)
app.command("audit")(upkeep.audit)
app.add_typer(user.app, name="user")
app.add_typer(token.app, name="token")
app.add_typer(team.app, name="team")
app.add_typer(owner.app, name="owner")
app.add_typer(crate.app, name="crate")
app.add_typer(index.app, name="index")
app.add_typer(mirror.app, name="mirror")
app.add_typer(config.app, name="config")
app.add_typer(downloads.app, name="downloads")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"cargo-registry {version('cargo-registry')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", "-V", help="Print the version.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Serve, and look after, a Cargo registry and crates.io mirror."""


def main() -> None:
    """Run the command of `sys.argv`: exit 0, 1 with a sentence on stderr, or 2 for wrong usage."""
    arguments = sys.argv[1:]
    # cargo calls `cargo-registry registry …` for `cargo registry …`.
    if arguments[:1] == ["registry"] and Path(sys.argv[0]).stem == "cargo-registry":
        arguments = arguments[1:]
    try:
        app(args=arguments, prog_name="cargo-registry")
    except RegistryError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # `cargo-registry crate list | head`: who reads has had enough.
        sys.stderr.close()
        sys.exit(1)
