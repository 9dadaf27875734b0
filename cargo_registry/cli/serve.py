"""`cargo-registry serve`: the server."""

import logging
import socket
import sys
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cargo_registry import accounts, client_config, tokens
from cargo_registry.cli.session import HERE, ConfigFile, DataDir, load, run, say
from cargo_registry.config import Config
from cargo_registry.crate import names
from cargo_registry.db import users
from cargo_registry.db.users import Role
from cargo_registry.registry import Site
from cargo_registry.web import server, tls
from cargo_registry.web.app import create_app
from cargo_registry.web.tls import Tls

Implementation = Annotated[
    str | None,
    typer.Option("--server", metavar="granian|uvicorn", help="The HTTP server.", show_default=False),
]


def serve(
    host: Annotated[
        str | None, typer.Option(metavar="H", help="Address to listen on.", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(metavar="P", help="Port; 0 takes a free one.", min=0, max=65535, show_default=False),
    ] = None,
    workers: Annotated[int, typer.Option(metavar="N", help="Processes that answer.", min=1, max=256)] = 1,
    implementation: Implementation = None,
    bootstrap: Annotated[
        str | None,
        typer.Option(
            metavar="LOGIN",
            help="On data without users, make this admin and show a token for it, once, on stderr.",
            show_default=False,
        ),
    ] = None,
    self_signed: Annotated[
        bool,
        typer.Option("--self-signed", help="HTTPS for a try-out, with a certificate made for this machine."),
    ] = False,
    access_log: Annotated[
        bool, typer.Option("--access-log", help="Write a line for each request to stderr.")
    ] = False,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
) -> None:
    """Serve all registries. Stdout gets one line when it answers; hints and logs go to stderr."""
    if implementation not in (None, "granian", "uvicorn"):
        raise typer.BadParameter(f"`{implementation}` is not a server we know: granian or uvicorn")
    if bootstrap is not None:
        names.check_login(bootstrap)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = load(config, data_dir)
    listen = server.Listen(
        host=host or settings.server.host,
        port=settings.server.port if port is None else port,
        workers=workers,
        implementation=implementation or settings.server.implementation,  # type: ignore[arg-type]
    )
    certificate = _certificate(settings, listen.host, data_dir, self_signed=self_signed)
    listen = replace(listen, tls=certificate, access_log=access_log)
    if settings.server.url is None and not _is_loopback(listen.host):
        say(
            f"warning: listening on {listen.host} without `server.url`: config.json will tell clients the address "
            "of this machine as it sees itself; set `server.url` to the one they use"
        )
    # Here, not first in a worker: what is wrong with the data is said before anything listens.
    run(config, data_dir, _nothing, is_server=True)
    ready = partial(_greet, config, data_dir, bootstrap, certificate if self_signed else None)
    raise typer.Exit(server.run(listen, partial(create_app, settings), on_ready=ready))


def _certificate(settings: Config, host: str, data_dir: Path, *, self_signed: bool) -> Tls | None:
    """Return the certificate of the settings, or one for a try-out; None: plain HTTP."""
    table = settings.server.tls
    if not self_signed:
        if table.certificate is None or table.key is None:
            return None
        return Tls(Path(table.certificate), Path(table.key), table.min_version)
    hosts = [socket.gethostname() if host in ("0.0.0.0", "::") else host]  # noqa: S104
    if settings.server.url is not None:
        hosts.append(urlsplit(settings.server.url).hostname or "")
    return tls.self_signed(data_dir / "tls", hosts)


async def _nothing(site: Site) -> None:
    """Do nothing: opening the data has made and migrated it."""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _greet(
    config: Path | None, data_dir: Path, bootstrap: str | None, self_signed: Tls | None, url: str
) -> None:
    """Tell the operator of an empty registry what comes next, and how cargo trusts a try-out's certificate."""

    async def first_user(site: Site) -> str | None:
        if await site.db.read(users.any_exists):
            return None
        if bootstrap is None:
            return (
                "There are no users yet. Make the first one, and a token for it:\n\n"
                "    cargo-registry user add LOGIN --role admin\n"
                "    cargo-registry token create LOGIN\n"
            )
        await accounts.add_user(site, bootstrap, name=None, role=Role.ADMIN)
        secret = await tokens.create(site, bootstrap, name="bootstrap")
        registry = site.root or next(iter(site.registries.values()))
        lines = "".join(f"    {line}\n" for line in client_config.lines(registry).splitlines())
        return (
            f"This registry had no users. Made the admin `{bootstrap}` with a token, which is shown only this once:\n\n"
            f"    {secret}\n\n"
            f"Put this into ~/.cargo/config.toml, or .cargo/config.toml of one project:\n\n{lines}\n"
            "Then give cargo the token, and publish your first crate:\n\n"
            f"    cargo login --registry {registry.name}\n"
            f"    cargo publish --registry {registry.name}\n"
        )

    if self_signed is not None:
        say(
            "\nThe certificate is self-signed. Put this into .cargo/config.toml of the project to try it with; it "
            "replaces\nthe authorities that cargo trusts, so crates.io is out of reach there:\n\n"
            f'    [http]\n    cainfo = "{self_signed.certificate.resolve()}"\n'
        )
    hint = run(config, data_dir, first_user, url)
    if hint:
        say("\n" + hint)
