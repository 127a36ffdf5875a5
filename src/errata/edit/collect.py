"""Target values for any number of facts: in batches, each finished one kept, so that a run resumes where it stopped."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from errata.core.progress import SILENT, ProgressSink
from errata.edit.config import MemitConfig
from errata.edit.rows import rewriting_rows
from errata.edit.targets import TargetValues, evaluations, target_values
from errata.facts import Fact
from errata.models import LanguageModel, config_digest, tokenizer_digest
from errata.store import digest, home
from errata.store.cache import Cache

# Raise it when the same inputs no longer give the same values, so that nothing stale is loaded.
CODE_VERSION = 2


def collect_values(
    lm: LanguageModel,
    facts: Sequence[Fact],
    config: MemitConfig,
    prefixes: Sequence[str],
    *,
    batch_size: int = 32,
    cache: Path | None = None,
    progress: ProgressSink = SILENT,
    notify: Callable[[str], None] | None = None,
) -> TargetValues:
    """Target values of all facts, in their order, from the cache where they are known.

    Facts of close lengths share a batch of `batch_size`. A batch is taken from the cache only whole: which facts share
    a batch moves the last bits, so an interrupted run that is started again ends with the bits of one that was not.
    """
    store = Cache(cache if cache is not None else home() / "values", notify)
    keys = value_keys(lm, facts, config, prefixes)
    batches = plan_batches(lm, facts, batch_size)
    loaded = {n: _load(store, [keys[i] for i in batch]) for n, batch in enumerate(batches)}
    each = evaluations(config)
    done = each * sum(len(batches[n]) for n, values in loaded.items() if values is not None)
    results: list[TargetValues] = []
    with progress.stage("target values", each * len(facts), "evaluations", done=done) as advance:
        for n, batch in enumerate(batches):
            values = loaded[n]
            if values is None:
                values = target_values(lm, [facts[i] for i in batch], config, prefixes, advance=advance)
                for at, i in enumerate(batch):
                    tensors = {name: tensor[at].cpu().clone() for name, tensor in values.tensors().items()}
                    store.save(keys[i], tensors, {"fact": facts[i].id})
            results.append(values)
    return _in_order(results, [i for batch in batches for i in batch])


def value_keys(lm: LanguageModel, facts: Sequence[Fact], config: MemitConfig, prefixes: Sequence[str]) -> list[str]:
    """For each fact, the digest of everything its target value depends on."""
    shared = digest(
        "target value", CODE_VERSION, lm.digest(), config_digest(lm), tokenizer_digest(lm.tokenizer),
        config.value_fields(), list(prefixes), str(lm.dtype), lm.device.type,
    )  # fmt: skip
    return [digest(shared, f.subject, f.text, list(f.subject_span), f.target_new) for f in facts]


def plan_batches(lm: LanguageModel, facts: Sequence[Fact], batch_size: int) -> list[list[int]]:
    """Fact numbers in batches, sorted by the tokens from the edited one on, so that little is padded."""
    lengths = [len(row.ids) - row.edited for row in rewriting_rows(lm, facts, ("",))]
    order = sorted(range(len(facts)), key=lambda i: (lengths[i], i))
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


def _load(store: Cache, keys: Sequence[str]) -> TargetValues | None:
    if not all(store.path(key).exists() for key in keys):
        return None
    entries = [store.load(key) for key in keys]
    if any(entry is None for entry in entries):
        return None
    tensors = [entry[0] for entry in entries if entry is not None]
    return TargetValues(**{name: torch.stack([t[name] for t in tensors]) for name in tensors[0]})


def _in_order(batches: Sequence[TargetValues], order: Sequence[int]) -> TargetValues:
    back = torch.empty(len(order), dtype=torch.long)
    back[torch.tensor(order)] = torch.arange(len(order))

    def joined(name: str) -> Tensor:
        return torch.cat([getattr(batch, name).cpu() for batch in batches])[back]

    return TargetValues(**{name: joined(name) for name in batches[0].tensors()})
