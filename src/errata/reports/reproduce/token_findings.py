"""Figures 4, 6 and 18 to 21 of the paper: which tokens δ and x read as, and where target and answer stand in them."""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from errata.lens import BackwardLens
from errata.reports.lens_grid import tables_grid
from errata.reports.reproduce.findings import Folder, Records, mean, segment_lines, segment_values
from errata.views.plotting import grid_figure, line_figure


def prompt_grid(folder: Folder, lens: BackwardLens) -> None:
    """Fig. 4: one prompt's δ of the MLP's output, read token by token."""
    assert lens.target is not None
    table = lens.project("down", top=1, track=[lens.target])
    grid = tables_grid(lens, [table])
    folder.figure("fig04_grid", lambda: grid_figure(grid, grid.readings[0]))
    at = lens.example.prompt_length - 1
    hits = [i for i in range(lens.num_layers) if int(table.bottom_ids[i, at, 0]) == lens.target]
    shown = f"in {len(hits)} of {lens.num_layers} layers, lowest {min(hits)}" if hits else "in no layer"
    folder.line(
        "4", "first prompt: layers where the target is the least probable token of the last δ", shown,
        "from the middle layers up",
    )  # fmt: skip


def ranks_by_segment(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
    """Fig. 6: the target's rank in δ, by segment."""
    ranks = segment_values(measured, lambda one: one["reads"]["down"]["target_rank"], layers)
    means = segment_lines(folder, "fig06_target_rank", ranks, layers, "mean_target_rank", "Rank of the target in δ")
    size = measured[0]["vocabulary"] - 1
    last = [100 * value / size for value in means["last"]]
    folder.line(
        "6", "rank of the target in the last token's δ, in % of |V| (100: least probable)",
        f"mean {mean(last):.1f}, lowest layer mean {min(last):.1f}", "near 100 throughout",
    )  # fmt: skip


def answer_ranks(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
    """Figs. 18–19: target and original answer in the last token's δ."""
    ranks = {
        name: [[one["reads"]["down"][f"{key}_rank"][i][_last(one)] for one in measured] for i in layers]
        for name, key in (("target", "target"), ("original answer", "answer"))
    }
    _rank_figure(folder, "fig18_answer_rank", ranks, layers, "Ranks in the last token's δ")
    size = measured[0]["vocabulary"]
    upper = [i for i in layers if i >= 3 * len(layers) // 4]
    answer = median(x for i in upper for x in ranks["original answer"][i] if x is not None)
    folder.line(
        "18–19", "median rank of the original answer in the last token's δ, top quarter of layers",
        f"{answer:,.0f} of {size:,}", "near the top (0) in late layers",
    )  # fmt: skip


def input_ranks(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
    """Figs. 20–21: the model's answer and the target in what the MLP reads at the last token."""
    ranks = {
        name: [[one["reads"]["up"][f"{key}_rank"][i][_last(one)] for one in measured] for i in layers]
        for name, key in (("target", "target"), ("original answer", "answer"))
    }
    _rank_figure(folder, "fig20_input_rank", ranks, layers, "Ranks in the last token's x of the MLP")
    first, last = (median(x for x in ranks["original answer"][i] if x is not None) for i in (layers[0], layers[-1]))
    folder.line(
        "20–21", "median rank of the original answer in the last token's x, first and last layer",
        f"{first:,.0f} → {last:,.0f}", "rises to the top with the layers",
    )  # fmt: skip


def _rank_figure(
    folder: Folder, name: str, ranks: Mapping[str, Sequence[Sequence[int | None]]], layers: Sequence[int], title: str
) -> None:
    def middle(values: Sequence[int | None]) -> float:
        known = [x for x in values if x is not None]
        return float(median(known)) if known else math.nan

    medians = {which: [middle(ranks[which][i]) for i in layers] for which in ranks}
    rows = [
        {"token": which, "layer": i, "median_rank": medians[which][i], "mean_rank": mean(ranks[which][i])}
        for which in ranks for i in layers
    ]  # fmt: skip
    folder.table(name, rows)
    folder.figure(name, lambda: line_figure(layers, medians, xlabel="layer", ylabel="median rank", title=title))


def _last(one: Mapping[str, Any]) -> int:
    return one["segments"]["last"][0]
