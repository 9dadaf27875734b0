"""`cargo-registry owner …`: who owns a crate, as the operator sees and sets it."""

from typing import Annotated

import typer

from cargo_registry import owners
from cargo_registry.cli.session import (
    HERE,
    AsJson,
    ConfigFile,
    DataDir,
    RegistryName,
    pick,
    run,
    say,
    show,
    show_rows,
)
from cargo_registry.db.owners import Owner
from cargo_registry.registry import Site

app = typer.Typer(help="Owners of crates: users, and teams as team:NAME.", no_args_is_help=True)

Crate = Annotated[str, typer.Argument(metavar="CRATE", help="The crate's name.")]
Owners = Annotated[list[str], typer.Argument(metavar="OWNER...", help="A LOGIN or team:NAME.")]


@app.command("list")
def list_(
    crate: Crate,
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """List the owners of a crate."""

    async def work(site: Site) -> list[Owner]:
        return owners.owners(pick(site, registry), crate)

    found = run(config, data_dir, work)
    if as_json:
        show([{"login": owner.login, "name": owner.name, "kind": owner.kind} for owner in found])
        return
    show_rows(
        ("owner", "name"), [(owner.login, owner.name) for owner in found], none=f"nobody owns `{crate}`"
    )


@app.command()
def add(
    crate: Crate,
    logins: Owners,
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Make users or teams owners, all of them or none."""
    _tell(
        run(config, data_dir, lambda site: owners.add(pick(site, registry), crate, logins, caller=None)),
        as_json,
    )


@app.command()
def remove(
    crate: Crate,
    logins: Owners,
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Take ownership away. Somebody must be left."""
    _tell(
        run(config, data_dir, lambda site: owners.remove(pick(site, registry), crate, logins, caller=None)),
        as_json,
    )


def _tell(message: str, as_json: bool) -> None:
    if as_json:
        show({"msg": message})
    else:
        say(message)
