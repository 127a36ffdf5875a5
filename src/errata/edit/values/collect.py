"""Target values for any number of facts: in batches, each finished one kept, so that a run resumes where it stopped."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from errata.backends import LOCAL
from errata.core.parts import Advance, Backend, Part, complete
from errata.core.progress import SILENT, ProgressSink
from errata.edit.settings.value_config import ValueConfig
from errata.edit.values.halfway import Halfway
from errata.edit.values.prompt_rows import rewriting_rows
from errata.edit.values.targets import TargetValues, evaluations, target_values
from errata.edit.values.value_problem import Site
from errata.facts import Fact
from errata.models import LanguageModel, fingerprint
from errata.store import digest, folder_of
from errata.store.cache import Cache
from errata.store.kept import VALUES

# Prompts of facts are hardly ever longer.
_USUAL_TOKENS = 64


def collect_values(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: ValueConfig,
    prefixes: Sequence[str],
    *,
    site: Site = "block",
    batch_size: int = 32,
    cache: Path | None = None,
    progress: ProgressSink = SILENT,
    notify: Callable[[str], None] | None = None,
    stage: str = "target values",
    backend: Backend = LOCAL,
) -> TargetValues:
    """Target values of all facts, in their order, from the cache where they are known.

    Facts of close lengths share a batch of at most `batch_size`; one that is stopped on its way goes on from where it
    was. Which facts share a batch moves the last bits of their values: a batch that was only half kept is computed
    anew, so that an interrupted run that is started again ends with the bits of one that was not; values kept from a
    run over other facts are taken as they are.
    """
    cached = Cache(folder_of(VALUES, cache), notify)
    keys = value_keys(lm, facts, config, prefixes, site)
    values, spent = _kept(cached, keys, plan_batches(lm, facts, range(len(facts)), batch_size))
    kept_seconds, each = sum(spent.values(), 0.0), evaluations(config)
    store = _BatchStore(cached, keys, facts, values)
    parts = []
    for batch in plan_batches(lm, facts, [i for i in range(len(facts)) if i not in values], batch_size):
        key = store.expect(batch)
        halfway = Halfway.of(halfway_cache(cached), key)
        asked = _Asked(tuple(facts[i] for i in batch), config, tuple(prefixes), site, halfway)
        parts.append(Part(key, asked, each * len(batch), halfway.done))
    complete(
        _optimised, lm, parts, store,
        backend=backend, progress=progress, what=stage, unit="evaluations", finished=each * len(values),
    )  # fmt: skip
    rows = [values[i] for i in range(len(facts))]
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return TargetValues(**stacked, kept_seconds=kept_seconds, second_tries=())


@dataclass(frozen=True)
class _Asked:
    """Facts whose values are optimised together, from where an earlier run left them."""

    facts: tuple[Fact, ...]
    config: ValueConfig
    prefixes: tuple[str, ...]
    site: Site
    halfway: Halfway


_Optimised = tuple[TargetValues, float]


def _optimised(lm: LanguageModel, asked: _Asked, advance: Advance) -> _Optimised:
    """The values of a batch and the seconds that each took."""
    began = time.monotonic()
    values = target_values(
        lm, asked.facts, asked.config, asked.prefixes, site=asked.site, advance=advance, halfway=asked.halfway
    )
    return values, (time.monotonic() - began) / len(asked.facts)


@dataclass
class _BatchStore:
    """Values come by batches and are kept by facts, so that a later run over other facts finds them.

    values: by fact number, those that are kept.
    """

    cached: Cache
    keys: Sequence[str]
    facts: Sequence[Fact]
    values: dict[int, dict[str, Tensor]]
    batches: dict[str, Sequence[int]] = field(default_factory=dict)

    def expect(self, batch: Sequence[int]) -> str:
        """The key of a batch that will be saved."""
        key = _batch_digest(self.keys, batch)
        self.batches[key] = batch
        return key

    def load(self, key: str) -> _Optimised | None:
        """None: what is kept was taken, fact by fact, before the batches were made."""
        assert key in self.batches

    def save(self, key: str, optimised: _Optimised) -> None:
        """Keep the value of every fact, and forget the state of the batch on its way. Raises StorageError."""
        optimum, seconds = optimised
        for at, i in enumerate(self.batches[key]):
            self.values[i] = {name: tensor[at].cpu().clone() for name, tensor in optimum.tensors().items()}
            about = {"fact": self.facts[i].id, "company": key, "seconds": seconds}
            self.cached.save(self.keys[i], self.values[i], about)
        Halfway(halfway_cache(self.cached), key).drop()


def halfway_cache(store: Cache) -> Cache:
    """Where the state of a batch on its way is kept."""
    return Cache(store.folder / "halfway", store.notify)


def _kept(
    store: Cache, keys: Sequence[str], batches: Sequence[Sequence[int]]
) -> tuple[dict[int, dict[str, Tensor]], dict[int, float]]:
    """The kept values by fact number, but for those of a batch that an interruption left half kept; and their times."""
    values: dict[int, dict[str, Tensor]] = {}
    seconds: dict[int, float] = {}
    for batch in batches:
        own = _batch_digest(keys, batch)
        entries = {i: entry for i in batch if (entry := store.load(keys[i])) is not None}
        is_whole = len(entries) == len(batch)
        for i, (tensors, about) in entries.items():
            if is_whole or about.get("company") != own:
                values[i], seconds[i] = tensors, float(about.get("seconds", 0.0))
    return values, seconds


def _batch_digest(keys: Sequence[str], batch: Sequence[int]) -> str:
    """Digest of which facts were optimised together, in which order."""
    return digest([keys[i] for i in batch])


def value_keys(
    lm: LanguageModel, facts: Sequence[Fact], config: ValueConfig, prefixes: Sequence[str], site: Site = "block"
) -> list[str]:
    """For each fact, the digest of everything its target value depends on."""
    model = fingerprint(lm, VALUES)
    common = digest(model, config.value_fields(), list(prefixes), site)
    return [digest(common, f.subject, list(f.subject_span), list(f.wanted), *_opening(f)) for f in facts]


def _opening(fact: Fact) -> list[int]:
    """Where context prefixes go, if that is not the text's beginning."""
    return [fact.opening] if fact.opening else []


def plan_batches(lm: LanguageModel, facts: Sequence[Fact], chosen: Sequence[int], batch_size: int) -> list[list[int]]:
    """The numbers of the `chosen` facts in batches, so that little is padded and memory stays bounded.

    The keys and values of what comes before the subject are held for a whole batch, as wide as its longest. So facts
    are sorted by that (in powers of two from 64 tokens on), then by what follows; and a batch is cut short where
    facts × longest prompt would exceed that of `batch_size` prompts of 64 tokens.
    """
    rows = {row.fact: row for row in rewriting_rows(lm, [facts[i] for i in chosen], ("",))}
    lengths = {i: (rows[n].edited, len(rows[n].ids)) for n, i in enumerate(chosen)}

    def place(i: int) -> tuple[int, int, int]:
        before, total = lengths[i]
        return (before // _USUAL_TOKENS).bit_length(), total - before, i

    batches: list[list[int]] = []
    widest = 0
    for i in sorted(chosen, key=place):
        widest = max(widest, lengths[i][1], _USUAL_TOKENS)
        batch = batches[-1] if batches else []
        if not batch or len(batch) == batch_size or (len(batch) + 1) * widest > batch_size * _USUAL_TOKENS:
            batch, widest = [], max(lengths[i][1], _USUAL_TOKENS)
            batches.append(batch)
        batch.append(i)
    return batches
