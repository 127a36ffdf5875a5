"""A step of gradient descent as a patch."""

from collections.abc import Mapping

from errata.core.outer import OuterSum
from errata.core.steps import sgd_step
from errata.errors import InputError
from errata.lens.losses import Example
from errata.models import LanguageModel, Place
from errata.patches import Patch, provenance


def sgd_patch(lm: LanguageModel, example: Example, factors: Mapping[Place, OuterSum], lr: float) -> Patch:
    """ΔW = −lr·XᵀΔ of each matrix in `factors`, by its factors; positions where δ is zero are left out.

    Raises InputError for a learning rate that is 0 or not finite.
    """
    if not abs(lr) < float("inf") or lr == 0:
        raise InputError(f"lr={lr}: a step needs a learning rate that is a finite number and not 0.")
    updates = {place: sgd_step(one, lr).cpu() for place, one in factors.items()}
    lm.digest(fresh=True)  # something else may have written to the weights since
    info = {
        "method": "sgd",
        **provenance(lm),
        "config": {"lr": lr, "loss": example.loss_name, "places": [list(place) for place in updates]},
        "prompt": example.text,
        "target_ids": list(example.target_ids),
        "metrics": {},
    }
    return Patch(info, (), updates)
