"""A benchmark by relation and type of relation, and two relations together against each by itself."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from errata.evaluate.metrics import metric_info
from errata.jobs.bench.bench_options import BenchOptions
from errata.jobs.bench.cells import UNEDITED, CellResult
from errata.jobs.bench.outcomes import Outcome
from errata.reports.bench.cell_metrics import Done, own_metrics, values_of, with_interval
from errata.reports.output_files import OutputFolder
from errata.views.plotting import dot_figure
from errata.views.text_tables import text_table

_RELATIONS = 12  # of a figure


def relation_parts(folder: OutputFolder, done: Done, types: Mapping[str, str], options: BenchOptions) -> Iterator[str]:
    """Success by relation, and by type where relations have types, at the largest number of edits."""
    edited = [(cell, result) for cell, result in done if cell.method != UNEDITED and result.outcomes]
    if not edited:
        return
    label = max(edited, key=lambda one: (not one[0].singly, len(one[0].facts)))[0].label
    group = {cell.method: result for cell, result in done if cell.label == label and result.outcomes}
    own = own_metrics(options)
    by_relation = list(_by(group, lambda outcome: outcome["relation"], "relation", own))
    folder.table("relations", by_relation)
    yield from _relation_figures(folder, group, by_relation, own[1:4], label)
    if types:
        yield _by_type(folder, group, types, own, label)


def mixed_parts(folder: OutputFolder, done: Done, options: BenchOptions) -> Iterator[str]:
    """Two relations together against the mean of their separate runs, on the same facts."""
    if not done or options.mixed is None:
        return
    of = {(cell.method, cell.label): result for cell, result in done}
    own = own_metrics(options)
    rows: list[dict[str, Any]] = []
    for method in dict.fromkeys(cell.method for cell, _ in done):
        for count in options.counts:
            nothing = CellResult()
            names = ("first", "second", "both")
            first, second, both = (of.get((method, f"{count:,}: {name}"), nothing) for name in names)
            if first.outcomes and second.outcomes and both.outcomes:
                apart = CellResult([*first.outcomes, *second.outcomes])
                for name, result in (("separate", apart), ("mixed", both)):
                    rows.append({"method": method, "n": count, "run": name, **values_of(result.outcomes, own)})
    if not rows:
        return
    folder.table("mixed", rows)
    header = ["method", "edits", "run", *(metric_info(key).label for key in own)]
    cells = [[r["method"], f"{r['n']:,}", r["run"], *(with_interval(r, key) for key in own)] for r in rows]
    one, other = options.mixed
    yield (
        f"## Mixed relations\n\nEqual halves of {one!r} and {other!r}: written together (mixed), and each half by "
        f"itself "
        f"(separate; figures over both halves).\n\n{text_table(header, cells, right=range(1, len(header)))}"
    )


def _relation_figures(
    folder: OutputFolder,
    group: Mapping[str, CellResult],
    rows: Sequence[dict[str, Any]],
    drawn: Sequence[str],
    label: str,
) -> Iterator[str]:
    names, figures = _largest(group, rows, drawn)
    if len(names) > 1:
        for key in drawn:
            info = metric_info(key)
            folder.figure(
                f"relations_{key}",
                lambda key=key, info=info: dot_figure(
                    names, {method: [figures[method, name].get(key, math.nan) for name in names] for method in group},
                    xlabel=f"{info.label} (%), {label}", title=f"{info.label} by relation", limits=(-3.0, 103.0),
                ),
            )  # fmt: skip
        yield f"By relation ({label}): tables/relations.csv, figures/relations_{{{','.join(drawn)}}}.pdf."


def _by_type(
    folder: OutputFolder, group: Mapping[str, CellResult], types: Mapping[str, str], own: Sequence[str], label: str
) -> str:
    rows = list(_by(group, lambda outcome: types[outcome["relation"]], "type", own))
    folder.table("types", rows)
    cells = [[row["type"], row["method"], str(row["count"]), *(with_interval(row, key) for key in own)] for row in rows]
    header = ["type", "method", "facts", *(metric_info(key).label for key in own)]
    return f"## By type ({label})\n\n" + text_table(header, cells, right=range(2, len(header)))


def _by(
    group: Mapping[str, CellResult], name_of: Callable[[Outcome], str], column: str, keys: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Each method's figures for the facts of each name, with half of their 95 % intervals."""
    for method, result in group.items():
        parts: dict[str, list[Outcome]] = {}
        for outcome in result.outcomes:
            parts.setdefault(name_of(outcome), []).append(outcome)
        for name in sorted(parts):
            yield {column: name, "method": method, "count": len(parts[name]), **values_of(parts[name], keys)}


def _largest(
    group: Mapping[str, CellResult], rows: Sequence[dict[str, Any]], keys: Sequence[str]
) -> tuple[list[str], dict[tuple[str, str], dict[str, float]]]:
    """The relations with most facts, and each method's figures for them."""
    counts = {row["relation"]: row["count"] for row in rows}
    names = sorted(counts, key=lambda name: (-counts[name], name))[:_RELATIONS]
    figures = {(method, name): {} for method in group for name in names}
    for row in rows:
        if row["relation"] in names:
            figures[row["method"], row["relation"]] = {key: row[key] for key in keys if row[key] is not None}
    return names, figures
