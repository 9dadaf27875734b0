"""Real cargo fetches a program's crates: from our server and nginx in turn at a distance, and through a mirror."""

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks import cargo, data, distance, servers
from benchmarks.report import Figure, ratio, spread


def at_a_distance(
    folder: Path, crates: Path, rtts_ms: Sequence[int], rounds: int, say: Callable[[str], None]
) -> Iterator[Figure]:
    """Compare fetches with nginx's of the same files; of the real crates in `crates`, if there are any."""
    if reason := cargo.why_not():
        yield Figure("real cargo at a distance", f"not measured: {reason}")
        return
    root = folder / "cargo"
    program = cargo.program(folder / "program", crates)
    _import(root, program)
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(cargo.home(folder))
        if reason := distance.why_not():
            # Nearer than asked for, but something.
            yield Figure("real cargo at a distance", f"not measured: {reason}")
            link, host, rtts_ms = None, "127.0.0.1", [0]
        else:
            link, host = stack.enter_context(distance.link()), distance.SERVER_IP
        there, here = (link.in_server, link.in_client) if link else ((), ())
        server = stack.enter_context(
            servers.ours(root, "--host", host, "--self-signed", core=None, prefix=there)
        )
        certificate = root / "tls" / "self-signed.pem"
        key = root / "tls" / "self-signed.key"
        nginx = stack.enter_context(
            servers.nginx(root, folder / "nginx-cargo", certificate, key, host, None, there)
        )
        ours, others = (
            cargo.Cargo(program, home, f"sparse+{each.urls['h2']}/index/", here, certificate)
            for each in (server, nginx)
        )
        for each in (ours, others):
            each.cold_fetch_s()  # of a server and files that nobody has asked for yet
        for rtt_ms in rtts_ms:
            if link:
                link.delay_s = rtt_ms / 2000
            must, aim = ("≤ 1.10 ×", "1.03 ×") if rtt_ms == 20 else ("", "")
            row = f"cargo, {program.what}, TLS, {rtt_ms} ms RTT"
            for figure in cargo.compare(row, ours, others, rounds, must, aim):
                say(f"{figure.name}: {figure.value}")
                yield figure
    shutil.rmtree(root)
    shutil.rmtree(folder / "program")


def through_a_mirror(folder: Path, crates: Path, rounds: int) -> Iterator[Figure]:
    """Compare fetches through a mirror, new and one that has all, with those from its upstream."""
    if reason := cargo.why_not():
        yield Figure("real cargo through a mirror", f"not measured: {reason}")
        return
    root = folder / "upstream"
    program = cargo.program(folder / "program", crates)
    _import(root, program)
    times: dict[str, list[float]] = {"direct": [], "cold": [], "warm": []}
    with servers.ours(root, core=None) as upstream, cargo.home(folder) as home:
        direct = cargo.Cargo(program, home, f"sparse+{upstream.urls['http']}/index/")
        direct.cold_fetch_s()
        for turn in range(rounds):
            times["direct"].append(direct.cold_fetch_s())
            followed = f'[registries.followed]\nkind = "mirror"\nupstream = "{direct.index_url}"\n'
            with servers.ours(folder / f"mirror{turn}", settings=followed, core=None) as mirror:
                through = cargo.Cargo(program, home, f"sparse+{mirror.urls['http']}/followed/index/")
                times["cold"].append(through.cold_fetch_s())
                times["warm"].append(through.cold_fetch_s())
            shutil.rmtree(folder / f"mirror{turn}")
    for kind in ("cold", "warm"):
        yield Figure(
            f"cargo, {program.what} of a lock through a mirror: {kind}",
            f"{ratio(times[kind], times['direct'])} × its upstream directly ({spread(times[kind], ' s')};"
            f" directly {spread(times['direct'], ' s')})",
        )
    shutil.rmtree(root)
    shutil.rmtree(folder / "program")


def _import(root: Path, program: cargo.Program) -> None:
    """Make a registry that has the crates of a program."""
    data.generate(root, (10, 10))
    command = [sys.executable, "-m", "cargo_registry", "import", str(program.tarballs), "--as", "bench"]
    where = ["--config", str(root.parent / f"{root.name}.gen.toml"), "--data-dir", str(root)]
    done = subprocess.run([*command, *where], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
