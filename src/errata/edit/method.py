"""One interface for every editing method: what it is given, what it gives, and how it is found by name."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from errata.backends import LOCAL
from errata.core.parts import Backend
from errata.core.progress import ProgressSink
from errata.core.updates import WeightUpdate
from errata.edit.settings.method_config import MethodConfig
from errata.edit.settings.presets import Preset
from errata.edit.settings.search_space import SearchSpace
from errata.facts import Fact
from errata.models import LanguageModel, Place
from errata.stats import SecondMoments


@dataclass(frozen=True)
class EditTask:
    """What a method is given: facts that were checked, its configuration, and what it may use.

    moments: second moments of `config.layers`, for a method that uses them.  prefixes: context prefixes, the empty one
    first.  cache: folder for what is kept between runs (None: errata's home).  stage: names a stretch of the work
    whose time the report gives.  past_keys: by layer, those of the batches that were edited before into the same model.
    backend: where the parts of the work are done.
    """

    lm: LanguageModel
    facts: tuple[Fact, ...]
    config: Any  # the method's own configuration
    prefixes: tuple[str, ...]
    moments: SecondMoments | None
    batch_size: int
    cache: Path | None
    progress: ProgressSink
    stage: Callable[[str], AbstractContextManager[None]]
    past_keys: Mapping[int, Float[Tensor, "past d_mlp"]] = field(default_factory=dict)
    backend: Backend = LOCAL

    def second_moments(self) -> SecondMoments:
        """The second moments, of a method that declares that it uses them."""
        assert self.moments is not None, "a method without uses_moments"
        return self.moments


@dataclass(frozen=True)
class Edit:
    """What a method gives; the model is as it was.

    metrics, not_converged and per_fact are plain JSON for the report; summary is what a reader is told in a few lines.
    per_fact: of each fact, where the method knows: nll (nats, of its target value), second_try, left (share of the
    wanted change that did not land).
    kept_seconds: what earlier runs spent on parts that were found in the cache.
    failed: why this edit is no success although it has numbers, in a sentence for the user; None where nothing is known
    against it.
    """

    updates: Mapping[Place, WeightUpdate]
    metrics: Mapping[str, Any]
    summary: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    not_converged: tuple[Mapping[str, Any], ...] = ()
    per_fact: tuple[Mapping[str, Any], ...] = ()
    values: Float[Tensor, "fact d_model"] | None = None
    keys: Mapping[int, Float[Tensor, "fact d_mlp"]] = field(default_factory=dict)
    kept_seconds: float = 0.0
    failed: str | None = None

    def with_metrics(self, metrics: Mapping[str, Any], line: str) -> "Edit":
        """The same edit with more to tell."""
        return replace(self, metrics={**self.metrics, **metrics}, summary=(*self.summary, line))


Resolve = Callable[[LanguageModel, Any, frozenset[str]], tuple[Any, str | None]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One editing method: all that the rest of errata knows of it.

    writes: what it writes, in a sentence; paper: where it was published.
    guess: settings where nobody measured any; presets: where somebody did; search_space: what errata tune tries.
    certain: fields that make a guess no guess when the user gives them all.
    guessed: fields that a guess chooses by the model, beside the layers.
    together: fields that mean nothing without each other: where the user gives some, the rest are the defaults again,
    not what a preset or a guess says.
    units: by a field that names a unit, the fields that count in it: where the user gives one of them, it is in the
    default unit, as published, whatever a guess says.
    plan: a line on what a run will do.  resolve: what has to be judged of a configuration with the model at hand and
    before any work; it is given the names of the fields that the user chose, and gives the configuration that holds
    and, where that came from elsewhere, from where.
    prepare: work for many facts that each one's own edit can use afterwards (target values into the cache).
    """

    name: str
    title: str
    writes: str
    paper: str
    config_type: type[MethodConfig]
    guess: Callable[[LanguageModel], MethodConfig]
    certain: frozenset[str]
    guessed: frozenset[str] = frozenset()
    together: frozenset[str] = frozenset()
    units: Mapping[str, frozenset[str]] = field(default_factory=dict)
    presets: tuple[Preset, ...] = ()
    search_space: SearchSpace | None = None
    plan: Callable[[Any], str]
    edit: Callable[[EditTask], Edit]
    resolve: Resolve = lambda _lm, config, _given: (config, None)
    uses_moments: Callable[[Any], bool] = lambda _: False
    prepare: Callable[[EditTask], object] = lambda _: None
    uses_prefixes: bool = False
