"""Figures 3 to 23 of the paper: rank, norms, readings, neurons and cosines of the gradients of many prompts."""

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from errata.core.words import visible
from errata.lens import BackwardLens
from errata.reports.lens_grid import tables_grid
from errata.reports.reproduce.findings import Folder, Records, by_layer, mean, standard_error
from errata.views.plotting import grid_figure, line_figure, matrix_figure

SHOWN_SEGMENTS = ("first subject", "middle subject", "last subject", "first after", "further", "last")


def gradient_findings(folder: Folder, lens: BackwardLens, measured: Records, neuron_layers: Sequence[int]) -> None:
    """Everything that is seen of gradients without taking a step; `lens` is the first prompt's, for the grid."""
    layers = list(range(lens.num_layers))
    # Where the model gives the target already, target and original answer are one token.
    open_ones = [one for one in measured if not one["answers_target"]] or measured
    _ranks(folder, measured, layers)
    _grid(folder, lens)
    _norms_by_segment(folder, measured, layers)
    _ranks_by_segment(folder, measured, layers)
    _neuron_tokens(folder, lens, neuron_layers)
    _neurons(folder, measured)
    _all_norms(folder, measured, layers)
    _answer_ranks(folder, open_ones, layers)
    _input_ranks(folder, open_ones, layers)
    _cosines(folder, measured, layers)


