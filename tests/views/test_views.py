"""Grids as text, as a page and as figures: nothing hidden, nothing that acts, legible however large."""

import json
import re

import pytest
from rich.cells import cell_len
from views_helpers import TOKENS, small_grid

from errata.core.words import visible
from errata.errors import InputError
from errata.views import plotting
from errata.views.html import component, notebook, page
from errata.views.plotting import grid_figure, line_figure, matrix_figure, save_figure
from errata.views.terminal import terminal_grid


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("colour", [False, True])
def test_the_terminal_grid_fits(width, colour):
    grid = small_grid(layers=6)
    text = terminal_grid(grid, grid.sheets[0], width=width, colour=colour)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert ("\x1b[" in text) is colour
    assert "\x1b" not in plain
    assert max(cell_len(line) for line in plain.splitlines()) <= width
    for token in TOKENS[:2]:
        assert visible(token)[:4] in plain
    # Every layer stands in every block, the top one first.
    first = [line.split()[0] for line in plain.splitlines() if line.split() and line.split()[0].isdigit()]
    assert first[:6] == ["5", "4", "3", "2", "1", "0"]
    assert len(first) % 6 == 0
    if not colour:
        assert {"░", "▒", "▓", "█"} <= set(plain)


def test_fewer_layers_on_request():
    grid = small_grid(layers=48)
    text = terminal_grid(grid, grid.sheets[0], width=120, colour=False, max_layers=5)
    shown = [line.split()[0] for line in text.splitlines() if line.split() and line.split()[0].isdigit()]
    assert shown == ["47", "35", "24", "12", "0"]


def test_the_page_is_one_file_that_fetches_nothing_and_runs_no_token():
    grid = small_grid()
    html = page(grid)
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?(?:https?:)?//", html)
    assert "https://" not in html.replace("https://json-schema", "")
    body = html.split('<script type="application/json" id="data">')[1].split("</script>")[0]
    record = json.loads(body)
    assert record["tokens"] == TOKENS
    assert "<img" not in html
    assert "</script><b>" not in html
    assert html.count("</script>") == 2
    assert "<title>The &lt;Eiffel&gt; &amp; “Tower” → Rome</title>" in html
    assert component("lens-grid.js") in html


def test_the_component_has_no_dependency():
    source = component("lens-grid.js")
    assert not re.search(r"^\s*import\b", source, re.MULTILINE)
    assert "innerHTML" not in source
    assert "eval(" not in source


def test_the_notebook_frame_holds_the_page():
    frame = notebook(small_grid())
    assert frame.startswith("<iframe srcdoc=")
    assert 'sandbox="allow-scripts"' in frame
    assert frame.count("<") == 2  # the page is an attribute, escaped whole


def test_numbers_that_json_does_not_know_are_refused():
    grid = small_grid()
    with pytest.raises(ValueError, match="JSON"):
        small_grid(sheets=[*grid.sheets[:1], _with_nan(grid.sheets[1])]).to_json()


def _with_nan(sheet):
    import dataclasses

    return dataclasses.replace(sheet, norm=[[float("nan")] * len(TOKENS)] * 4)


@pytest.mark.parametrize("kind", ["pdf", "png", "svg"])
def test_figures_are_written_and_repeat_to_the_byte(tmp_path, kind):
    grid = small_grid()
    paths = [save_figure(grid_figure(grid, grid.sheets[0]), tmp_path / f"{i}.{kind}") for i in range(2)]
    first, second = (path.read_bytes() for path in paths)
    assert len(first) > 2000
    if kind != "svg":  # matplotlib salts the ids in SVG
        assert first == second
    magic = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<?xml"}[kind]
    assert first.startswith(magic)


def test_a_figure_shows_dollars_and_tokens_that_no_font_has():
    import matplotlib.pyplot as plt

    grid = small_grid(tokens=["$x^2$", "\U000e0041", " 巴黎", "\ufdd0"])
    figure = grid_figure(grid, grid.sheets[0])
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels[0] == "$x^2$"
    assert not figure.axes[0].get_xticklabels()[0].get_parse_math()
    assert "E0041" in labels[1]
    assert labels[2] == ("·巴黎" if plotting._font_for("巴") else "·‹5DF4›‹9ECE›")
    assert plotting._font_for("a") == "DejaVu Sans"
    assert plotting._font_for("\ufdd0") is None  # no font has it, whatever boxes some draw
    assert plotting._drawable("␇") in ("␇", "‹7›")
    texts = [text for text in figure.axes[0].texts if "$" in text.get_text()]
    assert texts
    assert not any(text.get_parse_math() for text in texts)
    plt.close(figure)


def test_forty_eight_layers_are_legible(tmp_path):
    """Cells must be taller than their text."""
    grid = small_grid(layers=48)
    figure = grid_figure(grid, grid.sheets[0])
    figure.canvas.draw()
    axes = figure.axes[0]
    height = axes.get_window_extent().height / 48
    assert min(height / text.get_window_extent().height for text in axes.texts) > 0.9
    save_figure(figure, tmp_path / "deep.png")


def test_a_grid_of_zero_vectors_is_drawn(tmp_path):
    grid = small_grid(layers=1, tokens=["a", "b"])
    save_figure(grid_figure(grid, grid.sheets[0]), tmp_path / "one.pdf")
    assert "–" in terminal_grid(grid, grid.sheets[0], width=80, colour=False)


def test_lines_and_matrices(tmp_path):
    lines = {"down $x$": [1.0, float("nan"), 3.0], "up": [2.0, 2.0, 2.0]}
    bands = {"up": ([1.0, 1.0, 1.0], [3.0, 3.0, 3.0])}
    save_figure(line_figure([0, 1, 2], lines, xlabel="layer", ylabel="y", bands=bands, log=True), tmp_path / "a.png")
    save_figure(
        matrix_figure([[1.0, 0.2], [0.2, 1.0]], xlabel="x", ylabel="y", label="c", limits=(-1.0, 1.0)),
        tmp_path / "b.pdf",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.pdf"]


def test_a_figure_too_wide_to_read_is_refused():
    grid = small_grid(tokens=["a"] * 65)
    with pytest.raises(InputError, match="HTML page"):
        grid_figure(grid, grid.sheets[0])


def test_norms_below_what_a_float_holds_are_shown():
    import dataclasses

    grid = small_grid()
    sheet = dataclasses.replace(grid.sheets[0], norm=[[0.0] * len(TOKENS)] * 4)
    assert "·Eiffel" in terminal_grid(grid, sheet, width=100, colour=False)


def test_other_formats_are_refused(tmp_path):
    grid = small_grid()
    with pytest.raises(InputError, match="pdf, png, svg"):
        save_figure(grid_figure(grid, grid.sheets[0]), tmp_path / "x.gif")
    assert list(tmp_path.iterdir()) == []
