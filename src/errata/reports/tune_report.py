"""From the trials of a tuning to its table, its figure and its summary."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from errata.core.words import counted
from errata.edit.values.robustness import REACH
from errata.evaluate import metric_info
from errata.jobs.terminal_progress import duration
from errata.jobs.tune.search import Chosen, Search
from errata.jobs.tune.trials import LAST, PARTS, Trial, named, objective_name, told
from errata.jobs.tune.tune_job import TuneResult
from errata.jobs.tune.worker import METRICS
from errata.store import atomic_write_text
from errata.store.tables import write_csv, write_rows
from errata.views.plotting import save_figure, scatter_figure
from errata.views.text_tables import text_table

_SHOWN = ("score", *PARTS)
# Target values as good as this, and an edit as bad as that: then it is not the values that fail.
_GOOD_NLL, _POOR = 0.3, 80.0
_LANDED = 0.5


def write_tuning(result: TuneResult) -> str:
    """Write the table, the figure and summary.md beside the preset; returns the summary."""
    out, search, chosen = result.out, result.search, result.chosen
    rows = [_row(trial, trial is chosen.trial) for trial in search.trials]
    rows += [_row(trial, trial is chosen.held) for trial in _compared(chosen)]
    write_rows(out / "tuning.parquet", rows)
    write_csv(out / "tuning.csv", rows)
    last = [trial for trial in search.trials if trial.stage == LAST and trial.found.get("metrics")]
    front = pareto(last)
    drawn = all(trial.found["metrics"][key][0] is not None for trial in last for key in PARTS)
    for path in (out / "pareto.pdf", out / "pareto.png"):
        if drawn:
            save_figure(_figure(last, front, chosen, search.candidates.base, len(search.facts)), path)
        else:  # an earlier run's would read as this one's
            path.unlink(missing_ok=True)
    text = "\n\n".join(part for part in _summary(search, chosen, front, result.about, drawn) if part) + "\n"
    atomic_write_text(out / "summary.md", text)
    return text


def pareto(trials: Sequence[Trial]) -> list[Trial]:
    """Those that no other beats: as good in efficacy, paraphrase and specificity, and better in one of them."""
    points = [tuple(trial.found["metrics"][key][0] or 0.0 for key in PARTS) for trial in trials]

    def beaten(mine: tuple[float, ...]) -> bool:
        return any(other != mine and all(b >= a for a, b in zip(mine, other, strict=True)) for other in points)

    return [trial for trial, point in zip(trials, points, strict=True) if not beaten(point)]


def _row(trial: Trial, is_chosen: bool) -> dict[str, Any]:
    """One line of the table, all with the same columns."""
    metrics = trial.found.get("metrics") or {}
    fields = {name: value for name, value in asdict(trial.config).items() if name != "layers"}
    figures: dict[str, Any] = {}
    for key in (*METRICS, "kl_drift"):
        value, interval, _ = metrics.get(key, (None, None, 0))
        figures |= {key: value, f"{key}_interval": interval}
    return {
        "stage": trial.stage,
        "facts": trial.facts,
        "layers": ",".join(map(str, trial.config.layers)),
        **fields,
        **figures,
        "nll": trial.values.get("nll"),
        "short_nll": trial.values.get("short_nll"),
        "landed": trial.found.get("landed"),
        "relative_norm": trial.found.get("relative_norm"),
        "seconds": trial.found["seconds"],
        "seconds_values": trial.values["seconds"],
        "chosen": is_chosen,
        "out": trial.out,
    }


def _compared(chosen: Chosen) -> list[Trial]:
    return [chosen.held] if chosen.base is chosen.held else [chosen.held, chosen.base]


def _summary(
    search: Search, chosen: Chosen, front: Sequence[Trial], about: Mapping[str, Any], drawn: bool
) -> list[str]:
    trials, figure = search.trials, " Figure: pareto.pdf." if drawn else ""
    return [
        f"# Settings of {about['method']} for {about['model']}",
        _verdict(chosen, about),
        _held_out(chosen, about),
        _traced(about),
        f"## Pareto front on all {counted(len(search.facts), 'fact')}\n\nNo other setting tried on them is as good "
        f"in efficacy "
        f"(ES), paraphrase (PS) and specificity (NS) and better in one.{figure}\n\n" + _table(front, chosen.trial),
        f"## Every setting tried\n\n{_table(trials, chosen.trial, why=True)}",
        _meaning(),
        _warnings(trials),
        _request(search, about),
    ]


def _verdict(chosen: Chosen, about: Mapping[str, Any]) -> str:
    what, source = f"Chosen: **{named(chosen.trial.config)}**", about["source"]
    if chosen.base is chosen.held:
        return f"{what}, what the search began with ({source}): nothing was better."
    gain = chosen.held.objective - chosen.base.objective
    end = "" if gain > 0 else " The choice is **not better** there: they differ by less than the search can see."
    return (
        f"{what}. On {counted(chosen.count, 'fact')} that the search never saw its "
        f"{objective_name(chosen.held.found)} is "
        f"{told(chosen.held)}; that of what the search began with ({source}) {told(chosen.base)}.{end}"
    )


def _traced(about: Mapping[str, Any]) -> str:
    """Not what decides, but where the search looked first."""
    if not about["traced"]:
        return ""
    return (
        f"Causal tracing proposed layers {about['traced']}: in brackets, how many points of the answer's probability a "
        "restored subject loses without its MLPs there, ± half of a 95 % interval over facts."
    )


def _held_out(chosen: Chosen, about: Mapping[str, Any]) -> str:
    rows = [["unedited", "", *_figures(chosen.unedited["metrics"]), "–", "–"]]
    for name, trial in zip(("chosen", about["base"]), _compared(chosen), strict=False):
        rows.append([name, named(trial.config), *_figures(trial.found.get("metrics") or {}), *_costs(trial)])
    header = ["", "settings", *(metric_info(key).label for key in _SHOWN), "KL drift", "‖ΔW‖/‖W‖"]
    return f"## Held-out facts ({chosen.count})\n\n" + text_table(header, rows, right=range(2, len(header)))


def _figures(metrics: Mapping[str, Any]) -> list[str]:
    shown = []
    for key in _SHOWN:
        value, interval, _ = metrics.get(key, (None, None, 0))
        shown.append("–" if value is None else f"{value:.1f}" + ("" if interval is None else f" ± {interval:.1f}"))
    return shown


def _costs(trial: Trial) -> list[str]:
    drift = (trial.found.get("metrics") or {}).get("kl_drift")
    norm = trial.found.get("relative_norm")
    return ["–" if drift is None or drift[0] is None else f"{drift[0]:.4f}", "–" if norm is None else f"{norm:.2f}"]


def _table(trials: Sequence[Trial], chosen: Trial, *, why: bool = False) -> str:
    rows = []
    for trial in trials:
        short, landed = trial.values.get("short_nll"), trial.found.get("landed")
        rows.append([
            "→" if trial is chosen else "", named(trial.config), str(trial.facts),
            *_figures(trial.found.get("metrics") or {}), "–" if short is None else f"{short:.2f}",
            "–" if landed is None else f"{landed:.0%}", *_costs(trial), f"{trial.found['seconds']:.1f}",
            *([trial.out] * why),
        ])  # fmt: skip
    header = ["", "settings", "facts", *(metric_info(key).label for key in _SHOWN), "NLL at 80 %", "landed", "KL drift",
              "‖ΔW‖/‖W‖", "s"]  # fmt: skip
    return text_table([*header, *(["fell out because"] * why)], rows, right=range(2, len(header)))


def _meaning() -> str:
    return (
        "± is half of a 95 % interval over facts; Scores within half a point count as ties, which the smaller KL drift "
        f"decides. NLL at 80 %: the target's loss (nat) where only {REACH:.0%} of the way to the target value is "
        "reached; a value that needs all of it will not survive an edit. Landed: how much of the wanted change the "
        "edit made. Early rungs count a group by the best of three strengths: with few facts nearly any strength "
        "serves, so it is chosen among edits of all facts only. s: seconds of the edit and its evaluation, without "
        "target values."
    )


def _warnings(trials: Sequence[Trial]) -> str:
    """Good target values whose edit does not hold, and why as far as that can be seen."""
    lines = []
    for trial in trials:
        short, metrics = trial.values.get("short_nll"), trial.found.get("metrics")
        key = "accuracy" if not metrics or metrics["es"][0] is None else "es"
        reached = metrics[key][0] if metrics else None
        if short is not None and reached is not None and short <= _GOOD_NLL and reached < _POOR:
            name = "ES" if key == "es" else "accuracy"
            facts = counted(trial.facts, "fact")
            what = f"{named(trial.config)}, {facts}: NLL {short:.2f} nat at 80 %, yet {name} {reached:.0f}"
            lines.append(f"- {what}; {_reason(trial.found.get('landed'))}.")
    return "Target values were good, and the edit does not hold:\n\n" + "\n".join(lines) if lines else ""


def _reason(landed: float | None) -> str:
    if landed is None or landed >= _LANDED:
        return "the change landed, so what is written disturbs itself: too many facts for these layers, or too low ones"
    return f"only {landed:.0%} of the change landed: the prior is too strong for these second moments"


def _request(search: Search, about: Mapping[str, Any]) -> str:
    lines = [
        f"{counted(len(search.trials), 'trial')}, {duration(search.spent)} of work of {duration(search.seconds)}; "
        f"{counted(len(search.facts), 'fact')} of {about['facts']:,}, drawn with seed {about['seed']}. Weights "
        f"{about['digest'][:12]}, tuning {about['tuning'][:12]}.",
        *about["notes"],
    ]
    return "\n\n".join(lines)


def _figure(last: Sequence[Trial], front: Sequence[Trial], chosen: Chosen, base: Any, count: int) -> Any:
    def points(trials: Sequence[Trial], key: str) -> list[tuple[float, float]]:
        return [(trial.found["metrics"]["ns"][0], trial.found["metrics"][key][0]) for trial in trials]

    series = {
        "tried": last,
        "Pareto front": front,
        "begun with": [trial for trial in last if trial.config == base],
        "chosen": [chosen.trial],
    }
    panels = {
        f"{metric_info(key).label} (%)": {name: points(trials, key) for name, trials in series.items()}
        for key in ("ps", "es")
    }
    return scatter_figure(panels, xlabel="NS (%)", title=f"Edits of {counted(count, 'fact')}")
