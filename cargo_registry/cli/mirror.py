"""`cargo-registry mirror …`: fetch ahead of time, exceptions from the rules, and how a mirror is doing."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import typer

from cargo_registry.cli.progress import Transfers
from cargo_registry.cli.session import (
    HERE,
    AsJson,
    ConfigFile,
    DataDir,
    duration,
    run,
    say,
    show,
    show_rows,
)
from cargo_registry.db import mirrors
from cargo_registry.errors import ConfigError, Invalid
from cargo_registry.mirror import prefetch as fetching
from cargo_registry.mirror import upkeep as keeping
from cargo_registry.mirror.prefetch import Report, Wanted
from cargo_registry.mirror.pull_through import Mirror
from cargo_registry.mirror.upkeep import Status, Trouble
from cargo_registry.policy.serving import Ruling
from cargo_registry.registry import Registry, Site

T = TypeVar("T")

app = typer.Typer(help="Mirrors: fetch ahead, rule what is served, verify, clean up.", no_args_is_help=True)

MirrorName = Annotated[
    str | None,
    typer.Option(
        "--registry", metavar="NAME", help="Which mirror. Default: the only one.", show_default=False
    ),
]
Crates = Annotated[list[str], typer.Argument(metavar="CRATE…", help="Names of crates.")]
Spec = Annotated[
    str, typer.Argument(metavar="CRATE[@REQ]", help="A name or shell glob; with versions: time@<0.2.23")
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is audited and shown.")]
Until = Annotated[
    str | None,
    typer.Option(
        "--until",
        metavar="TIME",
        help="When it ends: 2027-01-31, 2027-01-31T12:00 (UTC), or 30d from now. Default: never.",
        show_default=False,
    ),
]


@app.command()
def refresh(
    crates: Crates,
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Ask upstream for index files now, whatever their age; exit 1 if one could not be had."""
    failed = _with_mirror(registry, config, data_dir, lambda mirror: fetching.refresh(mirror, crates))
    done = [name for name in crates if name not in failed]
    if as_json:
        show({"refreshed": done, "failed": [{"name": name, "why": why} for name, why in failed.items()]})
    else:
        say(f"{len(done)} crates are up to date")
        for name, why in failed.items():
            print(f"{name}: {why}")
    if failed:
        raise typer.Exit(1)


@app.command()
def prefetch(
    crates: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[CRATE[@REQ]]…",
            help="Crates, of each the highest version that meets the requirement.",
            show_default=False,
        ),
    ] = None,
    lockfile: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="Cargo.lock", help="Fetch all that it names. May be repeated.", show_default=False
        ),
    ] = None,
    vendor: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Fetch what `cargo vendor` put there.", show_default=False),
    ] = None,
    with_dependencies: Annotated[
        bool,
        typer.Option(
            "--with-dependencies",
            help="Also all that normal and build dependencies lead to, optional ones and other targets' included.",
        ),
    ] = False,
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Fetch tarballs and index files before anybody needs them; exit 1 if something is missing.

    What is stored is not fetched again, so a run that was broken off is taken up by starting it once more.
    """
    if not (crates or lockfile or vendor):
        raise typer.BadParameter("name crates, or a lock file with --lockfile, or a folder with --vendor")

    async def work(mirror: Mirror) -> Report:
        wanted: list[Wanted] = [fetching.from_spec(text) for text in crates or ()]
        for file in lockfile or ():
            wanted += fetching.from_lockfile(mirror.registry, _read(file), f"`{file}`")
        for folder in vendor or ():
            wanted += fetching.from_vendor(folder)
        with Transfers(f"prefetch into {mirror.registry.name}", len(set(wanted))) as progress:
            return await fetching.fetch(
                mirror, wanted, with_dependencies=with_dependencies, progress=progress.step
            )

    report = _with_mirror(registry, config, data_dir, work)
    if as_json:
        show(
            {
                "had": report.had,
                "fetched": report.fetched,
                "bytes": report.bytes,
                "seconds": round(report.seconds, 3),
                "missing": [
                    {"name": each.name, "vers": each.vers, "why": each.why, "optional": each.is_optional}
                    for each in report.missing
                ],
            }
        )
    else:
        for each in report.missing:
            optional = " (an optional dependency)" if each.is_optional else ""
            print(f"missing {each.name} {each.vers}{optional}: {each.why}")
        say(
            f"had {report.had}, fetched {report.fetched} ({_size(report.bytes)} in {report.seconds:.1f} s), "
            f"missing {len(report.missing)}"
        )
    if not report.is_complete:
        raise typer.Exit(1)


@app.command()
def allow(
    crate: Spec,
    reason: Reason,
    until: Until = None,
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Serve what a rule is against: an exception, audited. A running server has it within about a second."""
    _rule("allow", crate, reason, until, registry, config, data_dir, as_json)


