"""Runs the fuzzers one after another: `python -m fuzz --seconds 60 [TARGET...]`.

Prints how many inputs each tried. What one found lies in `fuzz/found/`, and the exit code is 1.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from fuzz.targets import CORPUS, TARGETS

FOUND = Path(__file__).parent / "found"

# An input that takes longer than this hangs: the slowest honest one takes half a second.
_MAX_INPUT_S = 5
_MAX_MIB = 1024


def main() -> int:
    """Run what was asked for; return 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz, and count what was tried.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"{', '.join([*TARGETS, 'api'])}; all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--seed", type=int, default=0, help="to get the same run again; 0: another one (0)")
    options = parser.parse_args()
    unknown = set(options.targets) - {*TARGETS, "api"}
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}")
    FOUND.mkdir(exist_ok=True)
    total, bad = 0, 0
    for target in options.targets or [*TARGETS, "api"]:
        run = _run_api if target == "api" else _run_guided
        tried, is_fine = run(target, options.seconds, options.seed)
        print(f"{target}: {tried} inputs tried, {'nothing found' if is_fine else 'SEE ABOVE'}", flush=True)
        total += tried
        bad += not is_fine
    print(f"all: {total} inputs tried")
    return 1 if bad else 0


def _run_guided(target: str, seconds: int, seed: int) -> tuple[int, bool]:
    """Run libFuzzer; what it finds interesting is kept in `found/`, and the next run begins with it."""
    kept = FOUND / target
    kept.mkdir(exist_ok=True)
    command = [
        *(sys.executable, "-m", "fuzz.guided", target),
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-timeout={_MAX_INPUT_S}",
        f"-rss_limit_mb={_MAX_MIB}",
        "-max_len=65536",
        "-print_final_stats=1",
        f"-artifact_prefix={FOUND}/{target}-",
        *map(str, (kept, CORPUS / target)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        print(done.stdout[-2000:] + done.stderr[-6000:])
    counts = re.findall(r"number_of_executed_units: (\d+)", done.stderr) or re.findall(
        r"^#(\d+)\t", done.stderr, re.MULTILINE
    )
    return int(counts[-1]) if counts else 0, done.returncode == 0


def _run_api(target: str, seconds: int, seed: int) -> tuple[int, bool]:
    command = [sys.executable, "-m", "fuzz.api", "--seconds", str(seconds), "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(done.stdout, end="")
    counts = re.findall(r"(\d+) requests", done.stdout)
    return int(counts[-1]) if counts else 0, done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
