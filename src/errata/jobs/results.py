"""A run's folder: the patch, report.json and report.md, whole or not at all."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from errata.patches import RUN_FILES
from errata.store import atomic_write_text
from errata.store.run_folder import folder_for

if TYPE_CHECKING:
    from errata.jobs.edit_job import EditResult


def save_run(result: "EditResult", out: Path, *, overwrite: bool) -> Path:
    """Write patch.json, patch.safetensors, report.json and report.md as one folder; returns which."""
    from errata.jobs.summary import summary
    from errata.jobs.verdict_text import every_fact

    with folder_for(out, overwrite=overwrite, other=result.patch.id, ours=RUN_FILES) as (out, staging):
        result.patch.write_into(staging)
        atomic_write_text(staging / "report.json", plain_json(result.report) + "\n")
        told = [summary(result), *filter(None, [every_fact(result.report)])]
        atomic_write_text(staging / "report.md", "\n\n".join(told) + "\n")
    return out


def plain_json(report: dict[str, Any]) -> str:
    """A report as the text of its file; ValueError for a number that is not finite."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
