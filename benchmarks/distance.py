"""A distance: two network namespaces, joined by a relay that delays every packet.

A relay of our own, as many kernels have no netem. Needs root and /dev/net/tun.
"""

import contextlib
import ctypes
import fcntl
import heapq
import os
import select
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator

_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 1, 0x1000
_CLONE_NEWNET = 0x40000000
SERVER_IP, CLIENT_IP = "10.99.0.1", "10.99.0.2"


def why_not() -> str:
    """Return why it cannot be done here, "" if it can."""
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        return "needs root and /dev/net/tun"
    if shutil.which("ip") is None:
        return "no `ip` here"
    done = subprocess.run(["unshare", "-n", "true"], capture_output=True)
    return "" if done.returncode == 0 else "may not make network namespaces"


class Link:
    """Two namespaces of our own, `in_server` and `in_client` what comes before a command to run there."""

    def __init__(self) -> None:
        self._holders = [subprocess.Popen(["unshare", "-n", "sleep", "3600"]) for _ in range(2)]
        time.sleep(0.3)
        self.in_server, self.in_client = (
            ("nsenter", f"--net=/proc/{holder.pid}/ns/net") for holder in self._holders
        )
        self.delay_s = 0.0
        self._tuns = [
            _tun_in(holder.pid, address)
            for holder, address in zip(self._holders, (SERVER_IP, CLIENT_IP), strict=True)
        ]
        self._stop = threading.Event()
        self._relay = threading.Thread(target=self._pass_on, daemon=True)
        self._relay.start()

    def close(self) -> None:
        """End both namespaces."""
        self._stop.set()
        self._relay.join(2)
        for tun in self._tuns:
            os.close(tun)
        for holder in self._holders:
            holder.kill()
            holder.wait()

    def _pass_on(self) -> None:
        waiting: list[tuple[float, int, int, bytes]] = []
        number = 0
        other = {self._tuns[0]: self._tuns[1], self._tuns[1]: self._tuns[0]}
        while not self._stop.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                _, _, tun, packet = heapq.heappop(waiting)
                with contextlib.suppress(OSError):
                    os.write(tun, packet)
            timeout = max(0.0, min(0.1, waiting[0][0] - now)) if waiting else 0.1
            readable, _, _ = select.select(self._tuns, [], [], timeout)
            for tun in readable:
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        packet = os.read(tun, 65536)
                        number += 1
                        heapq.heappush(waiting, (time.monotonic() + self.delay_s, number, other[tun], packet))


def _tun_in(pid: int, address: str) -> int:
    """Return a TUN device in the namespace of a process; ours is the same again afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(there, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH14x", b"bench0", _IFF_TUN | _IFF_NO_PI))
        for command in (
            ["ip", "link", "set", "lo", "up"],
            ["ip", "addr", "add", f"{address}/24", "dev", "bench0"],
            ["ip", "link", "set", "bench0", "up", "mtu", "1500"],
        ):
            subprocess.run(command, check=True)
    finally:
        libc.setns(home, _CLONE_NEWNET)
        os.close(home)
        os.close(there)
    return tun


@contextlib.contextmanager
def link() -> Iterator[Link]:
    """Give a link of two namespaces."""
    made = Link()
    try:
        yield made
    finally:
        made.close()
