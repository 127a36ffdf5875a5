"""An edit as text (the verdict, the before/after table, what its numbers say), and as a folder with its patch."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from errata.core.words import counted
from errata.evaluate.metrics import METRICS
from errata.jobs.edit_job import EditResult
from errata.patches import RUN_FILES
from errata.reports.output_files import plain_json
from errata.reports.verdict_text import every_fact, explained, headline
from errata.store import atomic_write_text
from errata.store.run_folder import folder_for
from errata.views.text_tables import text_table


def save_run(result: EditResult, out: Path, *, overwrite: bool) -> Path:
    """Write patch.json, patch.safetensors, report.json and report.md as one folder; returns which."""
    with folder_for(out, overwrite=overwrite, other=result.patch.id, ours=RUN_FILES) as (out, staging):
        result.patch.write_into(staging)
        atomic_write_text(staging / "report.json", plain_json(result.report) + "\n")
        sections = [summary(result.report), *filter(None, [every_fact(result.report)])]
        atomic_write_text(staging / "report.md", "\n\n".join(sections) + "\n")
    return out


def summary(report: Mapping[str, Any], *, verbose: bool = True) -> str:
    """The verdict, what was required, then with `verbose` metrics and how the edit landed, and every warning."""
    parts = [headline(report)]
    parts += ["\n".join(one["text"] for one in report["required"])] if report.get("required") else []
    parts += _details(report) if verbose else []
    if skipped := report.get("skipped"):
        listed = "\n".join(f"  {text}" for text in skipped[:5])
        more = f"\n  ... and {len(skipped) - 5} more in report.json" if len(skipped) > 5 else ""
        parts.append(f"Skipped: {counted(len(skipped), 'problem')}\n{listed}{more}")
    parts += [f"Warning: {text}" for text in report["warnings"][:20]]
    if len(report["warnings"]) > 20:
        parts.append(f"... and {counted(len(report['warnings']) - 20, 'more warning')} in report.json")
    return "\n\n".join(parts)


def metrics_table(before: Mapping[str, Any], after: Mapping[str, Any], *, without: Collection[str] = ()) -> str:
    """One row a metric but those `without`, in percent; the count is of facts that have what it takes."""
    rows = []
    for info in METRICS:
        if info.group == "counterfact" and info.key in before and info.key not in without:
            count = str(before["counts"].get(info.key, ""))
            rows.append([info.label, info.shown(before[info.key]), info.shown(after[info.key]), count, info.meaning])
    return text_table(["%", "before", "after", "facts", "meaning"], rows, right=(1, 2, 3))


def _details(report: Mapping[str, Any]) -> list[str]:
    """What the words of the verdict mean, the table of metrics, and how the edit landed."""
    if not (report["before"] and report["after"]):
        return [_landed(report)]
    table = metrics_table(report["before"], report["after"], without=("score",) if report.get("failed") else ())
    return [explained(), table, _landed(report)]


def _landed(report: Mapping[str, Any]) -> str:
    """What was edited, the method's own account of it, and what it took."""
    total, moments = report.get("seconds", {}).get("total"), report["second_moments"]
    lines = [
        f"{counted(report['facts'], 'fact')} in {report['model']['name']}, patch {report['patch']} "
        f"({report['config_source']}).",
        *report["summary"],
    ]
    if moments:
        lines.append(f"Second moments: {moments['tokens']:,} tokens of {moments['source']}.")
    if total is not None:
        lines.append(f"Time {total:,.1f} s, peak memory {report['peak_memory_mib']:,} MiB.")
    return "\n".join(lines)
