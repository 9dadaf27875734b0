"""The programs that `make bench` runs besides Python, and how they get onto a machine that lacks them."""

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

# Debian's and Ubuntu's packages.
_PACKAGES = {
    "nginx": "nginx-light",
    "wrk": "wrk",
    "h2load": "nghttp2-client",
    "cc": "gcc libc6-dev",
    "ip": "iproute2",
    "taskset": "util-linux",
}


ALL = tuple(_PACKAGES)
FOR_READING = ("nginx", "wrk", "h2load", "taskset")


def install(say: Callable[[str], None], wanted: Sequence[str] = ALL) -> str:
    """Install what is missing, with apt; return "", or what the user has to do where that cannot be done here.

    Needs root, or sudo that asks for no password: nobody may be there to type one.
    """
    # nginx and ip are there for everybody, but not everybody's PATH.
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [tool for tool in wanted if not shutil.which(tool)]
    if not missing:
        return ""
    packages = " ".join(_PACKAGES[tool] for tool in missing)
    by_hand = f"{', '.join(missing)}: not here. Install what has them, on Debian and Ubuntu: sudo apt-get install {packages}"
    if not shutil.which("apt-get"):
        return by_hand
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and (not shutil.which("sudo") or subprocess.run([*root, "true"], capture_output=True).returncode):
        return by_hand
    say(f"apt-get install {packages}")
    quietly = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    for command in (
        [*quietly, "update"],
        [*quietly, "install", "-y", "--no-install-recommends", *packages.split()],
    ):
        if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
            return f"apt-get could not install {packages}; see above.\n{by_hand}"
    still = [tool for tool in missing if not shutil.which(tool)]
    return f"{', '.join(still)}: not there even after installing {packages}" if still else ""
