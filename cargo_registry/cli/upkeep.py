"""`cargo-registry fsck`, `backup`, `restore` and `audit`: looking after what is stored."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from cargo_registry import backup as backups
from cargo_registry import index, upkeep
from cargo_registry.backup import Copied
from cargo_registry.cli.progress import Progress
from cargo_registry.cli.session import (
    HERE,
    AsJson,
    ConfigFile,
    DataDir,
    RegistryOrAll,
    duration,
    load,
    pick,
    pick_or_all,
    run,
    say,
    show,
    show_rows,
)
from cargo_registry.db import audit as events
from cargo_registry.db import upkeep as rows
from cargo_registry.db.audit import Event
from cargo_registry.registry import Site
from cargo_registry.upkeep import Finding


def fsck(
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Also read every tarball, compare its checksum, and run the gate on it."),
    ] = False,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Put right what can be: index files, tarballs that belong to nobody."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Leave out what was read and found good within the last day.")
    ] = False,
    registry: RegistryOrAll = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Compare rows, index files and tarballs. Exit 0 if all is well, after --repair if nothing is left; else 1.

    A damaged tarball cannot be repaired from here: restore it from a backup, or delete the version.
    """

    async def work(site: Site) -> list[Finding]:
        found = [Finding("all", "registry.db", line) for line in await site.db.read(rows.integrity)]
        for finding in found if not as_json else ():
            _tell(finding)
        for chosen in pick_or_all(site, registry):
            total = await site.db.read(rows.count, chosen.name)
            with Progress(f"checking {chosen.name}", total=total) as progress:
                async for finding in upkeep.fsck(
                    chosen, deep=deep, repair=repair, resume=resume, progress=progress.step
                ):
                    found.append(finding)
                    if not as_json:
                        _tell(finding)
        return found

    try:
        found = run(config, data_dir, work)
    except KeyboardInterrupt:
        say("interrupted; `cargo-registry fsck --deep --resume` leaves out what was found good")
        raise typer.Exit(130) from None
    left = [finding for finding in found if not finding.repaired]
    if as_json:
        show({"findings": found, "left": len(left)})
    elif not found:
        say("all is well")
    else:
        say(f"{len(found)} findings, {len(found) - len(left)} repaired, {len(left)} left")
    if left:
        raise typer.Exit(1)


def backup(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="A new folder, or an earlier backup to renew.")
    ],
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Copy everything that cannot be made anew into a folder: all registries, users, tokens. Also while serving."""

    async def work(site: Site) -> Copied:
        total = sum([await site.db.read(rows.count, name) for name in await site.db.read(rows.registries)])
        with Progress("copying", total=total) as progress:
            return await backups.backup(site, path, progress=progress.step)

    _tell_copied(run(config, data_dir, work), f"backup in {path}", as_json)


def restore(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The folder of a backup.")],
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Put a backup into an empty or missing data folder, and make its index files. Old tokens are good again."""
    with Progress("copying") as progress:
        copied = asyncio.run(backups.restore(load(config, data_dir), path, progress=progress.step))

    async def rebuild(site: Site) -> None:
        for chosen in site.registries.values():
            with Progress(f"index of {chosen.name}") as progress:
                await index.rebuild(chosen, progress=progress.step)
        unknown = set(await site.db.read(rows.registries)) - set(site.registries)
        for name in sorted(unknown):
            say(f"warning: the backup has a registry `{name}` that the configuration does not name")

    run(config, data_dir, rebuild)
    _tell_copied(copied, f"restored {path}", as_json)


def audit(
    crate: Annotated[
        str | None, typer.Option(metavar="CRATE", help="Only this crate.", show_default=False)
    ] = None,
    actor: Annotated[
        str | None, typer.Option(metavar="LOGIN", help="Only what this one did.", show_default=False)
    ] = None,
    since: Annotated[
        timedelta | None,
        typer.Option(metavar="TIME", parser=duration, help="Only the last 12h, 7d, 4w.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="At most the newest N lines.")] = 1000,
    registry: RegistryOrAll = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Show who changed what, when, from where, and with which token."""

    async def work(site: Site) -> list[Event]:
        chosen = None if registry is None else pick(site, registry).name
        return await site.db.read(
            events.events,
            registry=chosen,
            crate=crate,
            actor=actor,
            since=None if since is None else site.now() - since,
            limit=limit,
        )

    found = run(config, data_dir, work)
    if as_json:
        show(found)
        return
    show_rows(
        ("when", "who", "token", "from", "what", "registry", "crate", "detail"),
        [
            (
                f"{event.at:%Y-%m-%d %H:%M:%S}",
                event.actor,
                event.token_id,
                event.address,
                event.action,
                event.registry,
                f"{event.crate}@{event.vers}" if event.vers else event.crate,
                event.detail,
            )
            for event in found
        ],
        none="nothing has happened yet",
    )


def _tell(finding: Finding) -> None:
    state = " (repaired)" if finding.repaired else ""
    print(f"{finding.registry}: {finding.what}: {finding.problem}{state}")


def _tell_copied(copied: Copied, what: str, as_json: bool) -> None:
    if as_json:
        show(copied)
    else:
        say(f"{what}: {copied.tarballs} tarballs, {copied.copied} of them copied now, {copied.size:,} bytes")
        for name in copied.missing:
            say(f"warning: {name}: the tarball is missing or damaged where it was copied from")
    if copied.missing:
        raise typer.Exit(1)
