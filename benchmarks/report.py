"""What was measured, as tables for people and as JSON for programs."""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import sqlite3
import ssl
import statistics
import subprocess
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.load import Sample
from benchmarks.reading import Result


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """A row that is no ratio to nginx: what was measured, and what was asked for."""

    name: str
    value: str
    must: str = ""
    aim: str = ""


@dataclasses.dataclass(slots=True)
class Report:
    """All that one run of `make bench` found so far."""

    introduction: str
    closing: str
    results: dict[str, Sequence[Result]] = dataclasses.field(default_factory=dict)  # by heading
    figures: list[Figure] = dataclasses.field(default_factory=list)

    def write(self, folder: Path, stem: str, minutes: float) -> None:
        """Write `stem`.md and `stem`.json, in place of what an earlier run left there."""
        folder.mkdir(parents=True, exist_ok=True)
        everything: dict[str, Any] = {
            "machine": machine(),
            "minutes": round(minutes, 1),
            "results": {
                name: [dataclasses.asdict(result) for result in of] for name, of in self.results.items()
            },
            "figures": [dataclasses.asdict(figure) for figure in self.figures],
        }
        (folder / f"{stem}.json").write_text(json.dumps(everything, indent=1) + "\n")
        (folder / f"{stem}.md").write_text(
            f"# Benchmarks\n\nWritten by `make bench` in {minutes:.0f} minutes on: {machine()}\n\n"
            f"{self.introduction}\n{_HOW_TO_READ_IT}\n{self.tables()}{self.closing}"
        )

    def tables(self) -> str:
        """Return the tables as Markdown, each with its heading."""
        parts = [f"## {heading}\n\n{table(of)}\n\n" for heading, of in self.results.items()]
        if self.figures:
            lines = [f"| {f.name} | {f.value} | {f.must} | {f.aim} |" for f in self.figures]
            parts.append(
                "## Publishing, searching, starting, fetching\n\n| | measured | must | aim |\n|---|---|---|---|\n"
                + "\n".join(lines)
                + "\n"
            )
        return "".join(parts)


_HOW_TO_READ_IT = """\
A ratio is the other one's CPU time per request by ours, or our requests per second by the other one's: above 1, ours
is better. It is the median of the rounds, which are run in turn, with the lowest and the highest. Where other programs
were busy, only the ratio of CPU means something. The columns behind have medians, ours / the other one's; memory is
that of all processes right after a run, MB/s are what came over the wire, headers and compression included.
"""


def spread(values: Sequence[float], unit: str) -> str:
    """Return the median with the lowest and the highest."""
    digits = 0 if statistics.median(values) >= 20 else 2
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} [{low:.{digits}f}–{high:.{digits}f}]{unit}"


def ratio(mine: Sequence[float], others: Sequence[float]) -> str:
    """Return the median of the ratios of times taken in turn, with the lowest and the highest."""
    return spread([one / other for one, other in zip(mine, others, strict=True)], "")


def table(results: Sequence[Result]) -> str:
    """Return one row for each result, as Markdown."""
    lines = [
        "| path | against | ratio of CPU | ratio of requests/s | must | aim | requests/s | MB/s | p50 ms | p99 ms | CPU µs | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        pairs = list(zip(result.samples, result.others, strict=True))
        cpu = [other.cpu_us / mine.cpu_us for mine, other in pairs if mine.cpu_us and other.cpu_us]
        rates = [mine.requests_per_s / other.requests_per_s for mine, other in pairs if other.requests_per_s]
        both = _Both(result)
        cells = [
            result.name,
            result.what,
            f"**{statistics.median(cpu):.2f}** [{min(cpu):.2f}–{max(cpu):.2f}]" if cpu else "–",
            spread(rates, "") if rates else "–",
            f"{result.must:.2f}" if result.must else "",
            f"{result.aim:.2f}" if result.aim else "",
            both.say(lambda s: s.requests_per_s, ",.0f"),
            both.say(lambda s: s.mb_per_s, ",.0f"),
            both.say(lambda s: s.p50_ms, ".2f"),
            both.say(lambda s: s.p99_ms, ".2f"),
            both.say(lambda s: s.cpu_us, ".1f"),
            both.say(lambda s: s.mib, ".0f"),
        ]
        if any(s.failed for pair in pairs for s in pair):
            cells[0] += f" ({sum(a.failed for a, _ in pairs)} and {sum(b.failed for _, b in pairs)} failed)"
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@dataclasses.dataclass(frozen=True, slots=True)
class _Both:
    result: Result

    def say(self, of: Callable[[Sample], float | None], form: str) -> str:
        medians = []
        for samples in (self.result.samples, self.result.others):
            known = [value for value in map(of, samples) if value is not None]
            medians.append(f"{statistics.median(known):{form}}" if known else "–")
        return " / ".join(medians)


def machine() -> str:
    """Describe the machine and what was run on it."""
    model = "?"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return (
        f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Linux {platform.release()}; Python {platform.python_version()}, "
        f"granian {version('granian')}, starlette {version('starlette')}, SQLite {sqlite3.sqlite_version}, "
        f"{_said('nginx', '-v')}, {ssl.OPENSSL_VERSION}, {_said('cargo', '--version')}. "
        f"Load average at the end: {os.getloadavg()[0]:.1f}."
    )


def _said(*command: str) -> str:
    """Return what a program says of its version, its name and number."""
    if not shutil.which(command[0]):
        return f"no {command[0]}"
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().partition("(")[0].removeprefix("nginx version: ").strip()
