"""From the numbers of every prompt to tables, figures and a summary beside what the paper reported."""

import json
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from errata.core.words import counted
from errata.jobs.reproduce import Reproduction
from errata.reports.reproduce.findings import Folder, Records
from errata.reports.reproduce.gradient_findings import gradient_findings
from errata.reports.reproduce.update_findings import flip_findings, step_findings
from errata.store import atomic_write_text
from errata.views.text_tables import text_table


def write_reproduction(result: Reproduction) -> str:
    """Write tables, figures, run.json and summary.md into the run's folder; returns the summary."""
    folder, about = Folder(result.out), result.about
    gradient_findings(folder, result.lens, result.measured, about["neuron_layers"])
    if result.flips:
        flip_findings(folder, result.flips, about["flip_layers"])
    if result.steps:
        step_findings(folder, result.steps)
    folder.forget_others("fig", "tab", "imprint_and_shift")
    summary = _summary(folder, result.measured, about)
    atomic_write_text(result.out / "run.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(result.out / "summary.md", summary)
    return summary


def _summary(folder: Folder, measured: Records, about: Mapping[str, Any]) -> str:
    tokens = fmean(one["tokens"] for one in measured)
    knows = sum(one["answers_target"] for one in measured)
    table = text_table(["figure", "what", "this model", "published (GPT-2, Llama 2)"], folder.lines)
    return (
        f"# Backward Lens on {about['model']}\n\n"
        f"{counted(len(measured), 'prompt')} of {tokens:.1f} tokens in the mean, one backward each; {knows} of them "
        f"were answered "
        f"with the target already. Lens mode: {about['options']['mode']}. Perplexity on {about['perplexity_text']}. "
        f"Published: Katz et al. 2024 (EMNLP), figure numbers are theirs. Facts {about['facts_digest'][:12]}, weights "
        f"{about['weights'][:12]}.\n\n"
        f"{table}\n"
    )
