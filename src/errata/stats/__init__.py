"""Statistics of a model over text: second moments of MLP keys."""

from errata.stats.corpus import Corpus, open_corpus
from errata.stats.estimate import seconds_per_token
from errata.stats.second_moments import MomentRequest, SecondMoments, compute, prepare, second_moments

__all__ = [
    "Corpus",
    "MomentRequest",
    "SecondMoments",
    "compute",
    "open_corpus",
    "prepare",
    "second_moments",
    "seconds_per_token",
]
