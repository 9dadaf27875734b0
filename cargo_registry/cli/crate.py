"""`cargo-registry crate …`: what is published."""

from collections.abc import Sequence
from typing import Annotated

import typer

from cargo_registry import deletion
from cargo_registry import yank as yanking
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
from cargo_registry.db import crates, owners
from cargo_registry.db.crates import Crate, Version
from cargo_registry.db.owners import Owner
from cargo_registry.registry import Site

app = typer.Typer(help="Crates: list, look at, yank, delete.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="CRATE", help="The crate's name, in any spelling.")]
NameAndVersion = Annotated[str, typer.Argument(metavar="CRATE@VERSION", help="Such as serde@1.0.0.")]


@app.command("list")
def list_(
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """List all crates of a registry."""

    async def work(site: Site) -> list[Crate]:
        return await site.db.read(crates.every, pick(site, registry).name)

    found = run(config, data_dir, work)
    if as_json:
        show([_facts(crate) for crate in found])
        return
    show_rows(
        ("crate", "version", "downloads", "description"),
        [
            (crate.name, crate.max_version or "all yanked", crate.downloads, crate.description)
            for crate in found
        ],
        none="there are no crates yet",
    )


@app.command("show")
def show_(
    crate: Name,
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Show a crate's owners and versions."""

    async def work(site: Site) -> tuple[Crate, list[Owner], list[Version]]:
        found = await site.db.read(crates.get, pick(site, registry).name, crate)
        return (
            found,
            await site.db.read(owners.of_crate, found.id),
            await site.db.read(crates.versions_of, found),
        )

    found, owned_by, versions = run(config, data_dir, work)
    if as_json:
        show(
            _facts(found)
            | {
                "owners": [owner.login for owner in owned_by],
                "versions": [
                    {
                        "vers": version.vers,
                        "yanked": version.yanked,
                        "cksum": version.cksum,
                        "size": version.size,
                        "published_at": version.published_at,
                        "downloads": version.downloads,
                    }
                    for version in versions
                ],
            }
        )
        return
    print(f"{found.name}: {found.description or 'no description'}")
    print(f"owners: {', '.join(owner.login for owner in owned_by)}\n")
    show_rows(
        ("version", "", "published", "size", "downloads", "cksum"),
        [
            (
                version.vers,
                "yanked" if version.yanked else "",
                f"{version.published_at:%Y-%m-%d %H:%M}",
                f"{version.size:,}",
                version.downloads,
                version.cksum,
            )
            for version in reversed(versions)
        ],
        none="it has no versions",
    )


@app.command()
def yank(
    crate: NameAndVersion,
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Take a version out of new resolutions; locked builds go on."""
    _set_yanked(crate, True, registry, config, data_dir, as_json)


@app.command()
def unyank(
    crate: NameAndVersion,
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Put a yanked version back."""
    _set_yanked(crate, False, registry, config, data_dir, as_json)


@app.command()
def delete(
    crate: Annotated[str, typer.Argument(metavar="CRATE[@VERSION]", help="A version, or a whole crate.")],
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for the audit log.")],
    registry: RegistryName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Delete what must not have been published. Its number stays taken; who has locked it cannot build any more."""
    name, _, vers = crate.partition("@")

    async def work(site: Site) -> Sequence[str]:
        return await deletion.delete(pick(site, registry), name, vers or None, reason=reason, caller=None)

    gone = run(config, data_dir, work)
    if as_json:
        show({"crate": name, "deleted": gone, "reason": reason})
    else:
        say(f"deleted {', '.join(f'`{name}@{version}`' for version in gone)}")


def _set_yanked(
    crate: str, yanked: bool, registry: str | None, config: ConfigFile, data_dir: DataDir, as_json: bool
) -> None:
    name, at, vers = crate.partition("@")
    if not (name and at and vers):
        raise typer.BadParameter(f"`{crate}` names no version: write CRATE@VERSION, such as serde@1.0.0")

    async def work(site: Site) -> bool:
        return await yanking.set_yanked(pick(site, registry), name, vers, yanked, caller=None)

    changed = run(config, data_dir, work)
    if as_json:
        show({"crate": name, "vers": vers, "yanked": yanked, "changed": changed})
    else:
        state = "yanked" if yanked else "not yanked"
        say(f"`{crate}` is {'now' if changed else 'already'} {state}")


def _facts(crate: Crate) -> dict[str, object]:
    return {
        "name": crate.name,
        "description": crate.description,
        "max_version": crate.max_version,
        "max_stable_version": crate.max_stable_version,
        "downloads": crate.downloads,
        "created_at": crate.created_at,
        "updated_at": crate.updated_at,
    }
