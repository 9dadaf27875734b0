"""`cargo-registry token …`: what lets accounts in."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from cargo_registry import tokens
from cargo_registry.cli.session import HERE, AsJson, ConfigFile, DataDir, duration, run, say, show, show_rows
from cargo_registry.db import tokens as rows
from cargo_registry.db import users
from cargo_registry.db.tokens import Token
from cargo_registry.registry import Site
from cargo_registry.tokens import Scope

app = typer.Typer(help="Tokens: what `cargo login` takes.", no_args_is_help=True)


def _expiry(text: str) -> datetime | None:
    """Return when a token that lasts so long from now expires; None for `never`."""
    try:
        return None if text == "never" else datetime.now(UTC) + duration(text)
    except OverflowError:
        raise typer.BadParameter(f"`{text}` is longer than there will be years: write never") from None


@app.command()
def create(
    login: Annotated[str, typer.Argument(metavar="LOGIN", help="Whose token.")],
    name: Annotated[str, typer.Option(help="What it is for, to know it again.")] = "",
    scope: Annotated[
        list[Scope] | None,
        typer.Option(
            help="What it may do; repeat for several. Default: all that its user may.", show_default=False
        ),
    ] = None,
    crate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Which crates it may change, a name or shell glob such as `team-*`; repeat for several. Default: all.",
            show_default=False,
        ),
    ] = None,
    registry: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Where it is good; repeat for several. Default: all.", show_default=False
        ),
    ] = None,
    expires: Annotated[
        datetime | None,
        typer.Option(
            metavar="TIME",
            parser=_expiry,
            help="When it ends: 12h, 90d, 4w, 1y, or never. Default: never.",
            show_default=False,
        ),
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Issue a token and print it, alone, on stdout. Nobody can read it again."""
    secret = run(
        config,
        data_dir,
        lambda site: tokens.create(
            site,
            login,
            name=name,
            scopes=scope or (),
            crates=crate or (),
            registries=registry or (),
            expires_at=expires,
        ),
    )
    if as_json:
        show({"token": secret, "login": login, "expires_at": expires})
    else:
        print(secret)


@app.command("list")
def list_(
    login: Annotated[
        str | None, typer.Argument(metavar="[LOGIN]", help="Whose. Default: everybody's.", show_default=False)
    ] = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """List tokens, without their secrets, which are stored nowhere."""

    async def work(site: Site) -> list[Token]:
        if login is not None:
            await site.db.read(users.get, login)
        return await site.db.read(rows.issued, login)

    issued = run(config, data_dir, work)
    if as_json:
        show(issued)
        return
    show_rows(
        ("id", "login", "name", "may", "crates", "registries", "state", "last used"),
        [
            (
                token.id,
                token.login,
                token.name,
                _list(token.scopes),
                _list(token.crates),
                _list(token.registries),
                _state(token),
                token.last_used_at and f"{token.last_used_at:%Y-%m-%d %H:%M}",
            )
            for token in issued
        ],
        none="there are no tokens: cargo-registry token create LOGIN",
    )


@app.command()
def revoke(
    token_id: Annotated[int, typer.Argument(metavar="ID", help="As `token list` shows it.")],
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Make a token useless from the next request on."""
    run(config, data_dir, lambda site: tokens.revoke(site, token_id))
    if as_json:
        show({"id": token_id, "revoked": True})
    else:
        say(f"token {token_id} is revoked")


def _list(limit: Sequence[str] | None) -> str:
    return "all" if limit is None else ", ".join(limit)


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if token.expires_at is None:
        return "never expires"
    ended = token.expires_at <= datetime.now(UTC)
    return f"{'expired' if ended else 'until'} {token.expires_at:%Y-%m-%d %H:%M}"
