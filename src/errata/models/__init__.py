"""Models: families as rows of one table, loading, partial runs, and the one view that everything else uses."""

from errata.models.families.fingerprint import config_digest, fingerprint, ingredients, tokenizer_digest
from errata.models.families.given import expect_wrapped, given_model, takes_model
from errata.models.families.load import config_at_hand, load, wrap
from errata.models.families.rows import FAMILIES, Family
from errata.models.language_model import LanguageModel
from errata.models.run.backward import Backward, gradients, run_backward, run_taps, widened
from errata.models.run.entering import states_entering
from errata.models.run.interventions import (
    Held,
    embeddings_replaced,
    inputs_replaced,
    mlps_run_at,
    outputs_held,
    outputs_kept,
    outputs_moved,
    outputs_shifted,
    token_embeddings,
)
from errata.models.run.key_values import KeyValues, joined, left_aligned
from errata.models.run.low_rank import RowFactors, rows_updated
from errata.models.run.partial import Run, run_layers
from errata.models.run.tuned import Tuned, tuned
from errata.models.text.chat import as_chat, chat_prompt, facts_in_chat, has_chat, in_chat, reply
from errata.models.text.tokens import (
    MERGED,
    Encoding,
    TargetRow,
    encode,
    encode_targets,
    pad_right,
    shared_length,
    token_texts,
)
from errata.models.text.vocabulary import token_reason
from errata.models.weights.projections import (
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
from errata.models.weights.written import Writing, contributed, direction_to_write, gains, to_write, usual_contribution

__all__ = [
    "ATTENTION_MATRICES",
    "FAMILIES",
    "MERGED",
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
    "as_chat",
    "chat_prompt",
    "config_at_hand",
    "config_digest",
    "contributed",
    "direction_to_write",
    "embeddings_replaced",
    "encode",
    "encode_targets",
    "expect_wrapped",
    "facts_in_chat",
    "fingerprint",
    "gains",
    "given_model",
    "gradients",
    "has_chat",
    "in_chat",
    "ingredients",
    "inputs_replaced",
    "joined",
    "left_aligned",
    "load",
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
    "reply",
    "rows_updated",
    "run_backward",
    "run_layers",
    "run_taps",
    "shared_length",
    "states_entering",
    "takes_model",
    "to_write",
    "token_embeddings",
    "token_reason",
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
