"""Figure 26 and Lemma 5.2: what updates do, from the smallest learning rate to predicted and actual shifts."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from errata.lens.flipping import RULES
from errata.reports.reproduce.findings import Folder, Records, mean
from errata.views.plotting import line_figure


def flip_findings(folder: Folder, flips: Records, layers: Sequence[int]) -> None:
    """Fig. 26: the smallest learning rate that makes the target the answer, and what it costs elsewhere."""
    folder.table("fig26_learning_rates", [dict(row) for row in flips])
    rates, costs, spreads = {}, {}, {}
    for rule in RULES:
        own = [[row for row in flips if row["rule"] == rule and row["layer"] == i] for i in layers]
        logs = [[math.log10(row["rate"]) for row in rows if row["rate"]] for rows in own]
        rates[rule] = [10 ** fmean(values) if values else math.nan for values in logs]
        costs[rule] = [mean(row["perplexity"] for row in rows) for rows in own]
        middles = [fmean(values) for values in logs if values]
        spreads[rule] = max(middles) - min(middles) if middles else math.nan
    folder.figure(
        "fig26_learning_rates",
        lambda: line_figure(
            layers,
            rates,
            xlabel="layer",
            ylabel="smallest rate that flips the answer",
            title="Learning rates",
            log=True,
        ),
    )
    folder.figure(
        "fig26_perplexity",
        lambda: line_figure(
            layers, costs, xlabel="layer", ylabel="perplexity after", title="Perplexity at that rate", log=True
        ),
    )
    flipped = {rule: 100 * fmean(bool(row["rate"]) for row in flips if row["rule"] == rule) for rule in RULES}
    said = ", ".join(f"{rule} {spreads[rule]:.2f} ({flipped[rule]:.0f} % flip)" for rule in RULES)
    folder.line(
        "26", "spread over layers of the smallest flipping rate (log10 of largest/smallest geometric mean)", said,
        "shift varies least",
    )  # fmt: skip
    _cost_line(folder, costs, layers, flips[0]["unedited_perplexity"])


def _cost_line(folder: Folder, costs: Mapping[str, Sequence[float]], layers: Sequence[int], before: float) -> None:
    """Perplexity at the flipping rate, at the depth where the paper gives it."""
    depth = min(range(len(layers)), key=lambda i: abs(layers[i] - 0.73 * layers[-1]))
    cost = ", ".join(f"{rule} {costs[rule][depth]:.2f}" for rule in RULES)
    folder.line(
        "26",
        f"perplexity at that rate, layer {layers[depth]} (unedited {before:.2f})",
        cost,
        "shift 93.66, unedited 93.56 (GPT2-xl, layer 35 of 48, rate 0.24, WikiText)",
    )


def step_findings(folder: Folder, steps: Records) -> None:
    """Lemma 5.2 on real prompts: what a step does to z, a and y, predicted and measured."""
    rows = [
        {**{k: v for k, v in row.items() if k != "delta_z"}, **{f"delta_z_{k}": v for k, v in row["delta_z"].items()}}
        for row in steps
    ]
    folder.table("imprint_and_shift", rows)
    layers = sorted({row["layer"] for row in rows})
    shown = {
        "Δa, first order": "delta_a",
        "Δy, down alone": "delta_y_down_only",
        "Δy, all moved, first order": "delta_y_first_order",
        "Δy, all moved, with ΔaΔW₂": "delta_y_second_order",
        **{f"Δz of {name}": f"delta_z_{name}" for name in steps[0]["delta_z"]},
    }
    lines = {
        label: [mean(row[key] for row in rows if row["layer"] == layer) for layer in layers]
        for label, key in shown.items()
    }
    folder.figure(
        "imprint_and_shift",
        lambda: line_figure(
            layers, lines, xlabel="layer", ylabel="‖predicted − actual‖ / ‖actual‖", log=True,
            title=f"Predicted and actual effects of one step, lr {steps[0]['lr']:g}",
        ),
    )  # fmt: skip
    exact = max(max(row["delta_z"].values()) for row in steps)
    only = max(row["delta_y_down_only"] for row in steps)
    folder.line("Lemma 5.2", "imprint: largest relative error of the predicted Δz; shift: of Δy, down moved alone",
                f"{exact:.1e}; {only:.1e}", "exact")  # fmt: skip
    first, second = (fmean(row[f"delta_y_{kind}"] for row in steps) for kind in ("first_order", "second_order"))
    share, curvature = (fmean(row[f"{kind}_y"] for row in steps) for kind in ("second_order", "curvature"))
    folder.line(
        "Lemma 5.2", f"all matrices moved (lr {steps[0]['lr']:g}): error of Δy to first order; with ΔaΔW₂",
        f"{first:.1e}; {second:.1e} (ΔaΔW₂ is {share:.1e} of Δy, the activation's curvature {curvature:.1e})", "–",
    )  # fmt: skip
    own = fmean(row["own_share_y"] for row in steps)
    folder.line("Lemma 5.2", "share of the last token's Δy that its own outer product gives", f"{100 * own:.0f} %", "–")
