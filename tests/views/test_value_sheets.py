"""Sheets of numbers: on the terminal, as figures, as JSON, and on the page beside the lens."""

import json
import re
from dataclasses import replace

import pytest
from views_helpers import TOKENS, small_grid

from errata.views.grid import Grid, ValueSheet
from errata.views.html import page
from errata.views.plotting import save_figure, value_figure
from errata.views.terminal import terminal_grid

LAYERS = 4


def sheet(name="hidden state", scale=1.0, **changes):
    values = [[scale * (i * j - 2) for j in range(len(TOKENS))] for i in range(LAYERS)]
    values[0][0] = None
    plain = {
        "name": name, "label": "effect, points", "values": values, "limit": 10.0 * abs(scale),
        "details": {"restored, %": [[50.0 + i + j for j in range(len(TOKENS))] for i in range(LAYERS)]},
        "facts": {"clean, %": 61.5},
    }  # fmt: skip
    return ValueSheet(**{**plain, **changes})


def grid(**changes) -> Grid:
    whole = small_grid(layers=LAYERS)
    return replace(whole, sheets=[sheet(), sheet("MLPs", 0.5), *whole.sheets], **changes)


def test_on_a_terminal():
    text = terminal_grid(grid(), sheet(), width=80, colour=False)
    assert "–" in text  # the cell that was not run
    assert "10.00" in text
    assert "-2.00" in text
    assert "·Eiffel" in text
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\x1b[" in terminal_grid(grid(), sheet(), width=80, colour=True)
    assert " 3 " in terminal_grid(grid(), sheet(), width=80, colour=False, max_layers=2).splitlines()[0]


def test_columns_with_names_are_shown_as_they_are():
    names = replace(grid(), tokens=["last subject"] + ["x"] * (len(TOKENS) - 1), labels=True)
    assert "last su" in terminal_grid(names, sheet(), width=100, colour=False)
    assert "last·su" not in terminal_grid(names, sheet(), width=100, colour=False)


@pytest.mark.parametrize("scale", [1.0, -1.0, 0.0])
def test_figures(tmp_path, scale):
    for kind in ("png", "pdf"):
        path = save_figure(value_figure(grid(), [sheet(scale=scale), sheet("MLPs")]), tmp_path / f"a.{kind}")
        assert path.stat().st_size > 2000


def test_json_keeps_the_cells_that_were_not_run():
    record = json.loads(grid().to_json())
    assert record["sheets"][0]["values"][0][0] is None
    assert record["sheets"][0]["facts"] == {"clean, %": 61.5}


def opened(browser, tmp_path, content: Grid):
    target = tmp_path / "grid.html"
    target.write_text(page(content), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1500, "height": 900})
    tab.problems = []
    tab.on("console", lambda message: tab.problems.append(message.text))
    tab.on("pageerror", lambda error: tab.problems.append(str(error)))
    tab.goto(target.as_uri())
    tab.wait_for_selector("td.selected")
    return tab


def test_the_page_shows_numbers_beside_the_lens_and_switches_sheets(browser, tmp_path):
    tab = opened(browser, tmp_path, grid())
    cells = [cell.inner_text() for cell in tab.query_selector_all(".effect tbody td")]
    assert len(cells) == LAYERS * len(TOKENS)
    assert "–" in cells
    assert "10.00" in cells
    assert len(tab.query_selector_all(".backward tbody td")) == len(cells)
    tab.query_selector_all(".effect tbody td")[3].click()  # top layer, token 3
    detail = tab.query_selector(".card.effect").inner_text()
    for text in ("hidden state", "effect, points", "restored, %", "56", "clean, %", "61.5"):
        assert text in detail
    tab.select_option("select[name=effect-name]", "MLPs")
    assert tab.query_selector(".card.effect h3").inner_text() == "MLPs"
    hues = tab.eval_on_selector_all(".effect tbody td", "cells => cells.map(c => c.style.background)")
    assert any(re.search(r"\b60\)", hue) for hue in hues)  # below zero
    assert any(re.search(r"\b250\)", hue) for hue in hues)
    tab.select_option("select[name=backward-mode]", "raw")
    tab.focus(".effect td.selected")
    tab.keyboard.press("ArrowDown")
    assert tab.query_selector(".detail h2").inner_text().startswith("Layer 2, token 3")
    assert tab.problems == []
    tab.close()


def test_a_page_of_values_alone_with_names_for_columns(browser, tmp_path):
    alone = replace(
        grid(), sheets=[sheet()], labels=True, tokens=["last subject", *TOKENS[1:]], texts=[], segments={}, vocabulary=0
    )
    tab = opened(browser, tmp_path, alone)
    assert "last subject" in tab.query_selector(".effect tfoot").inner_text()
    assert tab.query_selector(".backward") is None
    assert tab.query_selector("select[name=effect-name]").is_disabled()
    assert tab.problems == []
    tab.close()


@pytest.mark.parametrize(("scale", "shown"), [(100.0, "1000.00"), (1.0, "10.00"), (0.01, "0.100"), (1e-9, "0.0000")])
def test_small_numbers_have_more_digits(scale, shown):
    text = terminal_grid(grid(), sheet(scale=scale), width=120, colour=False)
    assert shown in text
    assert "-0.0000" not in text
