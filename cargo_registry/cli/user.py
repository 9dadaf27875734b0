"""`cargo-registry user …`: accounts."""

from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from cargo_registry import accounts
from cargo_registry.cli.session import HERE, AsJson, ConfigFile, DataDir, run, say, show, show_rows
from cargo_registry.db import users
from cargo_registry.db.users import Role, User
from cargo_registry.registry import Site

app = typer.Typer(help="Accounts: who may publish and read.", no_args_is_help=True)

Login = Annotated[str, typer.Argument(metavar="LOGIN", help="The account's name, in any case.")]


@app.command()
def add(
    login: Annotated[str, typer.Argument(metavar="LOGIN", help="Letters, digits, `-`, `_`, `.`")],
    name: Annotated[str | None, typer.Option(help="What people call them.", show_default=False)] = None,
    role: Annotated[Role, typer.Option(help="What they may do at most.")] = Role.PUBLISHER,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Add an account. It has no password; `token create` lets it in."""
    user = run(config, data_dir, lambda site: accounts.add_user(site, login, name=name, role=role))
    if as_json:
        show(_facts(user))
    else:
        say(
            f"added `{user.login}` as {user.role}; give them a token: cargo-registry token create {user.login}"
        )


@app.command("list")
def list_(config: ConfigFile = None, data_dir: DataDir = HERE, as_json: AsJson = False) -> None:
    """List all accounts."""
    everyone = run(config, data_dir, lambda site: site.db.read(users.everyone))
    if as_json:
        show([_facts(user) for user in everyone])
        return
    rows = [
        (user.login, user.name, user.role, "disabled" if user.disabled else "", f"{user.created_at:%Y-%m-%d}")
        for user in everyone
    ]
    show_rows(
        ("login", "name", "role", "", "since"),
        rows,
        none="there are no users yet: cargo-registry user add LOGIN",
    )


@app.command()
def disable(
    login: Login, config: ConfigFile = None, data_dir: DataDir = HERE, as_json: AsJson = False
) -> None:
    """Take an account and all its tokens out of use. What it owns stays."""
    _change(login, config, data_dir, as_json, lambda site: accounts.set_disabled(site, login, True))


@app.command()
def enable(
    login: Login, config: ConfigFile = None, data_dir: DataDir = HERE, as_json: AsJson = False
) -> None:
    """Put a disabled account back, with the tokens it had."""
    _change(login, config, data_dir, as_json, lambda site: accounts.set_disabled(site, login, False))


@app.command()
def set_role(
    login: Login,
    role: Annotated[Role, typer.Argument(help="What they may do at most.")],
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Change what an account may do at most: admin, publisher or reader."""
    _change(login, config, data_dir, as_json, lambda site: accounts.set_role(site, login, role))


def _change(
    login: str,
    config: ConfigFile,
    data_dir: DataDir,
    as_json: bool,
    change: Callable[[Site], Awaitable[None]],
) -> None:
    async def work(site: Site) -> User:
        await change(site)
        return await site.db.read(users.get, login)

    user = run(config, data_dir, work)
    if as_json:
        show(_facts(user))
    else:
        say(f"`{user.login}` is {'disabled' if user.disabled else 'enabled'}, with the role {user.role}")


def _facts(user: User) -> dict[str, object]:
    return {
        "login": user.login,
        "name": user.name,
        "role": user.role,
        "disabled": user.disabled,
        "created_at": user.created_at,
    }