@app.command()
def deny(
    crate: Spec,
    reason: Reason,
    until: Until = None,
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Serve something no more, audited. It holds at once, and before any `allow`."""
    _rule("deny", crate, reason, until, registry, config, data_dir, as_json)


@app.command()
def rulings(
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """List the exceptions that hold now."""

    async def work(site: Site) -> list[Ruling]:
        chosen = _pick(site, registry)
        return await site.db.read(mirrors.rulings, chosen.name, now=chosen.now())

    found = run(config, data_dir, work)
    if as_json:
        show([_ruling(each) for each in found])
        return
    show_rows(
        ("id", "", "crate", "until", "by", "reason"),
        [(each.id, each.kind, each.pattern.text, _time(each.until), each.by, each.reason) for each in found],
        none="there are no exceptions",
    )


@app.command()
def revoke(
    ruling: Annotated[int, typer.Argument(metavar="ID", help="As `mirror rulings` lists it.")],
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
) -> None:
    """Take an exception back."""

    async def work(site: Site) -> str:
        return await keeping.revoke(_pick(site, registry), ruling)

    say(f"the exception for `{run(config, data_dir, work)}` is revoked")


@app.command()
def explain(
    crate: Annotated[str, typer.Argument(metavar="CRATE@VERSION", help="Such as serde@1.0.0.")],
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Say whether a version is served, which rule decides, and why. Upstream is asked only if nothing is known."""
    name, at, vers = crate.partition("@")
    if not (name and at and vers):
        raise typer.BadParameter(f"`{crate}` names no version: write CRATE@VERSION, such as serde@1.0.0")

    async def work(mirror: Mirror) -> dict[str, object]:
        await mirror.look(name.lower())
        line, verdict = mirror.explain(name, vers)
        return {
            "crate": name,
            "vers": vers,
            "known": line is not None,
            "served": verdict.served and line is not None,
            "rule": verdict.rule,
            "why": verdict.why,
            "until": verdict.until,
        }

    found = _with_mirror(registry, config, data_dir, work)
    if as_json:
        show(found)
    else:
        served = "served" if found["served"] else "not served"
        print(f"{crate} is {served}: rule `{found['rule']}`: {found['why']}")


@app.command()
def verify(
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Read every stored tarball and compare it with its index line; exit 1 if one is wrong.

    A wrong one is not served any more, and fetched anew when somebody wants it.
    """

    async def work(site: Site) -> tuple[int, list[dict[str, str]]]:
        chosen = _pick(site, registry)
        total, _ = await site.db.read(mirrors.stored_size, chosen.name)
        with Transfers(f"verify {chosen.name}", total) as progress:
            count, wrong = await keeping.verify(chosen, progress=progress.step)
        return count, [
            {"crate": tarball.name, "vers": tarball.vers, "problem": why} for tarball, why in wrong
        ]

    count, wrong = run(config, data_dir, work)
    if as_json:
        show({"verified": count, "wrong": wrong})
    else:
        for each in wrong:
            print(f"{each['crate']}@{each['vers']}: {each['problem']}")
        say(f"{count} tarballs read, {len(wrong)} are wrong")
    if wrong:
        raise typer.Exit(1)


@app.command()
def gc(
    unused: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Remove what nobody used for so long, as 90d.", show_default=False),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Then the longest unused until the rest has at most this, as 200G.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Remove tarballs, longest unused first. They are fetched again when somebody wants them."""
    if unused is None and max_size is None:
        raise typer.BadParameter("say what to remove: --unused 90d, --max-size 200G, or both")
    age = None if unused is None else duration(unused)
    max_bytes = None if max_size is None else _bytes(max_size)

    async def work(site: Site) -> tuple[list[tuple[str, str, int]], int]:
        removed, left = await keeping.collect(
            _pick(site, registry), unused=age, max_bytes=max_bytes, dry_run=dry_run
        )
        return [(tarball.name, tarball.vers, tarball.size) for tarball in removed], left

    removed, left = run(config, data_dir, work)
    freed = sum(size for _, _, size in removed)
    if as_json:
        show(
            {
                "removed": [{"crate": name, "vers": vers, "bytes": size} for name, vers, size in removed],
                "freed_bytes": freed,
                "left_bytes": left,
                "dry_run": dry_run,
            }
        )
        return
    for name, vers, size in removed:
        print(f"{name}@{vers} {_size(size)}")
    verb = "would be" if dry_run else "are"
    say(f"{len(removed)} tarballs {verb} removed, {_size(freed)}; {_size(left)} are left")


@app.command("status")
def status_(
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """Say what is known and stored, what upstream fails on, and what somebody must look at."""

    async def work(site: Site) -> tuple[Registry, Status]:
        chosen = _pick(site, registry)
        return chosen, await keeping.status(chosen, local=_local(site))

    chosen, found = run(config, data_dir, work)
    facts = {
        "registry": chosen.name,
        "upstream": chosen.table.upstream,
        "offline": chosen.table.offline,
        "crates": found.files,
        "crates_gone_upstream": found.gone,
        "oldest_check": found.oldest_check,
        "newest_check": found.newest_check,
        "tarballs": found.tarballs,
        "bytes": found.bytes,
        "versions_vanished_or_changed": found.troubled,
        "failing": [
            {
                "what": each.what,
                "failures": each.failures,
                "next_try_at": each.next_try_at,
                "why": each.reason,
            }
            for each in found.failures
        ],
        "alarms": [
            {"kind": kind, "name": name, "since": since, "detail": detail}
            for kind, name, since, detail in found.alarms
        ],
        "exceptions": [_ruling(each) for each in found.rulings],
    }
    if as_json:
        show(facts)
        return
    print(f"{chosen.name} mirrors {chosen.table.upstream}{' (offline)' if chosen.table.offline else ''}")
    print(f"crates known:   {found.files}, of them gone upstream: {found.gone}")
    print(f"last look:      {_time(found.newest_check)}, the longest ago {_time(found.oldest_check)}")
    print(f"tarballs:       {found.tarballs}, {_size(found.bytes)}")
    print(f"vanished or changed upstream: {found.troubled} versions (`mirror report`)")
    print(f"exceptions:     {len(found.rulings)} (`mirror rulings`)")
    for each in found.failures:
        print(f"upstream fails on {each.what}, {each.failures} times: {each.reason}")
    for kind, name, since, detail in found.alarms:
        print(f"alarm {kind}: `{name}`, since {_time(since)}: {detail}")


@app.command()
def report(
    registry: MirrorName = None,
    config: ConfigFile = None,
    data_dir: DataDir = HERE,
    as_json: AsJson = False,
) -> None:
    """List versions that upstream removed or changed, and who downloaded them here."""

    async def work(site: Site) -> list[Trouble]:
        return await keeping.report(_pick(site, registry))

    found = run(config, data_dir, work)
    if as_json:
        show(
            [
                {
                    "crate": each.version.name,
                    "vers": each.version.vers,
                    "what": _trouble(each),
                    "vanished_at": each.version.gone_at,
                    "changed_at": each.version.changed_at,
                    "cksum": each.version.cksum,
                    "cksum_upstream": each.version.changed_cksum,
                    "downloads": [
                        {
                            "who": by.who,
                            "downloads": by.downloads,
                            "first_at": by.first_at,
                            "last_at": by.last_at,
                        }
                        for by in each.downloads
                    ],
                }
                for each in found
            ]
        )
        return
    if not found:
        say("nothing has vanished or changed upstream")
    for each in found:
        print(f"{each.version.name}@{each.version.vers}: {_trouble(each)}")
        for by in each.downloads:
            print(f"    {by.who}: {by.downloads} downloads, the last {_time(by.last_at)}")
        if not each.downloads:
            print("    nobody downloaded it here")


def _rule(
    kind: Literal["allow", "deny"],
    crate: str,
    reason: str,
    until: str | None,
    registry: str | None,
    config: Path | None,
    data_dir: Path,
    as_json: bool,
) -> None:
    async def work(site: Site) -> tuple[int, list[str]]:
        chosen = _pick(site, registry)
        end = None if until is None else _end(until, chosen.now())
        return await keeping.rule(chosen, kind, crate, reason=reason, until=end)

    ruling, names = run(config, data_dir, work)
    if as_json:
        show({"id": ruling, "kind": kind, "crate": crate, "known_crates": names})
    else:
        verb = "allowed" if kind == "allow" else "denied"
        say(
            f"`{crate}` is {verb} from now on (exception {ruling}); known crates that this is about: {len(names)}"
        )


def _with_mirror(
    name: str | None, config: Path | None, data_dir: Path, work: Callable[[Mirror], Awaitable[T]]
) -> T:
    async def session(site: Site) -> T:
        chosen = _pick(site, name)
        mirror = Mirror(chosen, local=_local(site))
        try:
            return await work(mirror)
        finally:
            await mirror.close()

    return run(config, data_dir, session)


def _local(site: Site) -> list[str]:
    return [registry.name for registry in site.registries.values() if not registry.is_mirror]


def _pick(site: Site, name: str | None) -> Registry:
    """Return the mirror of this name, or the only one there is.

    Raises:
        ConfigError: there is none, or several.
    """
    found = [registry for registry in site.registries.values() if registry.is_mirror]
    known = ", ".join(f"`{registry.name}`" for registry in found) or "none"
    if name is None:
        if len(found) != 1:
            raise ConfigError(f"say which mirror with `--registry`; the configuration has {known}")
        return found[0]
    chosen = next((registry for registry in found if registry.name == name), None)
    if chosen is None:
        raise ConfigError(f"there is no mirror `{name}`; the configuration has {known}")
    return chosen


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"`{file}` cannot be read: {error}") from None


def _end(text: str, now: datetime) -> datetime:
    if re.fullmatch(r"[0-9]+[hdwy]", text):
        return now + duration(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(
            f"`{text}` is not a time: write 2027-01-31, 2027-01-31T12:00 or 30d"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)\s*([KMGT]?)(?:i?B)?", text)
    if match is None:
        raise typer.BadParameter(f"`{text}` is not a size: write 500M or 200G")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " "))


def _size(size: int) -> str:
    number = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def _time(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M}"


def _ruling(ruling: Ruling) -> dict[str, object]:
    return {
        "id": ruling.id,
        "kind": ruling.kind,
        "crate": ruling.pattern.text,
        "reason": ruling.reason,
        "until": ruling.until,
        "by": ruling.by,
    }


def _trouble(trouble: Trouble) -> str:
    version = trouble.version
    if version.changed_at is not None:
        return f"upstream changed its checksum to {version.changed_cksum}, seen {_time(version.changed_at)}"
    return f"vanished upstream, seen {_time(version.gone_at)}"
