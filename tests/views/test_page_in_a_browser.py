"""The page in headless Chromium: it draws, it switches, keys move through it, and no token becomes markup."""

import pytest
from views_helpers import TOKENS, small_grid

from errata.views.html import notebook, page


@pytest.fixture
def tab(browser, tmp_path):
    """The page of the small grid, whose errors, dialogs and requests are noted."""
    target = tmp_path / "grid.html"
    target.write_text(page(small_grid()), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1300, "height": 900})
    tab.noted = []
    tab.on("console", lambda message: tab.noted.append(message.text))
    tab.on("pageerror", lambda error: tab.noted.append(str(error)))
    tab.on("dialog", lambda dialog: (tab.noted.append("dialog"), dialog.dismiss()))
    tab.on("request", lambda request: None if request.url.startswith("file:") else tab.noted.append(request.url))
    tab.goto(target.as_uri())
    tab.wait_for_selector("td.selected")
    yield tab
    assert tab.noted == []
    tab.close()


def shown(tab, side="backward"):
    return [cell.inner_text() for cell in tab.query_selector_all(f".{side} tbody td")]


def test_it_draws_every_cell_side_by_side(tab):
    assert len(shown(tab)) == len(shown(tab, "forward")) == 4 * len(TOKENS)
    boxes = [tab.query_selector(f".side.{side}").bounding_box() for side in ("backward", "forward")]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert "zero vector" in tab.query_selector(".backward tbody td").get_attribute("aria-label")
    assert tab.query_selector("b") is None  # the token that is markup is text
    assert tab.query_selector("img") is None
    assert "</script><b>x" in tab.query_selector(".backward tfoot").inner_text().replace("·", "")


def test_a_click_shows_what_the_cell_holds(tab):
    tab.query_selector_all(".backward tbody td")[-1].click()
    detail = tab.query_selector(".detail").inner_text()
    assert "Layer 0, token 6" in detail
    assert "last" in detail
    for text in ("‖v‖", "share of ‖G‖²", "rank of ·Rome", "6 of 500", "most probable", "least probable", "paper mode"):
        assert text in detail
    assert len(tab.query_selector_all(".card")) == 2
    assert len(tab.query_selector_all("td.selected")) == 2  # the same cell in both grids


def test_matrix_mode_and_sign_switch(tab):
    before = shown(tab)
    tab.select_option("select[name=backward-sign]", "-vjp")
    turned = shown(tab)
    assert turned != before
    tab.select_option("select[name=backward-sign]", "vjp")
    assert shown(tab) == before
    tab.select_option("select[name=backward-mode]", "raw")
    assert shown(tab) != before
    tab.select_option("select[name=backward-name]", "up")
    assert tab.eval_on_selector("select[name=backward-mode]", "e => e.value") == "paper"  # up has no raw sheet here
    assert tab.eval_on_selector("select[name=backward-extreme]", "e => e.value") == "top"
    tab.select_option("select[name=backward-name]", "down")
    tab.select_option("select[name=backward-mode]", "raw")
    assert "residual, raw mode" in tab.query_selector(".detail").inner_text()  # the two sides are read in one mode
    forward = shown(tab, "forward")
    tab.select_option("select[name=forward-name]", "mlp")
    assert shown(tab, "forward") != forward
    assert "mlp, " in tab.query_selector(".detail").inner_text()


@pytest.mark.parametrize("colour", ["norm", "share", "rank:0"])
def test_colours(tab, colour):
    tab.select_option("select[name=backward-colour]", colour)
    found = tab.eval_on_selector_all(".backward tbody td", "cells => cells.map(c => c.style.background)")
    assert len(set(found)) >= (2 if colour == "share" else 5)


def test_the_keyboard_is_enough(tab):
    tab.focus(".backward td.selected")
    for key, where in [
        ("ArrowDown", "Layer 2, token 6"), ("ArrowLeft", "Layer 2, token 5"), ("Home", "Layer 2, token 0"),
        ("ArrowLeft", "Layer 2, token 0"), ("PageDown", "Layer 0, token 0"), ("ArrowUp", "Layer 1, token 0"),
        ("PageUp", "Layer 3, token 0"), ("End", "Layer 3, token 6"), ("ArrowRight", "Layer 3, token 6"),
    ]:  # fmt: skip
        tab.keyboard.press(key)
        assert tab.query_selector(".detail h2").inner_text().startswith(where), key
        assert tab.evaluate("document.activeElement.getAttribute('role')") == "gridcell"
    tab.keyboard.press("Enter")
    assert tab.evaluate("!!document.activeElement.closest('.forward')")
    assert tab.eval_on_selector_all(".side td[tabindex='0']", "cells => cells.length") == 2


def test_other_code_is_told_which_cell_was_chosen(tab):
    tab.evaluate("window.seen = []; document.getElementById('grid').addEventListener('cell', e => seen.push(e.detail))")
    tab.query_selector_all(".forward tbody td")[0].click()
    tab.evaluate("window.lensGrid.select(1, 2)")
    seen = tab.evaluate("seen.map(d => [d.side, d.layer, d.position, d.sheet.name])")
    assert seen == [["forward", 3, 0, "residual"], ["forward", 1, 2, "residual"]]


def test_a_narrow_window_scrolls_inside_and_stacks(tab):
    tab.set_viewport_size({"width": 420, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 40")
    boxes = [tab.query_selector(f".side.{side}").bounding_box() for side in ("backward", "forward")]
    assert boxes[1]["y"] > boxes[0]["y"]


def test_in_a_notebooks_frame(browser, tmp_path):
    target = tmp_path / "notebook.html"
    target.write_text(f"<!doctype html><style>td {{ color: red }}</style>{notebook(small_grid())}", encoding="utf-8")
    tab = browser.new_page()
    errors = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.goto(target.as_uri())
    frame = tab.frames[-1]
    frame.wait_for_selector("td.selected")
    assert len(frame.query_selector_all(".backward tbody td")) == 4 * len(TOKENS)
    assert errors == []
    tab.close()
