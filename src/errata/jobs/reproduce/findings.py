"""From the numbers of every prompt to tables, figures and a summary beside what the paper reported."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from errata.core.words import counted
from errata.jobs.reproduce.folder import Folder, Records
from errata.jobs.reproduce.gradients import gradient_findings
from errata.jobs.reproduce.updates import flip_findings, step_findings
from errata.lens import BackwardLens
from errata.store import atomic_write_text
from errata.views.tables import text_table


def write_findings(
    out: Path, lens: BackwardLens, measured: Records, flips: Records, steps: Records, about: Mapping[str, Any]
) -> str:
    """Write everything into `out` and return the summary. `lens` is the first prompt's, for the grid."""
    folder = Folder(out)
    gradient_findings(folder, lens, measured, about["neuron_layers"])
    if flips:
        flip_findings(folder, flips, about["flip_layers"])
    if steps:
        step_findings(folder, steps)
    folder.forget_others("fig", "tab", "imprint_and_shift")
    summary = _summary(folder, measured, about)
    atomic_write_text(out / "run.json", json.dumps(dict(about), indent=1, ensure_ascii=False) + "\n")
    atomic_write_text(out / "summary.md", summary)
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
