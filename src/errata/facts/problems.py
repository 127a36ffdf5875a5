"""What is wrong with a fact, where it stands, and how bad that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a record cannot be used ("error") or deserves a look ("warning").

    `line` is 1-based; `where` says the same in words where a line alone would mislead (a JSON list on one line).
    """

    severity: Literal["error", "warning"]
    reason: str
    line: int | None = None
    fact_id: str | None = None
    where: str = ""

    def __str__(self) -> str:
        place = self.where or (f"line {self.line}" if self.line is not None else "")
        named = f"{place} [{self.fact_id}]".strip() if self.fact_id else place
        return ": ".join(part for part in (named, self.severity, self.reason) if part)


def format_problems(problems: Sequence[Problem], limit: int = 20) -> str:
    """One line for each problem, errors first, cut at `limit` with a count of what was left out."""
    ordered = sorted(problems, key=lambda problem: problem.severity != "error")
    lines = [str(problem) for problem in ordered[:limit]]
    if rest := ordered[limit:]:
        errors = sum(problem.severity == "error" for problem in rest)
        lines.append(f"... and {len(rest)} more ({errors} errors, {len(rest) - errors} warnings)")
    return "\n".join(lines)
