"""What the paper's experiments need of one prompt, as plain numbers that can be kept and averaged later."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from errata.core.updates import WeightUpdate
from errata.lens.backward_lens import BackwardLens
from errata.models import (
    LanguageModel,
    Place,
    add_to_weight_,
    mlp_matrices,
    projection,
    run_layers,
    run_taps,
    weights_restored,
)
from errata.models.run.backward import widened
from errata.models.run.tangents import outputs_moved_by_tangents, tangent_of

# Of the neurons of a layer, as many of each tenth of them by norm.
_NEURONS_A_TENTH = 3


def measure_lens(lens: BackwardLens, *, neuron_layers: tuple[int, ...] = (), overlap: int = 100) -> dict[str, Any]:
    """Ranks, norms, readings and cosines of one prompt's gradient (Katz et al. 2024, sections 4 to 6).

    Positions are lists over the prompt's tokens, layers lists over layers; `segments` says what each position is.
    """
    mlp = mlp_matrices(lens.lm.family)
    target, answer = lens.target, lens.answer
    assert target is not None
    reads = {}
    for matrix in ("down", "up"):
        table = lens.project(matrix, top=1, track=[target, answer])
        at = {token: i for i, token in enumerate(table.tracked)}
        reads[matrix] = {
            "target_rank": _with_gaps(table.ranks[:, :, at[target]], table.null),
            "answer_rank": _with_gaps(table.ranks[:, :, at[answer]], table.null),
        }
    tapped = lens.matrices
    return {
        "tokens": len(lens.example.ids),
        "loss": lens.loss,
        "answers_target": target == answer,
        "vocabulary": table.vocabulary,
        "segments": {name: list(places) for name, places in lens.segments().items()},
        "rank": {name: [lens.rank(i, name) for i in range(lens.num_layers)] for name in mlp},
        "stable_rank": {name: [lens.stable_rank(i, name) for i in range(lens.num_layers)] for name in mlp},
        "vjp_norm": {name: _rounded(lens.norms(name)) for name in tapped},
        "input_norm": {name: _rounded(lens.norms(name, of="input")) for name in tapped},
        "reads": reads,
        "cosine_last": _rounded(lens.cosine("down", position=-1)),
        "cosine_mean": _rounded(lens.cosine("down", position=None)),
        "neurons": [row for layer in neuron_layers for row in _neurons(lens, layer, overlap)],
    }


def _neurons(lens: BackwardLens, layer: int, overlap: int) -> list[dict[str, Any]]:
    """A few gradient neurons of each tenth by norm, against the vectors that span them."""
    rows = []
    for matrix in ("down", "up"):
        factors = lens.of(layer, matrix)
        total = int((factors.neuron_norms(by_input=matrix == "down") > 0).sum())
        if not total:
            continue
        chosen = sorted({min(total - 1, int((t + (i + 0.5) / _NEURONS_A_TENTH) * total / 10))
                         for t in range(10) for i in range(_NEURONS_A_TENTH)})  # fmt: skip
        table = lens.neurons(layer, matrix, among=chosen, top=overlap)
        for place, row in zip(chosen, table.rows(), strict=True):
            rows.append({"layer": layer, "matrix": matrix, "tenth": min(9, 10 * place // total), **row})
    return rows


def _with_gaps(ranks: Tensor, null: Tensor) -> list[list[int | None]]:
    return [
        [None if gone else rank for rank, gone in zip(*pair, strict=True)]
        for pair in zip(ranks.tolist(), null.tolist(), strict=True)
    ]


def _rounded(values: Float[Tensor, "row column"]) -> list[list[float | None]]:
    """Six digits; None where there is no number."""
    return [[None if x != x else float(f"{x:.6g}") for x in row] for row in values.tolist()]


def mechanism(lens: BackwardLens, layer: int, lr: float) -> dict[str, Any]:
    """Imprint and shift, predicted and actual, of one SGD step of `lr` on one layer's MLP (Lemma 5.2).

    Predicted, from the factors and the unedited MLP: Δz = −lr·XXᵀΔ of each matrix that reads the stream; Δa = J·Δz, J
    the activation's Jacobian; Δy = Δa·W2 + a·ΔW2, and with the second-order term + Δa·ΔW2. Given as ‖predicted −
    actual‖ / ‖actual‖; Δz and Δy of `down` moved alone are exact. second_order_y, curvature_y: how large Δa·ΔW2 and the
    activation's own curvature (Δa − J·Δz)·W2 are beside Δy.  own_share_y: how much of the last token's Δy (down alone)
    its own outer product gives; the rest comes from other tokens' gradients.
    """
    lm, down = lens.lm, Place(layer, "down")
    reading = [Place(layer, name) for name in mlp_matrices(lm.family) if name != "down"]
    ids = torch.tensor([lens.example.ids], device=lm.embed_device)
    tapped = [*reading, down]
    inputs, outputs = _taps(lm, ids, tapped)
    in1, out1 = _taps_after_step(lens, ids, tapped, reading, lr)
    _, out2 = _taps_after_step(lens, ids, tapped, [down], lr)
    _, out_all = _taps_after_step(lens, ids, tapped, tapped, lr)
    predicted = lens.predict_shift(lr=lr, matrices=mlp_matrices(lm.family), layers=[layer])
    linear_a = activation_shift(lens, layer, {place: predicted[place] for place in reading})
    weight, factors = widened(projection(lm, *down).weight), lens.of(*down)
    delta_w = -lr * factors.dense()
    delta_a, delta_y = in1[down] - inputs[down], out_all[down] - outputs[down]
    linear_y = linear_a @ weight + predicted[down]
    last = lens.example.prompt_length - 1
    own_y = -lr * float(factors.inputs[last] @ factors.inputs[last]) * factors.vjps[last]
    return {
        "layer": layer,
        "lr": lr,
        "delta_z": {place.matrix: _error(predicted[place], out1[place] - outputs[place]) for place in reading},
        "delta_a": _error(linear_a, delta_a),
        "delta_y_down_only": _error(predicted[down], out2[down] - outputs[down]),
        "delta_y_first_order": _error(linear_y, delta_y),
        "delta_y_second_order": _error(linear_y + linear_a @ delta_w, delta_y),
        "second_order_y": _ratio(delta_a @ delta_w, delta_y),
        "curvature_y": _ratio((delta_a - linear_a) @ weight, delta_y),
        "own_share_y": float(own_y @ predicted[down][last] / predicted[down][last].square().sum().clamp_min(1e-30)),
    }


def _taps(
    lm: LanguageModel, ids: Int[Tensor, "1 pos"], places: Sequence[Place]
) -> tuple[dict[Place, Tensor], dict[Place, Tensor]]:
    """What goes into and comes out of `places` on one prompt, by position."""
    inputs, outputs = run_taps(lm, ids, torch.ones_like(ids), places)
    return {p: widened(x[0]) for p, x in inputs.items()}, {p: widened(x[0]) for p, x in outputs.items()}


def _taps_after_step(
    lens: BackwardLens, ids: Int[Tensor, "1 pos"], tapped: Sequence[Place], stepped: Sequence[Place], lr: float
) -> tuple[dict[Place, Tensor], dict[Place, Tensor]]:
    """`_taps` with an SGD step of `lr` on the matrices `stepped`, which is taken back."""
    with weights_restored(lens.lm, stepped):
        for place in stepped:
            add_to_weight_(lens.lm, place, WeightUpdate(dense=-lr * lens.of(*place).dense().float()))
        return _taps(lens.lm, ids, tapped)


def activation_shift(
    lens: BackwardLens, layer: int, shifts: dict[Place, Float[Tensor, "pos d_mlp"]]
) -> Float[Tensor, "pos d_mlp"]:
    """J·Δz: how the MLP's activations move to first order when its pre-activations move by `shifts`.

    By forward-mode differentiation through the model's own activation, whatever it is.
    """
    lm = lens.lm
    entering = lens.states[layer][None].to(lm.dtype)
    mask = torch.ones(entering.shape[:2], dtype=torch.long, device=entering.device)
    with outputs_moved_by_tangents(lm, shifts):
        run = run_layers(lm, entering, mask, first=layer, stop=layer + 1, tap_down=[layer], end_at_down=True)
        return tangent_of(run.down_inputs[layer]).reshape(entering.shape[1], -1)


def _error(predicted: Tensor, actual: Tensor) -> float:
    return _ratio(predicted - actual, actual)


def _ratio(part: Tensor, whole: Tensor) -> float:
    return float(part.norm() / whole.norm().clamp_min(1e-30))
