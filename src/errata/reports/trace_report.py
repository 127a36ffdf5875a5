"""A run of causal tracing as a folder: tables, figures, a page, and a summary beside the published numbers."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from errata.core.words import counted, points, shortened, visible
from errata.facts import Fact
from errata.reports.output_files import OutputFolder
from errata.reports.trace_grid import PERCENT, sheet_name
from errata.store import atomic_write_text
from errata.store.tables import write_parquet
from errata.tracing import Trace
from errata.tracing.average import LAST_SUBJECT, AverageTrace, Mean
from errata.tracing.config import SEVERED, describe
from errata.tracing.layers import propose_layers
from errata.views.grid import ValueSheet
from errata.views.html import page
from errata.views.plotting import line_figure, value_figure
from errata.views.text_tables import text_table

CELLS = {
    "fact": "string", "kind": "string", "layer": "int32", "position": "int32", "token": "string", "segment": "string",
    "restored": "double", "effect": "double", "attribution": "double", "clean": "double", "corrupted": "double",
}  # fmt: skip
# GPT-2 XL (48 layers), Meng et al. 2022: kind -> segment -> (largest mean effect in percentage points, layer).
PUBLISHED = {
    ("hidden", LAST_SUBJECT): "8.7 at layer 15",
    ("mlp", LAST_SUBJECT): "6.6",
    ("attention", LAST_SUBJECT): "1.6",
}
PUBLISHED_TOTAL = "18.6"
_SHOWN_UNKNOWN = 20
_PROPOSED = 5


def write_traces(out: Path, average: AverageTrace, traces: Iterator[tuple[Fact, Trace]]) -> str:
    """Write everything into `out` and return the summary."""
    folder = OutputFolder(out)
    cells = ([{"fact": fact.id, **row} for row in trace.rows()] for fact, trace in traces)
    write_parquet(out / "tables" / "cells.parquet", cells, CELLS)
    folder.table("segments", list(average.rows()))
    folder.table("facts", _fact_rows(average))
    if average.unknown:
        folder.table("unknown", [one.__dict__ for one in average.unknown])
    _figures(folder, average)
    folder.forget_others("effects", "last_subject.", "attributed_", "unknown.")
    atomic_write_text(out / "average.html", page(average.grid()))
    summary = trace_summary(average)
    info = {**average.info, "notes": list(average.notes)}
    atomic_write_text(out / "run.json", json.dumps(info, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(out / "summary.md", summary)
    return summary


def _fact_rows(average: AverageTrace) -> list[dict[str, Any]]:
    return [
        {
            "fact": one.id, "prompt": one.prompt, "answer": one.answer, "clean": one.clean,
            "corrupted": one.corrupted, "total_effect": one.clean - one.corrupted, "notes": " ".join(one.notes),
        }
        for one in average.facts
    ]  # fmt: skip


def _figures(folder: OutputFolder, average: AverageTrace) -> None:
    grid = average.grid()
    sheets = [sheet for sheet in grid.sheets if isinstance(sheet, ValueSheet)]
    count = len(average.facts)
    whole = [sheet for sheet in sheets if "severed" not in sheet.name and "attributed" not in sheet.name]
    attributed = [sheet for sheet in sheets if "attributed" in sheet.name]
    if whole:
        title = f"Average indirect effect over {counted(count, 'fact')}, {average.model}"
        folder.figure("effects", lambda: value_figure(grid, whole, title=title))
        for kind in average.config.kinds:
            name = sheet_name(kind, average.config.window)
            lines, bands = _lines(average, {segment: (kind, segment) for segment in average.segments})
            folder.figure(
                f"effects_{kind}",
                lambda lines=lines, bands=bands, name=name: _drawn(average, lines, bands, f"Restoring: {name}"),
            )
        named = {sheet_name(kind, average.config.window): (kind, LAST_SUBJECT) for kind in average.restored}
        lines, bands = _lines(average, named)
        folder.figure("last_subject", lambda: _drawn(average, lines, bands, "At the subject's last token"))
    for sheet in attributed:
        kind = next(k for k in average.config.kinds if sheet.name.startswith(sheet_name(k, average.config.window)))
        title = f"Attributed effect (first order) over {counted(count, 'fact')}, {average.model}"
        folder.figure(f"attributed_{kind}", lambda sheet=sheet, title=title: value_figure(grid, [sheet], title=title))


def _lines(
    average: AverageTrace, wanted: Mapping[str, tuple[str, str]]
) -> tuple[dict[str, list[float]], dict[str, tuple[list[float], list[float]]]]:
    lines, bands = {}, {}
    for label, (kind, segment) in wanted.items():
        means = average.mean(kind, segment)
        if any(one.count for one in means):
            lines[label] = [PERCENT * one.value for one in means]
            widths = [0.0 if math.isnan(one.interval) else PERCENT * one.interval for one in means]
            bands[label] = (
                [value - width for value, width in zip(lines[label], widths, strict=True)],
                [value + width for value, width in zip(lines[label], widths, strict=True)],
            )
    return lines, bands


def _drawn(average: AverageTrace, lines: Mapping[str, Sequence[float]], bands: Any, title: str) -> Any:
    return line_figure(
        range(average.num_layers), lines, xlabel="layer", ylabel="indirect effect, points", title=title, bands=bands
    )


def trace_summary(average: AverageTrace) -> str:
    """What was found, as Markdown."""
    counts = {
        "traced": len(average.facts),
        "unknown to the model and set aside": len(average.unknown),
        "known, but no other subject fits in the place of theirs": average.info.get("facts_unfit", 0),
        "skipped, as they cannot be used": average.info.get("facts_skipped", 0),
    }
    shown = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    corruption = describe(average.config, average.std, average.config.samples)
    parts = [
        f"# Causal tracing of {average.model}",
        f"Of {counted(sum(counts.values()), 'fact')}: {shown}. Corruption: {corruption}. Numbers are percentage "
        f"points of the "
        "answer's probability, with 95 % intervals over facts. Published: Meng et al. 2022, GPT-2 XL (48 layers), "
        "about 1,000 facts.",
        _table(average),
    ]
    if average.config.exact:
        parts += [_segment_table(average), _attribution_table(average), _proposal(average)]
    parts += [f"- {note}" for note in average.notes]
    if average.unknown:
        parts.append(_unknown(average))
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(average: AverageTrace) -> str:
    rows = [["total effect", _shown(average.total_effect), "", PUBLISHED_TOTAL]]
    exact = average.config.exact
    for kind in average.restored or average.config.kinds:
        for segment in (LAST_SUBJECT, "last"):
            found = average.peak(kind, segment, of="effects" if exact else "attributions")
            if found is not None and not (kind in SEVERED and segment == "last"):
                name = f"{sheet_name(kind, average.config.window)}, {segment} token"
                rows.append([name, _shown(found[1]), str(found[0]), PUBLISHED.get((kind, segment), "–")])
    what = "largest mean effect" if exact else "largest mean attribution (first order)"
    return text_table([what, "this model", "layer", "GPT-2 XL, restored"], rows, right=(1, 2))


def _segment_table(average: AverageTrace) -> str:
    """The largest mean effect of every segment, and where it is."""
    rows = []
    for segment in average.segments:
        cells = []
        for kind in average.config.kinds:
            found = average.peak(kind, segment)
            cells.append("–" if found is None else f"{_shown(found[1])} ({found[0]})")
        if all(cell == "–" for cell in cells):
            continue
        count = max((one.count for one in average.mean(average.config.kinds[0], segment)), default=0)
        rows.append([segment, str(count), *cells])
    header = ["segment", "facts", *(f"{sheet_name(k, average.config.window)} (layer)" for k in average.config.kinds)]
    return text_table(header, rows, right=tuple(range(1, len(header))))


def _attribution_table(average: AverageTrace) -> str:
    rows = []
    for kind in average.config.kinds:
        linear, ranks = average.correlation(kind)
        rows.append(
            [
                sheet_name(kind, average.config.window),
                *(f"{one.value:.2f} ± {one.interval:.2f}" for one in (linear, ranks)),
            ]
        )
    header = ["attribution against exact effects, mean over facts", "Pearson", "Spearman"]
    return text_table(header, rows, right=(1, 2))


def _proposal(average: AverageTrace) -> str:
    if "mlp severed" not in average.restored or not average.peak("mlp severed"):
        return ""
    ranges = propose_layers(average)[:_PROPOSED]
    if not ranges:
        return "Severing the MLPs takes nothing away at the subject's last token: no layers are proposed."
    shown = ", ".join(f"{one.first}–{one.last} ({_shown(Mean(one.gap, one.interval, 0))})" for one in ranges)
    return (
        "Layers proposed for MEMIT, from the mean gap between plain and MLP-severed effects at the subject's last "
        f"token: {shown}."
    )


def _unknown(average: AverageTrace) -> str:
    """What the model says instead, for the first of the facts that were set aside."""
    rows = [
        [one.id, shortened(one.prompt, 70), one.answer, visible(one.says)] for one in average.unknown[:_SHOWN_UNKNOWN]
    ]
    rest = len(average.unknown) - len(rows)
    more = f"\n\nand {rest} more: tables/unknown.csv." if rest else ""
    return f"Set aside:\n\n{text_table(['fact', 'prompt', 'answer', 'the model says'], rows)}{more}"


def _shown(mean: Mean) -> str:
    interval = "" if math.isnan(mean.interval) else f" ± {PERCENT * mean.interval:.1f}"
    return f"{points(mean.value, 1)}{interval}"
