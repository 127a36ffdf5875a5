"""Everything that errata keeps because it can make it again: one table of folders, names in keys, and versions.

Keys begin with `models.fingerprint` of a kind, so that whatever a model's numbers depend on is in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """One kind of kept thing.

    purpose: what its keys begin with.  version: of the code that makes it; raise it when the same inputs no longer give
    the same results, so that nothing stale is taken.  folder: in errata's home, or in the folder that a caller names
    for what is kept; None for what lies in a run's own folder.
    """

    purpose: str
    version: int
    folder: str | None = None


# The version: chunks, truncation, paragraphs, sampling, what is summed.
MOMENTS = Kind("second moments", 1, "moments")
VALUES = Kind("target value", 5, "values")
NEURONS = Kind("neurons", 2, "neurons")
TRAININGS = Kind("training", 2, "training")
EVALUATIONS = Kind("evaluation", 3, "evaluations")
TRACES = Kind("trace", 3, "traces")
# Converted models, whose name holds the digest of what they were made from; the version of the converter.
MODELS = Kind("models", 1, "models")
EXPERIMENTS = Kind("reproduce", 4)
BENCHMARKS = Kind("bench", 4)
TUNINGS = Kind("tune", 2)
EDITORS = Kind("editor", 1)

KINDS = (
    *(MOMENTS, VALUES, NEURONS, TRAININGS, EVALUATIONS, TRACES, MODELS),
    *(EXPERIMENTS, BENCHMARKS, TUNINGS, EDITORS),
)
