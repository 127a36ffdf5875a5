"""What a search handles: settings tried on some facts, and groups of them that share their costly part."""

from dataclasses import dataclass, field
from typing import Any

from errata.evaluate import harmonic_mean
from errata.jobs.tune.worker import Row

# The rung of edits of all facts, the only one whose trials can be chosen.
LAST = "last"
PARTS = ("es", "ps", "ns")
_NAMED = ("prior_weight", "softness", "ridge", "threshold", "passes", "clamp", "learning_rate", "value_steps", "linf")


@dataclass
class Trial:
    """One setting tried on `facts` facts. stage: "first", "varied", "rung", "last" or "held out"; "values" where
    no edit was worth making."""

    stage: str
    config: Any
    facts: int
    found: Row
    values: Row
    out: str = ""

    @property
    def objective(self) -> float:
        """What is maximised: the Score; where facts lack a part of it the mean of the others, or accuracy."""
        return objective_of(self.found.get("metrics"))

    @property
    def rank(self) -> tuple[float, float]:
        """Ascending from the best: the Score, then the smaller update."""
        return -round(self.objective, 3), self.found.get("relative_norm", float("inf"))


def objective_of(metrics: Row | None) -> float:
    """Harmonic mean of those of ES, PS, NS that the facts allow, else accuracy; -1 where there is nothing."""
    if not metrics:
        return -1.0
    known = [metrics[key][0] for key in _known_parts(metrics)]
    found = harmonic_mean(*known) if known else metrics["accuracy"][0]
    return -1.0 if found is None else found


def objective_name(found: Row) -> str:
    """What `objective_of` is the number of."""
    parts = _known_parts(found.get("metrics"))
    if len(parts) == len(PARTS) or not found.get("metrics"):
        return "Score"
    return f"harmonic mean of {' and '.join(part.upper() for part in parts)}" if parts else "accuracy"


def told(trial: Trial) -> str:
    """A trial's objective, or why there is none."""
    return f"{trial.objective:.1f}" if trial.objective >= 0 else f"failed ({trial.out or 'nothing was measured'})"


def _known_parts(metrics: Row | None) -> list[str]:
    return [key for key in PARTS if metrics and metrics[key][0] is not None]


@dataclass
class Group:
    """Settings that share their costly part. known: so many facts have it."""

    config: Any
    known: int = 0
    values: list[Row] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    out: str = ""

    def mean(self, name: str) -> float | None:
        """Of the facts so far, the mean NLL at the values or a little way back."""
        means = [(row[name], row["facts"]) for row in self.values if name in row]
        return sum(mean * facts for mean, facts in means) / sum(facts for _, facts in means) if means else None

    def has(self, config: Any, facts: int, stage: str) -> bool:
        """Whether the setting was tried on so many facts. The last rung measures the drift too, and so counts apart."""
        return any(
            trial.config == config and trial.facts == facts and (trial.stage == LAST) == (stage == LAST)
            for trial in self.trials
        )

    def best(self, facts: int) -> Trial:
        """The best of the trials on so many facts."""
        return min((trial for trial in self.trials if trial.facts == facts), key=lambda trial: trial.rank)


def named(config: Any) -> str:
    """A setting in a few words: its layers and what is varied."""
    first, last = config.layers[0], config.layers[-1]
    whole = last - first == len(config.layers) - 1
    layers = ",".join(map(str, config.layers)) if not whole or first == last else f"{first}-{last}"
    return f"layers {layers}" + "".join(f", {n} {getattr(config, n):g}" for n in _NAMED if hasattr(config, n))


def by_drift(trial: Trial) -> tuple[float, float]:
    """Ascending from what moves the model least."""
    drift = trial.found["metrics"].get("kl_drift")
    return drift[0] if drift else 0.0, trial.found["relative_norm"]
