"""How often one caller may ask: token buckets in the memory of this process."""

import math
import time
from collections import OrderedDict
from collections.abc import Hashable
from ipaddress import ip_address

from starlette.types import Scope

from cargo_registry.config import Config
from cargo_registry.errors import TooMany
from cargo_registry.tokens import Caller

# As many callers are remembered; the one not seen for longest is forgotten, which lets it begin anew.
_MAX_CALLERS = 50_000


class Buckets:
    """One bucket a caller: holds `burst` at most, and one more flows in every `every_s` seconds."""

    def __init__(self, *, burst: int, every_s: float) -> None:
        self._burst = burst
        self._every_s = every_s
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()  # when the caller's bucket is full again

    def take(self, caller: Hashable) -> float:
        """Take one out of the caller's bucket and return 0; if it is empty, the seconds until one is there."""
        now = time.monotonic()
        full_at = max(now, self._full_at.pop(caller, now)) + self._every_s
        wait_s = full_at - now - self._burst * self._every_s
        if wait_s > 1e-9:
            full_at -= self._every_s
        self._full_at[caller] = full_at
        if len(self._full_at) > _MAX_CALLERS:
            self._full_at.popitem(last=False)
        return max(0.0, wait_s) if wait_s > 1e-9 else 0.0


class Limits:
    """The limits of one process. A registry with several workers has as many times these."""

    def __init__(self, config: Config) -> None:
        self._on = config.limits.rate_limits
        self._proxies = config.server.trusted_proxies
        # cargo never retries a publish, and a workspace may have 200 crates.
        self._publishes = Buckets(burst=300, every_s=1)
        self._failures = Buckets(burst=30, every_s=2)

    def publish(self, caller: Caller) -> None:
        """Count a publish.

        Raises:
            TooMany: 300 at once, then one a second, have been used up.
        """
        self._take_publish(caller, "publish")

    def check(self, caller: Caller) -> None:
        """Count a trial of a publish, which costs the server as much; each may go before a real one.

        Raises:
            TooMany: as for `publish`.
        """
        self._take_publish(caller, "check")

    def _take_publish(self, caller: Caller, what: str) -> None:
        token_id = caller.token.id if caller.token else 0
        if self._on and (wait_s := self._publishes.take((what, token_id))):
            raise TooMany(
                "this token has published too much in too short a time; "
                f"wait {math.ceil(wait_s)} seconds and publish the rest",
                retry_after_s=math.ceil(wait_s),
            )

    def failed_authentication(self, scope: Scope) -> None:
        """Count a token that was not good, against its sender's address; a good one is never held up.

        Raises:
            TooMany: 30 in a minute.
        """
        if self._on and (wait_s := self._failures.take(self.address(scope))):
            raise TooMany(
                "too many wrong tokens came from your address; "
                f"check the token, wait {math.ceil(wait_s)} seconds and try again",
                retry_after_s=math.ceil(wait_s),
            )

    def address(self, scope: Scope) -> str:
        """Return the address of who is asking: behind trusted proxies, as the last of them was told.

        X-Forwarded-For is read from the right: each proxy adds who asked it, and what stands further left
        than the first that we do not trust can be made up by anybody.
        """
        client = scope.get("client")
        address = str(client[0]) if client else ""
        if not self._proxies or not self._is_proxy(address):
            return address
        values = [value for name, value in scope["headers"] if name == b"x-forwarded-for"]
        for hop in reversed(b",".join(values).decode("latin-1").split(",")):
            hop = hop.strip()
            if not _is_address(hop):
                return address
            address = hop
            if not self._is_proxy(hop):
                break
        return address

    def _is_proxy(self, address: str) -> bool:
        if not _is_address(address):
            return False
        ip = ip_address(address)
        # So an IPv4 client is called where the server listens on `::`.
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self._proxies)


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
