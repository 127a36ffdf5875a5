"""From the cells of a benchmark to its tables, figures and summary, beside what papers publish."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from errata.evaluate.metrics import Metric, metric_info
from errata.jobs.bench.cells import UNEDITED, Cell, CellResult
from errata.jobs.bench.job import BenchResult
from errata.jobs.bench.options import BenchOptions
from errata.jobs.bench.outcomes import Outcome, totals
from errata.reports.bench.prediction_table import prediction_parts
from errata.reports.bench.published import PUBLISHED
from errata.reports.output_files import OutputFolder
from errata.store import atomic_write_text
from errata.views.plotting import dot_figure, line_figure
from errata.views.tables import text_table

Done = Sequence[tuple[Cell, CellResult]]
_COUNTERFACT = ("score", "es", "ps", "ns", "accuracy", "paraphrase_accuracy", "neighbour_accuracy")
_MORE = ("em", "pm", "nm", "prompts_changed", "paraphrases_changed", "neighbours_changed")
_ZSRE = ("zsre_score", "zsre_efficacy", "zsre_paraphrase", "zsre_specificity")
_DRIFT = ("perplexity", "kl_drift", "tokens_changed", "ge", "rs")
_CURVES = ("score", "es", "ps", "ns", "accuracy", "kl_drift")
_RELATIONS = 12  # of a figure


def write_bench(bench: BenchResult) -> str:
    """Write tables, figures, bench.json and summary.md into the benchmark's folder; returns summary.md's text."""
    out, about, options = bench.out, bench.about, bench.options
    folder = OutputFolder(out)
    scaling = [(cell, result) for cell, result in bench.cells if cell.study == "scaling"]
    parts = [_head(about, options), *_tables(folder, scaling, options), *_failures(bench.cells)]
    parts += [*_batches(folder, scaling), *_curves(folder, scaling, options)]
    parts += _relations(folder, scaling, bench.types, options)
    parts += _mixed(folder, [(cell, result) for cell, result in bench.cells if cell.study == "mixed"], options)
    parts += [*prediction_parts(folder, bench.predictions), _published(options), _settings(about)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    atomic_write_text(out / "bench.json", json.dumps(about, indent=1, ensure_ascii=False, default=list) + "\n")
    atomic_write_text(out / "summary.md", text)
    return text


def figures_of(result: CellResult) -> dict[str, Metric]:
    """Every metric of a cell by its key in METRICS; Scores are metrics without an interval."""
    summary, zsre, changed = totals(result.outcomes)
    count = len(result.outcomes)
    found = {"score": Metric(summary.score, None, count), **summary.metrics(), **changed}
    found["zsre_score"] = Metric(zsre.score, None, count)
    found |= {f"zsre_{name}": value for name, value in zsre.metrics().items()}
    return found | {name: Metric(*values) for name, values in result.extras.items()}


def _keys(options: BenchOptions, results: Sequence[CellResult]) -> list[str]:
    """The columns of the main table: those of the data set, then drift where it was measured."""
    own = _ZSRE if options.dataset == "zsre" else _COUNTERFACT
    drift = [key for key in _DRIFT if any(key in result.extras for result in results)]
    return [*own, "neighbours_changed", *drift]


def _head(about: Mapping[str, Any], options: BenchOptions) -> str:
    order = "at once" if options.in_batches is None else f"in batches of {options.in_batches:,}"
    seeds = "" if not options.first else f" from record {options.first:,} on"
    return (
        f"# {options.dataset} on {about['model']['name']}\n\n"
        f"Records of {about['data']}{seeds}; facts are edited {order}, single edits each on the unedited model. "
        f"± is half of a 95 % interval over facts. Weights {about['model']['digest']}, facts {about['facts']}. "
        "Success (ES, PS, NS) compares two answers; accuracy asks for the model's first choice. Drift (perplexity, KL, "
        "changed tokens) has its interval over documents; that of single edits is their mean, on the first tokens of "
        "the held-out text only. Edit times include what target values took, whichever run made them, but no second "
        "moments. Every prompt: prompts/*.parquet."
    )


def _tables(folder: OutputFolder, done: Done, options: BenchOptions) -> Iterator[str]:
    keys = _keys(options, [result for _, result in done])
    every: list[dict[str, Any]] = []
    for label in dict.fromkeys(cell.label for cell, _ in done):
        group = [(cell, result) for cell, result in done if cell.label == label]
        yield f"## {label}\n\n{_table(group, keys)}"
        every += [_flat(cell, result) for cell, result in group]
    folder.table("cells", every)


def _table(group: Done, keys: Sequence[str]) -> str:
    rows = []
    for cell, result in group:
        found = figures_of(result)
        seconds = result.seconds.get("edit")
        rows.append([
            cell.method, *(_shown(key, found.get(key)) for key in keys),
            "–" if cell.method == UNEDITED else f"{result.relative_norm:.3g}",
            "–" if seconds is None else f"{seconds:,.1f}",
            "*" * bool(result.mark),
        ])  # fmt: skip
    header = ["method", *(_head_of(key) for key in keys), "‖ΔW‖/‖W‖", "edit, s", ""]
    return text_table(header, rows, right=range(1, len(header) - 1))


def _head_of(key: str) -> str:
    info = metric_info(key)
    return f"{info.label}{', ' + info.unit if info.unit and info.unit != '%' else ''}"


def _shown(key: str, found: Metric | None) -> str:
    if found is None or found.value is None:
        return "–"
    info = metric_info(key)
    return info.shown(found.value) + ("" if found.interval is None else f" ± {info.shown(found.interval)}")


def _flat(cell: Cell, result: CellResult) -> dict[str, Any]:
    found = figures_of(result)
    flat: dict[str, Any] = {**cell.columns, "n": len(cell.facts), "mark": result.mark}
    for key in (*_COUNTERFACT, *_MORE, *_ZSRE, *_DRIFT):
        one = found.get(key) or Metric(None, None, 0)
        flat |= {key: one.value, f"{key}_interval": one.interval}
    seconds = {f"seconds_{name}": result.seconds.get(name) for name in ("edit", "evaluation")}
    return {**flat, "relative_norm": result.relative_norm, **seconds}


def _failures(done: Done) -> Iterator[str]:
    marks = [f"- {cell.name}: {result.mark}" for cell, result in done if result.mark]
    if marks:
        yield "Marked with *:\n\n" + "\n".join(marks)


def _curves(folder: OutputFolder, done: Done, options: BenchOptions) -> Iterator[str]:
    """Each metric over the number of edits, a line for each method."""
    counts = sorted(count for count in options.counts)
    if len(counts) < 2:
        return
    of = {(cell.method, 1 if cell.singly else len(cell.facts)): figures_of(result) for cell, result in done}
    drawn = []
    for key in _ZSRE if options.dataset == "zsre" else _CURVES:
        lines, bands = {}, {}
        for method in dict.fromkeys(cell.method for cell, _ in done):
            points = [of.get((method, count), {}).get(key) for count in counts]
            if key in _DRIFT and counts[0] == 1:
                points[0] = None  # measured on less text
            values = [math.nan if p is None or p.value is None else p.value for p in points]
            if not all(map(math.isnan, values)):
                lines[method] = values
                half = [p.interval if p is not None and p.interval is not None else 0.0 for p in points]
                bands[method] = ([v - h for v, h in zip(values, half, strict=True)],
                                 [v + h for v, h in zip(values, half, strict=True)])  # fmt: skip
        if lines:
            info = metric_info(key)
            folder.figure(
                f"scaling_{key}",
                lambda lines=lines, bands=bands, info=info: line_figure(
                    counts, lines, xlabel="edits (1: single edits)", ylabel=f"{info.label} ({info.unit or '1'})",
                    title=f"{info.label}: {info.meaning}", bands=bands, log_x=True,
                ),
            )  # fmt: skip
            drawn.append(f"figures/scaling_{key}.pdf")
    yield "Scaling curves: " + ", ".join(drawn) + "."


def _batches(folder: OutputFolder, done: Done) -> Iterator[str]:
    """What each batch gave while nothing had been written on top of it."""
    rows = []
    for cell, result in done:
        for number, batch in enumerate(result.told.get("batches", ()), 1):
            found = batch["immediately"]
            zsre = {f"zsre_{key}": found["zsre"][key] for key in ("score", "efficacy", "paraphrase", "specificity")}
            figures = {key: found[key] for key in _COUNTERFACT}
            rows.append({**cell.columns, "batch": number, "count": batch["facts"], **figures, **zsre})
    if not rows:
        return
    folder.table("batches", rows)
    lines = []
    for method, facts in dict.fromkeys((row["method"], row["facts"]) for row in rows):
        own = [row for row in rows if (row["method"], row["facts"]) == (method, facts)]
        told = []
        for key in ("es", "ps", "ns", "accuracy"):
            known = [(row[key], row["count"]) for row in own if row[key] is not None]
            if known:
                mean = sum(value * count for value, count in known) / sum(count for _, count in known)
                told.append(f"{metric_info(key).label} {mean:.1f}")
        lines.append(f"- {method}, {facts}: {', '.join(told)}")
    yield "Right after each batch (means over facts; tables/batches.csv):\n\n" + "\n".join(lines)


def _relations(folder: OutputFolder, done: Done, types: Mapping[str, str], options: BenchOptions) -> Iterator[str]:
    """Success by relation, and by type where relations have types, at the largest number of edits."""
    edited = [(cell, result) for cell, result in done if cell.method != UNEDITED and result.outcomes]
    if not edited:
        return
    label = max(edited, key=lambda one: (not one[0].singly, len(one[0].facts)))[0].label
    group = {cell.method: result for cell, result in done if cell.label == label and result.outcomes}
    own = _ZSRE if options.dataset == "zsre" else _COUNTERFACT
    by_relation = list(_by(group, lambda outcome: outcome["relation"], "relation", own))
    folder.table("relations", by_relation)
    drawn = own[1:4]
    shown, figures = _largest(group, by_relation, drawn)
    if len(shown) > 1:
        for key in drawn:
            info = metric_info(key)
            folder.figure(
                f"relations_{key}",
                lambda key=key, info=info: dot_figure(
                    shown, {method: [figures[method, name].get(key, math.nan) for name in shown] for method in group},
                    xlabel=f"{info.label} (%), {label}", title=f"{info.label} by relation", limits=(-3.0, 103.0),
                ),
            )  # fmt: skip
        yield f"By relation ({label}): tables/relations.csv, figures/relations_{{{','.join(drawn)}}}.pdf."
    if types:
        rows = list(_by(group, lambda outcome: types[outcome["relation"]], "type", own))
        folder.table("types", rows)
        cells = [
            [row["type"], row["method"], str(row["count"]), *(_with_interval(row, key) for key in own)] for row in rows
        ]
        header = ["type", "method", "facts", *(metric_info(key).label for key in own)]
        yield f"## By type ({label})\n\n" + text_table(header, cells, right=range(2, len(header)))


def _by(
    group: Mapping[str, CellResult], name_of: Callable[[Outcome], str], column: str, keys: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Each method's figures for the facts of each name, with half of their 95 % intervals."""
    for method, result in group.items():
        parts: dict[str, list[Outcome]] = {}
        for outcome in result.outcomes:
            parts.setdefault(name_of(outcome), []).append(outcome)
        for name in sorted(parts):
            yield {column: name, "method": method, "count": len(parts[name]), **_values(parts[name], keys)}


