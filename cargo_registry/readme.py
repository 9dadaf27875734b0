"""README files: out of the tarball, and as HTML that can do no harm."""

import asyncio
from html import escape
from pathlib import Path

import nh3
from markdown_it import MarkdownIt

from cargo_registry import download
from cargo_registry.crate import tarball
from cargo_registry.crate.names import shown
from cargo_registry.db import crates
from cargo_registry.errors import NotFound
from cargo_registry.registry import Registry

_MAX_BYTES = 1024 * 1024
# Rendering takes up to 25 µs for each byte of a hostile text, and anybody may ask for it again and again. The
# longest README of 339 well-known crates has 39 KB.
_MAX_MARKDOWN_CHARS = 128 * 1024
_MARKDOWN = {"md", "markdown", "mdown", "mdwn", "mkd", "mkdn", "mkdown", ""}


async def html(registry: Registry, name: str, vers: str) -> str:
    """Return the README of a version as a fragment of HTML, from the tarball that users get.

    Raises:
        NotFound: no such crate or version, or it has no README.
        TooLarge: it has more than 1 MiB.
    """
    listed, path = download.find(registry, name, vers)
    crate = registry.db.look_up(crates.get, registry.name, name)
    file = registry.db.look_up(crates.get_version, crate, vers).manifest["readme"]
    data = await asyncio.to_thread(tarball.read_member, Path(path), file, _MAX_BYTES) if file else None
    if data is None:
        raise NotFound(f"version {shown(vers)} of crate `{listed.name}` has no README")
    text = data.decode("utf-8", "replace")
    return await asyncio.to_thread(_render, text, file)


def _render(text: str, file: str) -> str:
    """Render Markdown as crates.io's README pages do; any other text, and a very long one, is shown as it is."""
    stem, dot, suffix = file.rpartition("/")[2].rpartition(".")
    is_markdown = (suffix.lower() if dot and stem else "") in _MARKDOWN
    if not is_markdown or len(text) > _MAX_MARKDOWN_CHARS:
        return f"<pre>{escape(text)}</pre>\n"
    rendered = MarkdownIt("gfm-like", {"html": True, "linkify": False}).render(text)
    # An allow-list: no scripts, styles, forms or frames; links say that nobody vouches for them.
    return nh3.clean(rendered, link_rel="nofollow noopener noreferrer")
