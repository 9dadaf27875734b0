"""`cargo-registry team …`: groups that own crates together."""

from typing import Annotated

import typer

from cargo_registry import accounts
from cargo_registry.cli.session import HERE, AsJson, ConfigFile, DataDir, run, say, show, show_rows
from cargo_registry.db import users

app = typer.Typer(help="Teams: owners of crates, as `team:NAME`.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The team's name, without `team:`.")]
Logins = Annotated[list[str] | None, typer.Argument(metavar="[LOGIN]...", show_default=False)]


@app.command()
def add(
    name: Name,
    logins: Logins = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Add users to a team, which is made if it is new."""
    team = run(config, data_dir, lambda site: accounts.add_to_team(site, name, logins or ()))
    if as_json:
        show({"name": team.name, "members": team.members})
    else:
        say(f"team `{team.name}`: {', '.join(team.members) or 'no members yet'}")


@app.command()
def remove(
    name: Name,
    logins: Logins = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Remove users from a team; without LOGINs, remove the team."""
    run(config, data_dir, lambda site: accounts.remove_from_team(site, name, logins or ()))
    if as_json:
        show({"name": name, "removed": logins or []})
    elif logins:
        say(f"removed {', '.join(logins)} from team `{name}`")
    else:
        say(f"removed team `{name}`")


@app.command("list")
def list_(config: ConfigFile = None, data_dir: DataDir = HERE, as_json: AsJson = False) -> None:
    """List teams and their members."""
    teams = run(config, data_dir, lambda site: site.db.read(users.every_team))
    if as_json:
        show([{"name": team.name, "members": team.members} for team in teams])
        return
    rows = [(team.name, ", ".join(team.members)) for team in teams]
    show_rows(("team", "members"), rows, none="there are no teams: cargo-registry team add NAME LOGIN...")
