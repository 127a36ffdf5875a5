"""A step of gradient descent as a patch."""

import platform
from collections.abc import Mapping

import torch
import transformers

from errata.core.outer import OuterSum
from errata.core.updates import WeightUpdate
from errata.errors import InputError
from errata.lens.losses import Example
from errata.models import LanguageModel, Place, tokenizer_digest
from errata.patches import Patch


def sgd_patch(lm: LanguageModel, example: Example, factors: Mapping[Place, OuterSum], lr: float) -> Patch:
    """ΔW = −lr·XᵀΔ of each matrix in `factors`, by its factors; positions where δ is zero are left out."""
    if not abs(lr) < float("inf") or lr == 0:
        raise InputError(f"lr={lr}: a step needs a learning rate that is a finite number and not 0.")
    updates = {}
    for place, one in factors.items():
        used = one.vjps.any(dim=1)
        updates[place] = WeightUpdate.from_factors(one.inputs[used].cpu(), (-lr * one.vjps[used]).cpu())
    info = {
        "method": "sgd",
        "model": {
            "name": lm.name,
            "revision": lm.revision,
            "family": lm.family.name,
            "dtype": str(lm.dtype).removeprefix("torch."),
        },
        "base_digest": lm.digest(fresh=True),
        "tokenizer_digest": tokenizer_digest(lm.tokenizer),
        "config": {"lr": lr, "loss": example.loss_name, "places": [list(place) for place in updates]},
        "prompt": example.text,
        "target_ids": list(example.target_ids),
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "metrics": {},
    }
    return Patch(info, (), updates)
