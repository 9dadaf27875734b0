"""docs/mirror.md, tried as it is written."""

import re
import shlex
from pathlib import Path

import pytest

from cargo_registry import config
from tests.mirror.conftest import MakeMirror
from tests.mirror.upstream import Upstream

DOCS = Path(__file__).parents[2] / "docs/mirror.md"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", DOCS.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("toml", blocks("toml"))
def test_every_configuration_is_accepted(toml: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(toml.replace("crg_…", "crg_x"))

    loaded = config.load(file, data_dir=tmp_path, environ={})

    assert all(table.kind == "mirror" for table in loaded.registries.values())


def test_every_command_works_in_the_order_of_the_page(upstream: Upstream, make_mirror: MakeMirror) -> None:
    for name, vers in (("serde", "1.0.0"), ("tokio", "1.40.1"), ("rustls", "0.23.40"), ("left-pad", "1.0.0")):
        upstream.add(name, vers)
    mirror = make_mirror(upstream, 'contact = "registry-team@example.org"', 'deny = ["rustls"]')
    (mirror.data_dir / "Cargo.lock").write_text('version = 4\n[[package]]\nname = "app"\nversion = "0.1.0"\n')
    vendored = mirror.data_dir / "vendor/serde"
    vendored.mkdir(parents=True)
    (vendored / "Cargo.toml").write_text('[package]\nname = "serde"\nversion = "1.0.0"\n')
    cksum = re.search(rb'"cksum": "(\w+)"', upstream.index_file("serde"))
    assert cksum is not None
    (vendored / ".cargo-checksum.json").write_text(f'{{"files": {{}}, "package": "{cksum[1].decode()}"}}')
    token = mirror.token("ada")

    said = {}
    for line in "".join(blocks("sh")).splitlines():
        words = shlex.split(line)
        if words[0] == "cargo-registry" and words[1] != "serve":
            done = mirror.cli(*words[1:])
            said[line] = done.stdout + done.stderr
        elif words[0] == "curl":
            url = words[-1].replace("$URL", "")
            body = (
                words[words.index("-d") + 1]
                if "-d" in words
                else (mirror.data_dir / "Cargo.lock").read_text()
            )
            assert words[1:3] == ["-H", "Authorization: $TOKEN"]
            mirror.http.post(url, content=body, headers={"authorization": token}).raise_for_status()
    printed = said["cargo-registry client-config crates-io --replace-crates-io"]
    assert printed == blocks("text")[0].replace("http://127.0.0.1:8000", mirror.url)
    assert "is served" in said["cargo-registry mirror explain rustls@0.23.40"]
    assert len(said) == 14
