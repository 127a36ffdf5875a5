"""Which settings are worth a trial on a model: ranges of layers, and what is varied around a base."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from errata.edit import MethodConfig, SearchSpace, settings_for, space_of
from errata.edit.settings.value_config import ValueConfig
from errata.errors import ConfigError
from errata.jobs.tune.tune_options import TuneOptions
from errata.models import LanguageModel
from errata.store import digest

# Around the guess of the strength, which may be off by far on a model that nobody has tuned.
_BRACKET = (1.0, 1 / 30, 30.0)
_REFINED = (1 / 5.5, 5.5)
# Keys in so many dimensions need several times as many tokens before their second moment is well determined.
_TOKENS_A_NEURON, _LEAST_TOKENS, _MOST_TOKENS = 6, 10_000, 100_000


@dataclass(frozen=True)
class Candidates:
    """What there is to try. base: the preset's settings, or the guess, with the fields that the user holds.

    groups: settings with one last layer each, the base's own first.  ranges: all ranges of layers, by last layer, the
    one to begin with first.  fixed: names of fields that the user holds.
    """

    space: SearchSpace
    base: Any
    source: str
    is_guess: bool
    groups: tuple[Any, ...]
    ranges: Mapping[int, tuple[tuple[int, ...], ...]]
    fixed: frozenset[str]

    @property
    def layers(self) -> tuple[int, ...]:
        """Every layer that any setting writes."""
        return tuple(sorted({layer for ranges in self.ranges.values() for one in ranges for layer in one}))

    def variations(self, config: Any) -> list[Any]:
        """The same last layer with one costly field changed."""
        changed = [(name, value) for name, value in self.space.costly if name not in self.fixed]
        return list(_distinct([config, *_replaced(config, [{name: value} for name, value in changed])]))[1:]

    def bracket(self, config: Any) -> list[Any]:
        """The same setting with the strength bracketed, the guess first; itself where the method has no strength."""
        name = self.space.strength
        if name is None or name in self.fixed:
            return [config]
        return _replaced(config, [{name: float(f"{factor * getattr(self.base, name):.3g}")} for factor in _BRACKET])

    def refined(self, config: Any) -> Iterator[list[Any]]:
        """What to try around a setting at the full number of facts, a list for each field."""
        name = self.space.strength
        if name is not None and name not in self.fixed:
            yield _replaced(config, [{name: float(f"{f * getattr(config, name):.3g}")} for f in _REFINED])
        yield _replaced(config, [{"layers": one} for one in self.ranges[config.layers[-1]] if one != config.layers])
        for field, factors in self.space.late.items():
            if field not in self.fixed:
                yield list(_distinct([config, *_replaced(config, [_times(config, field, f) for f in factors])]))[1:]


def candidates(lm: LanguageModel, options: TuneOptions, count: int, proposals: Sequence[Sequence[int]]) -> Candidates:
    """What to try on this model for so many facts at once. Raises ConfigError for layers that it does not have."""
    space, fixed = space_of(options.method), frozenset(options.fields)
    start = settings_for(lm, count, method=options.method)
    fields = {**_defaults(lm, start.config, options, is_guess=start.is_guess), **options.fields}
    base = settings_for(lm, count, method=options.method, **fields).config
    ranges = _ranges(lm, space, base, [*options.layers, *(tuple(one) for one in proposals)])
    groups = [base, *_replaced(base, [{"layers": own[0]} for last, own in ranges.items() if last != base.layers[-1]])]
    return Candidates(space, base, start.source, start.is_guess, tuple(groups), ranges, fixed)


def value_key(config: MethodConfig, space: SearchSpace) -> str:
    """Digest of what the costly part depends on: settings that share it are one group."""
    if isinstance(config, ValueConfig):
        return digest(config.value_fields())
    costly = sorted({name for name, _ in space.costly})
    return digest(list(config.layers), {name: getattr(config, name) for name in costly})


def _defaults(lm: LanguageModel, config: Any, options: TuneOptions, *, is_guess: bool) -> dict[str, Any]:
    """Fewer corpus tokens than the published default, where nobody chose their number; and the seed."""
    fields: dict[str, Any] = {}
    if is_guess and hasattr(config, "moment_tokens"):
        wanted = max(_LEAST_TOKENS, _TOKENS_A_NEURON * lm.d_mlp)
        fields["moment_tokens"] = min(wanted, _MOST_TOKENS, config.moment_tokens)
    if hasattr(config, "seed"):
        fields["seed"] = options.seed
    return fields


def _ranges(
    lm: LanguageModel, space: SearchSpace, base: Any, given: Sequence[tuple[int, ...]]
) -> dict[int, tuple[tuple[int, ...], ...]]:
    """By last layer: the ranges that were given, the base's, then some of the usual widths."""
    for layers in given:
        base.replace(layers=layers).check_layers(lm.num_layers, lm.name)
    # Nothing above the last layer carries what is written at a subject to where the answer is read.
    highest = max(lm.num_layers - 2, 0)
    spread = [min(round(share * (lm.num_layers - 1)), highest) for share in space.depths]
    spread.sort(key=lambda last: abs(last - base.layers[-1]))  # where there is time for a few only, the nearest
    lasts = dict.fromkeys([base.layers[-1], *(layers[-1] for layers in given), *spread])
    widths = [len(base.layers), *space.widths] if not base.one_layer else [1]
    by_last = {}
    for last in lasts:
        own = [layers for layers in [base.layers, *given] if layers[-1] == last]
        usual = [tuple(range(max(0, last - width + 1), last + 1)) for width in widths]
        by_last[last] = tuple(dict.fromkeys([*own, *usual]))
    return by_last


def _replaced(config: Any, changes: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The setting with each change that gives a valid one."""
    valid = []
    for change in changes:
        with suppress(ConfigError):
            valid.append(config.replace(**change))
    return valid


def _distinct(configs: Sequence[Any]) -> Iterator[Any]:
    seen: list[Any] = []
    for config in configs:
        if config not in seen:
            seen.append(config)
            yield config


def _times(config: Any, field: str, factor: float) -> dict[str, Any]:
    value = getattr(config, field)
    scaled = factor * value
    return {field: max(1, round(scaled)) if isinstance(value, int) else float(f"{scaled:.3g}")}
