"""Statistics of a model over text: second moments of MLP keys."""

from errata.stats.corpus import OWN_SAMPLES, Corpus, open_corpus
from errata.stats.default_text import default_corpus, shipped_text
from errata.stats.estimate import seconds_per_token
from errata.stats.second_moments import MomentRequest, SecondMoments, compute, prepare, second_moments

__all__ = [
    "OWN_SAMPLES",
    "Corpus",
    "MomentRequest",
    "SecondMoments",
    "compute",
    "default_corpus",
    "open_corpus",
    "prepare",
    "second_moments",
    "seconds_per_token",
    "shipped_text",
]