def _values(outcomes: Sequence[Outcome], keys: Sequence[str]) -> dict[str, float | None]:
    found = figures_of(CellResult(list(outcomes)))
    values = {key: found[key].value for key in keys}
    return {**values, **{f"{key}_interval": found[key].interval for key in keys}}


def _largest(
    group: Mapping[str, CellResult], rows: Sequence[dict[str, Any]], keys: Sequence[str]
) -> tuple[list[str], dict[tuple[str, str], dict[str, float]]]:
    """The relations with most facts, and each method's figures for them."""
    counts = {row["relation"]: row["count"] for row in rows}
    shown = sorted(counts, key=lambda name: (-counts[name], name))[:_RELATIONS]
    figures = {(method, name): {} for method in group for name in shown}
    for row in rows:
        if row["relation"] in shown:
            figures[row["method"], row["relation"]] = {key: row[key] for key in keys if row[key] is not None}
    return shown, figures


def _mixed(folder: OutputFolder, done: Done, options: BenchOptions) -> Iterator[str]:
    """Two relations together against the mean of their separate runs, on the same facts."""
    if not done or options.mixed is None:
        return
    of = {(cell.method, cell.label): result for cell, result in done}
    own = _ZSRE if options.dataset == "zsre" else _COUNTERFACT
    rows: list[dict[str, Any]] = []
    for method in dict.fromkeys(cell.method for cell, _ in done):
        for count in options.counts:
            nothing = CellResult()
            names = ("first", "second", "both")
            first, second, both = (of.get((method, f"{count:,}: {name}"), nothing) for name in names)
            if first.outcomes and second.outcomes and both.outcomes:
                apart = CellResult([*first.outcomes, *second.outcomes])
                for name, result in (("separate", apart), ("mixed", both)):
                    rows.append({"method": method, "n": count, "run": name, **_values(result.outcomes, own)})
    if not rows:
        return
    folder.table("mixed", rows)
    header = ["method", "edits", "run", *(metric_info(key).label for key in own)]
    cells = [[r["method"], f"{r['n']:,}", r["run"], *(_with_interval(r, key) for key in own)] for r in rows]
    one, other = options.mixed
    yield (
        f"## Mixed relations\n\nEqual halves of {one!r} and {other!r}: written together (mixed), and each half by "
        f"itself "
        f"(separate; figures over both halves).\n\n{text_table(header, cells, right=range(1, len(header)))}"
    )


def _published(options: BenchOptions) -> str:
    parts = []
    for table in PUBLISHED[options.dataset]:
        rows = [[method, *(f"{value:g}" for value in values)] for method, values in table.rows.items()]
        parts.append(f"{table.title}:\n\n" + text_table(["method", *table.metrics], rows, right=range(1, 9)))
    head = "## Published figures\n\nOf other models and numbers of edits; not ours.\n\n"
    return head + "\n\n".join(parts) if parts else ""


def _settings(about: Mapping[str, Any]) -> str:
    rows = {}
    for name, used in about["settings"].items():
        method = name.partition(",")[0]
        rows.setdefault((method, used["source"], json.dumps(used["config"], default=list)), []).append(
            name.partition(", ")[2]
        )
    cells = [[method, ", ".join(names), source, config] for (method, source, config), names in rows.items()]
    return "## Settings\n\n" + text_table(["method", "facts", "source", "configuration"], cells)


def _with_interval(row: Mapping[str, Any], key: str) -> str:
    return _shown(key, Metric(row[key], row[f"{key}_interval"], 0))
