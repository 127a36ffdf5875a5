"""What a benchmark is asked for, checked before anything is loaded."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from errata.edit import PresetFile, find_method, parse_override
from errata.errors import ConfigError

DATASETS = ("counterfact", "zsre", "relations")


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """methods × counts on the records of one data set from number `first` on.

    counts: how many facts are edited together; 1 stands for single edits: each of the first `singles` records by itself
    on the unedited model, the figures being means over them.  in_batches: how the facts of a count are edited (None: at
    once).  settings: by method, fields of its configuration in place of the preset's.  presets: by method, one from a
    file in place of the table's.  text_tokens: held-out tokens behind perplexity and drift, 0 for none.  generate:
    texts for GE.  mixed: two relations for the mixed-relation study (equal halves together, against their separate
    runs).  study: what predicts failure.  seed: of everything drawn.
    """

    methods: tuple[str, ...]
    counts: tuple[int, ...]
    dataset: str = "counterfact"
    first: int = 0
    singles: int = 100
    in_batches: int | None = None
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    presets: Mapping[str, PresetFile] = field(default_factory=dict)
    text_tokens: int = 2000
    generate: bool = False
    mixed: tuple[str, str] | None = None
    study: bool = False
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.methods or not self.counts:
            raise ConfigError("A benchmark needs at least one method and one number of edits.")
        for name in {*self.methods, *self.settings}:
            find_method(name)
        for what, given in (("--methods", self.methods), ("--n", self.counts)):
            if len(set(given)) < len(given):
                raise ConfigError(f"{what} names something twice: {', '.join(map(str, given))}.")
        if self.dataset not in DATASETS:
            raise ConfigError(f"Unknown data set {self.dataset!r}; known: {', '.join(DATASETS)}.")
        least = {"first": 0, "singles": 1, "text_tokens": 0, "batch_size": 1, "seed": 0}
        bad = [f"{name} must be at least {low}" for name, low in least.items() if getattr(self, name) < low]
        bad += ["every --n must be at least 1"] * (min(self.counts) < 1)
        bad += ["in_batches must be at least 1"] * (self.in_batches is not None and self.in_batches < 1)
        bad += ["--generate writes texts for facts edited together, and --n asks for none"] * self._idle(self.generate)
        bad += ["--mixed needs an --n of at least 2"] * self._idle(self.mixed is not None)
        others = sorted(set(self.settings) - set(self.methods))
        bad += [f"--set {name}.…: {name} is not among the methods" for name in others]
        bad += [f"--preset: {name} is not among the methods" for name in sorted(set(self.presets) - set(self.methods))]
        if bad:
            raise ConfigError(f"Benchmark options: {'; '.join(bad)}.")
        for name in self.methods:
            # What can be judged without the model, before it is loaded.
            find_method(name).config_type(**{"layers": (0,), **self.fields(name)})

    def fields(self, method: str) -> dict[str, Any]:
        """The fields of a method's configuration that the benchmark sets; where it draws anything, the seed too."""
        names = {field.name for field in dataclasses.fields(find_method(method).config_type)}
        # MEND's seed is its training's.
        seed = {"seed": self.seed} if "seed" in names and "editor" not in names else {}
        return {**seed, **self.settings.get(method, {})}

    def _idle(self, asked: bool) -> bool:
        return asked and max(self.counts) < 2

    @property
    def needed(self) -> int:
        """How many records the cells take."""
        return max(self.singles if count == 1 else count for count in self.counts)


def parse_counts(text: str) -> tuple[int, ...]:
    """`1,10,100` as numbers; ConfigError for anything else."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--n {text!r}: write numbers of edits as 1,10,100.") from None


def parse_settings(texts: Iterable[str]) -> dict[str, dict[str, Any]]:
    """`memit.prior_weight=300` and the like, by method; ConfigError where one cannot be understood."""
    found: dict[str, dict[str, Any]] = {}
    for text in texts:
        method, dot, rest = text.partition(".")
        if not dot:
            raise ConfigError(f"{text!r} is not METHOD.NAME=VALUE (for example memit.prior_weight=300).")
        name, value = parse_override(find_method(method).config_type, rest)
        if name in found.setdefault(method, {}):
            raise ConfigError(f"{method}.{name} is set twice; give it once.")
        found[method][name] = value
    return found
