"""Results as text: the before/after table and what the edit's numbers say."""

from typing import TYPE_CHECKING, Any

from errata.evaluate.metrics import METRICS
from errata.views.tables import text_table

if TYPE_CHECKING:
    from errata.jobs.edit_job import EditResult


def summary(result: "EditResult") -> str:
    """Metrics before and after, how the edit landed, and every warning."""
    report = result.report
    parts = []
    if report["before"] and report["after"]:
        parts.append(metrics_table(report["before"], report["after"]))
    parts.append(_landed(report))
    if skipped := report.get("skipped"):
        listed = "\n".join(f"  {text}" for text in skipped[:5])
        more = f"\n  ... and {len(skipped) - 5} more in report.json" if len(skipped) > 5 else ""
        parts.append(f"Skipped: {len(skipped)} problem{'s' * (len(skipped) != 1)}\n{listed}{more}")
    parts += [f"Warning: {text}" for text in report["warnings"][:20]]
    if len(report["warnings"]) > 20:
        parts.append(f"... and {len(report['warnings']) - 20} more warnings in report.json")
    return "\n\n".join(parts)


def metrics_table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """One row a metric, in percent; the count is of facts that have what it takes."""
    rows = []
    for info in METRICS:
        if info.group == "counterfact" and info.key in before:
            count = str(before["counts"].get(info.key, ""))
            rows.append([info.label, info.shown(before[info.key]), info.shown(after[info.key]), count, info.meaning])
    return text_table(["%", "before", "after", "facts", "meaning"], rows, right=(1, 2, 3))


def _landed(report: dict[str, Any]) -> str:
    """What was edited, the method's own account of it, and what it took."""
    total, moments = report.get("seconds", {}).get("total"), report["second_moments"]
    lines = [
        f"{report['facts']:,} facts in {report['model']['name']}, patch {report['patch']} ({report['config_source']}).",
        *report["summary"],
    ]
    if moments:
        lines.append(f"Second moments: {moments['tokens']:,} tokens of {moments['source']}.")
    if total is not None:
        lines.append(f"Time {total:,.1f} s, peak memory {report['peak_memory_mib']:,} MiB.")
    return "\n".join(lines)