def _ranks(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
    """Fig. 3: the share of prompts whose gradient has as many ranks as the prompt has tokens."""
    names = list(measured[0]["rank"])
    shares = {
        name: [100 * fmean(one["rank"][name][i] == one["tokens"] for one in measured) for i in layers] for name in names
    }
    rows = [
        {"matrix": name, "layer": i, "share_full_rank_percent": shares[name][i],
         "mean_rank": fmean(one["rank"][name][i] for one in measured),
         "mean_stable_rank": fmean(one["stable_rank"][name][i] for one in measured)}
        for name in names for i in layers
    ]  # fmt: skip
    folder.table("fig03_rank", rows)
    folder.figure(
        "fig03_rank",
        lambda: line_figure(
            layers, shares, xlabel="layer", ylabel="prompts with rank = tokens, %", title="Gradient rank"
        ),
    )
    lowest = min(min(values[:-1]) for values in shares.values())
    last = [one["rank"][name][-1] for one in measured for name in names]
    folder.line(
        "3", "prompts whose gradient rank is the number of tokens; rank in the last layer",
        f"≥ {lowest:.1f} % below the last layer; {min(last)}–{max(last)} there",
        "> 98.5 % but in the last layer, 1 there",
    )  # fmt: skip


def _grid(folder: Folder, lens: BackwardLens) -> None:
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


def _segment_values(measured: Records, get: Callable[[Mapping[str, Any]], Any], layers: Sequence[int]) -> dict:
    """Values by segment and layer: each prompt gives the mean over its positions in the segment."""
    found: dict[str, list[list[int | float | None]]] = {name: [] for name in SHOWN_SEGMENTS}
    for one in measured:
        values = get(one)
        for name in SHOWN_SEGMENTS:
            places = one["segments"].get(name, [])
            if places:
                row = [[values[i][at] for at in places if values[i][at] is not None] for i in layers]
                found[name].append([fmean(cell) if cell else None for cell in row])
    return found


def _segment_lines(
    folder: Folder, name: str, found: Mapping[str, Any], layers: Sequence[int], value: str, title: str
) -> dict[str, list[float]]:
    means = {segment: by_layer(rows) for segment, rows in found.items() if rows}
    errors = {
        segment: [standard_error(column) for column in zip(*rows, strict=True)]
        for segment, rows in found.items() if rows
    }  # fmt: skip
    rows = [
        {"segment": segment, "layer": i, value: means[segment][i], "standard_error": errors[segment][i],
         "prompts": len(found[segment])}
        for segment in means for i in layers
    ]  # fmt: skip
    folder.table(name, rows)
    bands = {
        segment: (
            [m - 1.96 * e for m, e in zip(means[segment], errors[segment], strict=True)],
            [m + 1.96 * e for m, e in zip(means[segment], errors[segment], strict=True)],
        )
        for segment in means
    }
    folder.figure(
        name,
        lambda: line_figure(layers, means, xlabel="layer", ylabel=value.replace("_", " "), title=title, bands=bands),
    )
    return means


def _norms_by_segment(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
    """Fig. 5: where in the prompt the gradient of the MLP's output is large."""
    found = _segment_values(measured, lambda one: one["vjp_norm"]["down"], layers)
    means = _segment_lines(folder, "fig05_norm_by_segment", found, layers, "mean_vjp_norm", "‖δ‖ of the MLP's output")
    peaks = {
        name: max(layers, key=lambda i, v=values: -1.0 if math.isnan(v[i]) else v[i]) for name, values in means.items()
    }
    quarter = {name: 100 * peaks[name] / max(1, layers[-1]) for name in peaks}
    said = [
        f"{name}: layer {peaks[name]} ({quarter[name]:.0f} % up)" for name in ("last subject", "last") if name in peaks
    ]
    rest = [100 * max(means[name]) / max(means["last"]) for name in ("first after", "further") if name in means]
    if rest:
        said.append(f"tokens in between: at most {max(rest):.0f} % of the last token's peak")
    folder.line(
        "5", "where ‖δ‖ of the MLP's output is largest", "; ".join(said),
        "subject tokens early; last token around the second quarter; else about 0",
    )  # fmt: skip


def _ranks_by_segment(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
    """Fig. 6: the target's rank in δ, by segment."""
    found = _segment_values(measured, lambda one: one["reads"]["down"]["target_rank"], layers)
    means = _segment_lines(folder, "fig06_target_rank", found, layers, "mean_target_rank", "Rank of the target in δ")
    size = measured[0]["vocabulary"] - 1
    last = [100 * value / size for value in means["last"]]
    folder.line(
        "6", "rank of the target in the last token's δ, in % of |V| (100: least probable)",
        f"mean {mean(last):.1f}, lowest layer mean {min(last):.1f}", "near 100 throughout",
    )  # fmt: skip


def _neuron_tokens(folder: Folder, lens: BackwardLens, layers: Sequence[int]) -> None:
    """Tabs. 2–5: the first prompt's largest gradient neurons beside the spanning vector nearest to each, as tokens."""
    rows = []
    for layer in layers:
        for matrix in ("down", "up"):
            table = lens.neurons(layer, matrix, count=5)
            spanning = lens.project(matrix, top=5)
            tokens = lens.neuron_tokens(layer, matrix, table.neuron.tolist(), top=5)
            for row, said in zip(table.rows(), tokens, strict=True):
                sides = (spanning.top, spanning.bottom)[:: 1 if row["cosine"] >= 0 else -1]
                rows.append(
                    {"layer": layer, "matrix": matrix, **row, "nearest_token": lens.tokens[row["nearest"]],
                     "neuron_top": " | ".join(map(visible, said.top)),
                     "neuron_bottom": " | ".join(map(visible, said.bottom)),
                     "spanning_top": " | ".join(map(visible, sides[0](layer, row["nearest"]))),
                     "spanning_bottom": " | ".join(map(visible, sides[1](layer, row["nearest"])))}
                )  # fmt: skip
    if rows:
        folder.table("tab02_neuron_tokens", rows)


def _neurons(folder: Folder, measured: Records) -> None:
    """Tabs. 2–5, Figs. 7–9: gradient neurons against the vectors that span them, by norm."""
    rows = [row for one in measured for row in one["neurons"]]
    if not rows:
        return
    grouped = []
    for matrix in ("down", "up"):
        for tenth in range(10):
            own = [row for row in rows if row["matrix"] == matrix and row["tenth"] == tenth]
            if own:
                grouped.append(
                    {"matrix": matrix, "tenth_by_norm": tenth, "neurons": len(own),
                     "mean_abs_cosine": fmean(abs(row["cosine"]) for row in own),
                     "mean_top_overlap": fmean(row["top_overlap"] for row in own),
                     "mean_bottom_overlap": fmean(row["bottom_overlap"] for row in own),
                     "mean_explained_by_one": fmean(row["explained_by_one"] for row in own),
                     "mean_explained_by_two": fmean(row["explained_by_two"] for row in own)}
                )  # fmt: skip
    folder.table("fig07_neurons", grouped)
    lines = {
        f"{matrix}: {label}": [row[key] for row in grouped if row["matrix"] == matrix]
        for matrix in ("down", "up")
        for label, key in (("|cosine|", "mean_abs_cosine"), ("overlap of top 100", "mean_top_overlap"))
    }
    folder.figure(
        "fig07_neurons",
        lambda: line_figure(
            range(1, 11), lines, xlabel="tenth of the neurons by norm (1: largest)",
            ylabel="with nearest spanning vector", title="Gradient neurons and their spanning vectors",
        ),
    )  # fmt: skip
    first = [row for row in grouped if row["tenth_by_norm"] == 0]
    said = "; ".join(
        f"{row['matrix']}: |cosine| {row['mean_abs_cosine']:.2f}, overlap {100 * row['mean_top_overlap']:.0f} %, "
        f"squared norm explained by one {100 * row['mean_explained_by_one']:.0f} %, by two "
        f"{100 * row['mean_explained_by_two']:.0f} %"
        for row in first
    )
    folder.line(
        "7–9",
        "neurons of the largest norm (top tenth), nearest spanning vector, overlap of top 100",
        said,
        "about ± one or two of them",
    )


def _all_norms(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
    """Figs. 16–17: norms of inputs and VJPs of every matrix, and whether they go together."""
    names = list(measured[0]["vjp_norm"])
    rows, inputs, vjps = [], {}, {}
    for name in names:
        inputs[name] = [mean(x for one in measured for x in one["input_norm"][name][i]) for i in layers]
        vjps[name] = [mean(x for one in measured for x in one["vjp_norm"][name][i]) for i in layers]
        rows += [
            {"matrix": name, "layer": i, "mean_input_norm": inputs[name][i], "mean_vjp_norm": vjps[name][i]}
            for i in layers
        ]
    folder.table("fig16_norms", rows)
    label = {"xlabel": "layer", "log": True}
    folder.figure("fig16_input_norms", lambda: line_figure(layers, inputs, ylabel="mean ‖x‖", title="Inputs", **label))
    folder.figure("fig17_vjp_norms", lambda: line_figure(layers, vjps, ylabel="mean ‖δ‖", title="VJPs", **label))
    correlations = [_correlation(one, name, i) for one in measured for name in names for i in layers]
    folder.line(
        "16–17", "correlation of ‖x‖ and ‖δ‖ over a prompt's tokens", f"mean {mean(correlations):+.2f}", "uncorrelated"
    )


def _correlation(one: Mapping[str, Any], name: str, layer: int) -> float | None:
    a, b = one["input_norm"][name][layer], one["vjp_norm"][name][layer]
    if len(a) < 3:
        return None
    x, y = fmean(a), fmean(b)
    spread = math.sqrt(sum((p - x) ** 2 for p in a) * sum((q - y) ** 2 for q in b))
    return sum((p - x) * (q - y) for p, q in zip(a, b, strict=True)) / spread if spread else None


def _last(one: Mapping[str, Any]) -> int:
    return one["segments"]["last"][0]


def _answer_ranks(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
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


def _input_ranks(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
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


def _cosines(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
    """Figs. 22–23: how far δ keeps its direction from layer to layer."""
    for which, name in (("mean", "fig22_cosine"), ("last", "fig23_cosine_last")):
        matrix = [[mean(one[f"cosine_{which}"][i][j] for one in measured) for j in layers] for i in layers]
        folder.table(name, [{"layer": i, "other": j, "cosine": matrix[i][j]} for i in layers for j in layers])
        title = "Cosine of δ between layers, " + ("mean over tokens" if which == "mean" else "last token")
        folder.figure(
            name,
            lambda m=matrix, t=title: matrix_figure(
                m, xlabel="layer", ylabel="layer", label="cosine", title=t, limits=(-1.0, 1.0)
            ),
        )
        apart = min(4 if which == "mean" else 10, len(layers) - 1)
        near = mean(matrix[i][i + apart] for i in layers if i + apart < len(layers))
        folder.line(
            "22" if which == "mean" else "23",
            f"cosine of δ {apart} layers apart, {title.split(', ')[1]}", f"{near:.2f}",
            "about 0.4 across 3–5 blocks" if which == "mean" else "> 0.7 across 10 blocks",
        )  # fmt: skip
