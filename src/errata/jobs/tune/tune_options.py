"""What a tuning is asked for, checked before anything is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from errata.edit import find_method, parse_layers, space_of
from errata.errors import ConfigError, FactsError

MOST_FACTS = 100
# Fewer facts than this tell nothing of a Score.
LEAST_FACTS = 4


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    """minutes: of work in all.  count: facts edited at once, as many as the settings are for (None: 100, or half of the
    file).  first: records that are skipped.  layers: ranges that are tried in any case.  traced:
    known facts that causal tracing proposes ranges from (0: none).  fields: of the method's configuration, held as they
    are given.  text_tokens: of held-out text behind the drift that decides ties.  seed: of
    everything drawn.
    """

    method: str = "memit"
    minutes: float = 30.0
    count: int | None = None
    first: int = 0
    layers: tuple[tuple[int, ...], ...] = ()
    traced: int = 12
    fields: Mapping[str, Any] = field(default_factory=dict)
    text_tokens: int = 500
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        space_of(self.method)
        bad = [f"--budget must be positive, found {self.minutes}"] * (not 0 < self.minutes < 1e6)
        if self.count is not None and self.count < LEAST_FACTS:
            bad.append(f"--n must be at least {LEAST_FACTS}, found {self.count}")
        least = {"first": 0, "traced": 0, "text_tokens": 0, "batch_size": 1, "seed": 0}
        bad += [f"{name} must be at least {low}" for name, low in least.items() if getattr(self, name) < low]
        bad += ["--set layers=… leaves nothing to look for; name ranges with --layers"] * ("layers" in self.fields)
        if bad:
            raise ConfigError(f"Tuning: {'; '.join(bad)}.")
        config_type = find_method(self.method).config_type
        for layers in self.layers or ((0,),):
            config_type(**{**self.fields, "layers": layers})

    def counts(self, usable: int) -> tuple[int, int]:
        """How many facts are tuned on and how many are held out, of so many; FactsError where there are too few."""
        count = min(MOST_FACTS, usable // 2) if self.count is None else self.count
        held = min(count, usable - count)
        least = max(LEAST_FACTS, count // 4)
        if count < LEAST_FACTS or held < least:
            raise FactsError(
                f"There are {usable:,} usable facts; tuning on {max(count, LEAST_FACTS):,} takes at least "
                f"{max(count, LEAST_FACTS) + least:,}, since some are held out. Give more facts, or a smaller --n."
            )
        return count, held


def parse_ranges(texts: str | Sequence[str] | None) -> tuple[tuple[int, ...], ...]:
    """`5-9,7-9,9` as ranges of layers, one for each comma; ConfigError for anything else."""
    if not texts:
        return ()
    parts = texts.split(",") if isinstance(texts, str) else texts
    return tuple(dict.fromkeys(parse_layers(part) for part in parts))
