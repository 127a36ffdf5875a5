"""A benchmark's folder of tables and figures, and its summary beside what papers publish."""

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from errata.evaluate.metrics import metric_info
from errata.jobs.bench.bench_job import BenchResult
from errata.jobs.bench.bench_options import BenchOptions
from errata.reports.bench.cell_metrics import DRIFT, ZSRE, Done, figures_of
from errata.reports.bench.cell_tables import batch_lines, method_tables
from errata.reports.bench.prediction_table import prediction_parts
from errata.reports.bench.published import PUBLISHED
from errata.reports.bench.relation_tables import mixed_parts, relation_parts
from errata.reports.output_files import OutputFolder
from errata.store import atomic_write_text
from errata.views.plotting import line_figure
from errata.views.text_tables import text_table

_CURVES = ("score", "es", "ps", "ns", "accuracy", "kl_drift")


def write_bench(bench: BenchResult) -> str:
    """Write tables, figures, bench.json and summary.md into the benchmark's folder; returns summary.md's text."""
    out, about, options = bench.out, bench.about, bench.options
    folder = OutputFolder(out)
    scaling = [(cell, result) for cell, result in bench.cells if cell.study == "scaling"]
    parts = [_head(about, options), *method_tables(folder, scaling, options), *_failures(bench.cells)]
    parts += [*batch_lines(folder, scaling), *_curves(folder, scaling, options)]
    parts += relation_parts(folder, scaling, bench.types, options)
    parts += mixed_parts(folder, [(cell, result) for cell, result in bench.cells if cell.study == "mixed"], options)
    parts += [*prediction_parts(folder, bench.predictions), _published(options), _settings(about)]
    text = "\n\n".join(part for part in parts if part) + "\n"
    atomic_write_text(out / "bench.json", json.dumps(about, indent=1, ensure_ascii=False, default=list) + "\n")
    atomic_write_text(out / "summary.md", text)
    return text


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
    for key in ZSRE if options.dataset == "zsre" else _CURVES:
        lines, bands = {}, {}
        for method in dict.fromkeys(cell.method for cell, _ in done):
            points = [of.get((method, count), {}).get(key) for count in counts]
            if key in DRIFT and counts[0] == 1:
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
