"""Models: families as rows of one table, loading, partial runs, and the one view that everything else uses."""

from errata.models.families import FAMILIES, Family
from errata.models.language_model import LanguageModel
from errata.models.load import load, wrap
from errata.models.partial import KeyValues, Run, left_aligned, run_layers
from errata.models.tokens import Encoding, TargetRow, encode, encode_targets, pad_right

__all__ = [
    "FAMILIES",
    "Encoding",
    "Family",
    "KeyValues",
    "LanguageModel",
    "Run",
    "TargetRow",
    "encode",
    "encode_targets",
    "left_aligned",
    "load",
    "pad_right",
    "run_layers",
    "wrap",
]
