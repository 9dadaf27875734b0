"""nginx that serves the real crates as plain files: an upstream that is nobody's registry software."""

import shutil
import socket
import subprocess
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx
import pytest

from tests.programs import until


class Nginx:
    """A sparse registry of plain files. Use as a context manager."""

    def __init__(self, root: Path, data: Path, *, port: int = 0, tls: bool = False) -> None:
        if shutil.which("nginx") is None:
            pytest.skip("nginx is not on this machine")
        root.mkdir(exist_ok=True)
        self._log = root / "access.log"
        if not port:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
        self.port = port
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
        listen = f"listen 127.0.0.1:{port};"
        self._ca: Path | bool = True
        if tls:
            self._ca = root / "ca.pem"
            subprocess.run(
                [
                    "openssl",
                    "req",
                    "-x509",
                    "-newkey",
                    "rsa:2048",
                    "-nodes",
                    "-days",
                    "2",
                    "-subj",
                    "/CN=test",
                    "-addext",
                    "subjectAltName=IP:127.0.0.1",
                    "-keyout",
                    root / "key.pem",
                    "-out",
                    self._ca,
                ],
                check=True,
                capture_output=True,
            )
            listen = (
                f"listen 127.0.0.1:{port} ssl http2; ssl_certificate {self._ca};"
                f" ssl_certificate_key {root}/key.pem;"
            )
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {root}/{kind};" for kind in kinds)
        (root / "nginx.conf").write_text(f"""
worker_processes 1; daemon off; pid {root}/pid; error_log {root}/error.log;
events {{ worker_connections 512; }}
http {{
  log_format path '$uri $server_protocol'; access_log {self._log} path; types {{}} default_type text/plain; {temporary}
  server {{
    {listen}
    location = /index/config.json {{
      return 200 '{{"dl":"{self.url}/crates/{{crate}}-{{version}}.crate"}}';
    }}
    location = /ready {{ return 204; }}
    location /index/ {{ alias {data}/index/; }}
    location /crates/ {{ alias {data}/crates/; }}
  }}
}}
""")
        self._process = subprocess.Popen(
            ["nginx", "-p", root, "-c", root / "nginx.conf"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers)

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/ready", trust_env=False, verify=self._ca is True).status_code == 204
        except httpx.TransportError:
            return False

    @property
    def index_url(self) -> str:
        return f"sparse+{self.url}/index/"

    def asked(self) -> Counter[str]:
        """Return how often each path was asked for, without config.json."""
        paths = Counter(line.split()[0] for line in self._log.read_text().splitlines())
        del paths["/index/config.json"], paths["/ready"]
        return paths

    def protocols(self) -> set[str]:
        """Return the versions of HTTP that files were asked for with."""
        lines = [line.split() for line in self._log.read_text().splitlines()]
        return {protocol for path, protocol in lines if path != "/ready"}

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
