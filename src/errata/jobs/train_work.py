"""What a training of MEND's editor learns from: facts that the model can read, split, and unrelated texts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from errata.checks.selection import placed, selected, tell_skipped, without_contradictions
from errata.core.progress import ProgressSink
from errata.core.words import counted
from errata.edit.lookup import find_preset
from errata.edit.methods.mend.examples import Example, Ids, Schedule, examples_of, split
from errata.edit.methods.mend.mend import guess
from errata.edit.methods.mend.mend_config import EDIT_FIELDS, MendConfig, places_of
from errata.errors import ConfigError, FactsError
from errata.evaluate import check_measurable
from errata.facts import Fact
from errata.models import LanguageModel, facts_in_chat, ingredients
from errata.patches import patches_on
from errata.stats import Corpus, open_corpus
from errata.stats.samples import sampled_tokens
from errata.stats.token_stream import CorpusTokens, TokenSource
from errata.store import digest, folder_of
from errata.store.cache import Cache
from errata.store.kept import EDITORS, MOMENTS

# Unrelated texts: the model's own samples take longer to make than a corpus to read.
_CORPUS_TEXTS, _SAMPLED_TEXTS = 2048, 128


@dataclass(frozen=True)
class TrainWork:
    """A checked training: what to learn from, and everything that it depends on."""

    config: MendConfig
    source: str
    schedule: Schedule
    held_out: Schedule
    request: Mapping[str, Any]


def train_settings(lm: LanguageModel, overrides: Mapping[str, Any]) -> tuple[MendConfig, str]:
    """The preset for this model or the published settings, with `overrides`; and where they come from. ConfigError."""
    if wrong := sorted(EDIT_FIELDS & set(overrides)):
        raise ConfigError(f"{wrong[0]} is of an edit, not of the training of an editor; leave it out.")
    preset = find_preset(lm, method="mend")
    base = preset.config if preset else guess(lm)
    assert isinstance(base, MendConfig)
    config = base.replace(**overrides)
    places_of(lm, config)
    return config, f"preset {preset.name}, {preset.source}" if preset else "published settings, not measured here"


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a training is given beside its facts, as `train_mend` explains it; `overrides`: fields of MendConfig."""

    corpus: Corpus | str | Path | None
    valid: int
    skip_bad: bool
    cache: str | Path | None
    places: Mapping[str, str]
    overrides: Mapping[str, Any]


def checked_work(lm: LanguageModel, facts: Sequence[Fact], options: TrainOptions, progress: ProgressSink) -> TrainWork:
    """Check and read all that a training learns from, before its first step.

    Raises ConfigError where a setting is bad, a patch is on the model, or `valid` leaves no fact to train on;
    FactsError with every fact that cannot be learned from, unless `skip_bad`.
    """
    config, source = train_settings(lm, options.overrides)
    valid, corpus = options.valid, options.corpus
    lm.digest(fresh=True)  # something else may have written to the weights since
    if patches_on(lm):
        raise ConfigError(f"Patches are on {lm.name}; take them off: an editor is trained for a model as it is.")
    learnable = _learnable(lm, facts, options, progress)
    if len(learnable) <= valid:
        raise ConfigError(
            f"{counted(len(learnable), 'fact')} with valid={valid} leave none to train on; give more, or lower valid."
        )
    kept, held = (examples_of(lm, part) for part in split(learnable, valid, config.seed))
    if corpus is not None and not isinstance(corpus, Corpus):
        corpus = open_corpus(corpus, notify=progress.note)
    tokens = _token_source(lm, corpus, [*kept, *held], config, options.cache, progress)
    texts = [] if tokens is None else _texts(tokens, corpus is not None)
    # Held-out facts get texts of their own where there are enough.
    own = min(len(texts) // 5, len(held))
    schedule = Schedule(kept, texts[own:], config.batch, config.seed, corpus is not None)
    held_out = Schedule(held, texts[:own] or texts, config.batch, config.seed, corpus is not None)
    locality = "neighbours" if tokens is None else tokens.name if corpus is not None else f"neighbours or {tokens.name}"
    request = {
        **ingredients(lm), "code": EDITORS.version,
        "facts": digest([asdict(fact) for fact in learnable]), "valid": valid,
        "texts": digest([list(ids) for ids in texts]), "locality": locality, **config.training(),
    }  # fmt: skip
    return TrainWork(config, source, schedule, held_out, request)


def _learnable(lm: LanguageModel, facts: Sequence[Fact], options: TrainOptions, progress: ProgressSink) -> list[Fact]:
    """The facts that this model can read, without repeated ids; FactsError with every other, unless `skip_bad`."""
    places = options.places
    if not facts:
        raise FactsError("There is no fact to train on.")
    facts = facts_in_chat(lm, facts)
    contradictions, distinct = without_contradictions(facts, places)
    problems = placed(check_measurable(lm, distinct), places)
    action = f"learned from with {lm.name}"
    selection = selected(distinct, problems, action=action, skip_bad=options.skip_bad, rejected=contradictions)
    tell_skipped(len(facts) - len(selection.facts), len(facts), selection.errors, progress.note)
    return list(selection.facts)


def _token_source(
    lm: LanguageModel,
    corpus: Corpus | None,
    examples: Sequence[Example],
    config: MendConfig,
    cache: str | Path | None,
    progress: ProgressSink,
) -> TokenSource | None:
    """Where unrelated texts come from; None where every fact has neighbours and no corpus was given."""
    length = min(config.text_tokens, lm.max_tokens)
    if corpus is not None and not corpus.sampled:
        return CorpusTokens(corpus, lm.tokenizer, length)
    if corpus is None and all(example.neighbours for example in examples):
        return None
    kept = Cache(folder_of(MOMENTS) if cache is None else Path(cache), progress.note)
    if corpus is None:
        progress.note("Not every fact has neighbours and no corpus was given: the model's own samples stand in.")
    return sampled_tokens(lm, config.seed, length, kept)


def _texts(source: TokenSource, from_corpus: bool) -> list[Ids]:
    count = _CORPUS_TEXTS if from_corpus else _SAMPLED_TEXTS
    rows = (tuple(ids) for ids in source.documents(0))
    texts = list(islice((ids for ids in rows if len(ids) > 1), count))
    if not texts:
        raise ConfigError(f"{source.name} holds no text of two tokens or more; give another corpus.")
    return texts
