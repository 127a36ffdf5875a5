"""A grid as one self-contained HTML file: component, style and data are in it, nothing is fetched from anywhere."""

import html
from functools import cache
from importlib.resources import files

from errata.views.grid import Grid

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>body {{ margin: 0; }}
{style}</style>
</head>
<body>
<main id="grid"></main>
<script type="application/json" id="data">{data}</script>
<script type="module">
{script}
window.lensGrid = mount(document.getElementById("grid"), JSON.parse(document.getElementById("data").textContent));
</script>
</body>
</html>
"""


@cache
def component(name: str) -> str:
    """A file of the component ("lens-grid.js", "lens-grid.css"), to be served or inlined."""
    return (files("errata.views") / "static" / name).read_text(encoding="utf-8")


def page(grid: Grid) -> str:
    """The whole page."""
    return _PAGE.format(
        title=html.escape(grid.title, quote=True),
        style=component("lens-grid.css"),
        script=component("lens-grid.js"),
        data=grid.to_json(),
    )


def notebook(grid: Grid) -> str:
    """The page in a frame of its own, so that a notebook's styles and other grids stay apart from it."""
    height = 420 + 24 * len(grid.layers)
    inner = html.escape(page(grid), quote=True)
    return (
        f'<iframe srcdoc="{inner}" sandbox="allow-scripts" title="{html.escape(grid.title, quote=True)}" '
        f'style="width:100%;height:{min(height, 1000)}px;border:0"></iframe>'
    )
