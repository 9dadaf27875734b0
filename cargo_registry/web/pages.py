"""Pages for people. So far the one that `cargo login` sends them to."""

from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from cargo_registry import client_config
from cargo_registry.registry import Registry, Site

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>A token for {name}</title>
<style>
body {{ max-width: 44rem; margin: 3rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; color: #222; }}
pre {{ background: #f4f4f2; padding: .8rem 1rem; overflow-x: auto; border-radius: .3rem; }}
code {{ font-family: ui-monospace, monospace; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #1b1b1b; color: #ddd; }} pre {{ background: #292929; }} }}
</style>
<h1>A token for <code>{name}</code></h1>
<p>Tokens of this registry are issued by its operator, who runs on the server:</p>
<pre>cargo-registry token create <i>YOUR-LOGIN</i></pre>
<p>Put this into <code>~/.cargo/config.toml</code>, or <code>.cargo/config.toml</code> of one project:</p>
<pre>{config}</pre>
<p>Then give cargo the token. It asks for it, so that it does not end up in your shell's history:</p>
<pre>cargo login --registry {name}</pre>
<p>In CI, set it in the environment instead: <code>{variable}</code>.</p>
</html>
"""


async def get_me(site: Site, registry: Registry, request: Request) -> Response:
    """`GET /me`: how to get a token and what to configure. Open to all, also on a private registry."""
    page = _PAGE.format(
        name=escape(registry.name),
        config=escape(client_config.lines(registry)),
        variable=escape(client_config.token_variable(registry)),
    )
    return HTMLResponse(page, headers={"cache-control": "no-cache"})
