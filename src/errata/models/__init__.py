"""Models: families as rows of one table, loading, partial runs, and the one view that everything else uses."""

from errata.models.backward import Backward, gradients, run_backward, run_taps, widened
from errata.models.families import FAMILIES, Family
from errata.models.identity import config_digest, matmul_precision, tokenizer_digest
from errata.models.interventions import (
    Held,
    embeddings_replaced,
    mlps_run_at,
    outputs_held,
    outputs_kept,
    token_embeddings,
)
from errata.models.language_model import LanguageModel
from errata.models.load import load, wrap
from errata.models.low_rank import RowFactors, rows_updated
from errata.models.partial import (
    KeyValues,
    Run,
    inputs_replaced,
    joined,
    left_aligned,
    outputs_moved,
    outputs_shifted,
    run_layers,
)
from errata.models.projections import (
    ATTENTION_MATRICES,
    MLP_MATRICES,
    WRITING,
    Place,
    Projection,
    add_to_weight_,
    matrices,
    mlp_matrices,
    projection,
    relative_norm,
    updates_applied,
    weight_of,
    weights_restored,
    write_weight_,
)
from errata.models.tokens import Encoding, TargetRow, encode, encode_targets, pad_right, token_texts
from errata.models.tuned import Tuned, tuned
from errata.models.written import Writing, contributed, gains, to_write, usual_contribution

__all__ = [
    "ATTENTION_MATRICES",
    "FAMILIES",
    "MLP_MATRICES",
    "WRITING",
    "Backward",
    "Encoding",
    "Family",
    "Held",
    "KeyValues",
    "LanguageModel",
    "Place",
    "Projection",
    "RowFactors",
    "Run",
    "TargetRow",
    "Tuned",
    "Writing",
    "add_to_weight_",
    "config_digest",
    "contributed",
    "embeddings_replaced",
    "encode",
    "encode_targets",
    "gains",
    "gradients",
    "inputs_replaced",
    "joined",
    "left_aligned",
    "load",
    "matmul_precision",
    "matrices",
    "mlp_matrices",
    "mlps_run_at",
    "outputs_held",
    "outputs_kept",
    "outputs_moved",
    "outputs_shifted",
    "pad_right",
    "projection",
    "relative_norm",
    "rows_updated",
    "run_backward",
    "run_layers",
    "run_taps",
    "to_write",
    "token_embeddings",
    "token_texts",
    "tokenizer_digest",
    "tuned",
    "updates_applied",
    "usual_contribution",
    "weight_of",
    "weights_restored",
    "widened",
    "wrap",
    "write_weight_",
]
