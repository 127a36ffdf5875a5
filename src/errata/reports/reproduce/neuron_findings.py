"""Tables 2 to 5 and figures 7 to 9 of the paper: gradient neurons and the vectors that span them."""

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from errata.core.words import visible
from errata.lens import BackwardLens
from errata.reports.reproduce.findings import Folder, Records
from errata.views.plotting import line_figure


def neuron_tokens(folder: Folder, lens: BackwardLens, layers: Sequence[int]) -> None:
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


def neuron_norms(folder: Folder, measured: Records) -> None:
    """Tabs. 2–5, Figs. 7–9: gradient neurons against the vectors that span them, by norm."""
    rows = [row for one in measured for row in one["neurons"]]
    if not rows:
        return
    grouped = _by_tenth(rows)
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


def _by_tenth(rows: Records) -> list[dict[str, Any]]:
    """Means over the neurons of each tenth by norm."""
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
    return grouped
