"""Figures 3 to 23 of the paper, in its order; here rank, norms and cosines of the gradients of many prompts."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from errata.lens import BackwardLens
from errata.reports.reproduce.findings import Folder, Records, mean, segment_lines, segment_values
from errata.reports.reproduce.neuron_findings import neuron_norms, neuron_tokens
from errata.reports.reproduce.token_findings import answer_ranks, input_ranks, prompt_grid, ranks_by_segment
from errata.views.plotting import line_figure, matrix_figure


def gradient_findings(folder: Folder, lens: BackwardLens, measured: Records, neuron_layers: Sequence[int]) -> None:
    """Everything that is seen of gradients without taking a step; `lens` is the first prompt's, for the grid."""
    layers = list(range(lens.num_layers))
    # Where the model gives the target already, target and original answer are one token.
    open_ones = [one for one in measured if not one["answers_target"]] or measured
    _ranks(folder, measured, layers)
    prompt_grid(folder, lens)
    _norms_by_segment(folder, measured, layers)
    ranks_by_segment(folder, measured, layers)
    neuron_tokens(folder, lens, neuron_layers)
    neuron_norms(folder, measured)
    _all_norms(folder, measured, layers)
    answer_ranks(folder, open_ones, layers)
    input_ranks(folder, open_ones, layers)
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


def _norms_by_segment(folder: Folder, measured: Records, layers: Sequence[int]) -> None:
    """Fig. 5: where in the prompt the gradient of the MLP's output is large."""
    norms = segment_values(measured, lambda one: one["vjp_norm"]["down"], layers)
    means = segment_lines(folder, "fig05_norm_by_segment", norms, layers, "mean_vjp_norm", "‖δ‖ of the MLP's output")
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
