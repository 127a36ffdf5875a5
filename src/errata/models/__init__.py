"""Models: families as rows of one table, loading, partial runs, and the one view that everything else uses."""

from errata.models.families import FAMILIES, Family
from errata.models.identity import config_digest, matmul_precision, tokenizer_digest
from errata.models.language_model import LanguageModel
from errata.models.load import load, wrap
from errata.models.partial import KeyValues, Run, joined, left_aligned, run_layers
from errata.models.tokens import Encoding, TargetRow, encode, encode_targets, pad_right

__all__ = [
    "FAMILIES",
    "Encoding",
    "Family",
    "KeyValues",
    "LanguageModel",
    "Run",
    "TargetRow",
    "config_digest",
    "encode",
    "encode_targets",
    "joined",
    "left_aligned",
    "load",
    "matmul_precision",
    "pad_right",
    "run_layers",
    "tokenizer_digest",
    "wrap",
]
