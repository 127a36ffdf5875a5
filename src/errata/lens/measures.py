"""What the paper's experiments need of one prompt, as plain numbers that can be kept and averaged later."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from errata.core.updates import WeightUpdate, add_
from errata.lens.backward_lens import BackwardLens
from errata.models import Place, mlp_matrices, projection, run_taps, weight_of, weights_restored

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
    found = []
    for matrix in ("down", "up"):
        factors = lens.of(layer, matrix)
        total = int((factors.neuron_norms(by_input=matrix == "down") > 0).sum())
        if not total:
            continue
        chosen = sorted({min(total - 1, int((t + (i + 0.5) / _NEURONS_A_TENTH) * total / 10))
                         for t in range(10) for i in range(_NEURONS_A_TENTH)})  # fmt: skip
        table = lens.neurons(layer, matrix, among=chosen, top=overlap)
        for place, row in zip(chosen, table.rows(), strict=True):
            found.append({"layer": layer, "matrix": matrix, "tenth": min(9, 10 * place // total), **row})
    return found


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

    Relative errors ‖predicted − actual‖/‖actual‖ of Δz (each matrix that reads the stream, moved alone: exact), of Δa
    (activations, to first order in Δz), of Δy when only `down` moves (exact), and of Δy when all move, first without
    and then with the second-order term ΔaΔW2.  own: how much of Δz and Δy at the last token its own outer product gives
    (the rest comes from other tokens' gradients).
    """
    lm, ids = lens.lm, torch.tensor([lens.example.ids], device=lens.lm.device)
    mask = torch.ones_like(ids)
    reading = [name for name in mlp_matrices(lm.family) if name != "down"]
    places = [Place(layer, name) for name in [*reading, "down"]]

    def taps() -> tuple[dict[Place, Tensor], dict[Place, Tensor]]:
        return run_taps(lm, ids, mask, places)

    def moved(matrices: list[str], step: float) -> tuple[dict[Place, Tensor], dict[Place, Tensor]]:
        chosen = [Place(layer, name) for name in matrices]
        with weights_restored(lm, chosen):
            for place in chosen:
                add_(weight_of(lm, place), WeightUpdate(dense=-step * lens.of(*place).dense()))
            return taps()

    down = Place(layer, "down")
    inputs, outputs = taps()
    predicted = lens.predict_shift(lens.example.prompt, lr=lr, matrices=[*reading, "down"], layers=[layer])
    in1, out1 = moved(reading, lr)
    fine_in, _ = moved(reading, lr / 64)
    _, out2 = moved(["down"], lr)
    _, out_all = moved([*reading, "down"], lr)

    delta_a = (in1[down] - inputs[down])[0].float()
    first_a = 64 * (fine_in[down] - inputs[down])[0].float()
    weight = projection(lm, layer, "down").weight.float()
    factors = lens.of(layer, "down")
    delta_w = -lr * factors.dense()
    first_y = first_a @ weight + predicted[down]
    delta_y = (out_all[down] - outputs[down])[0].float()
    last = lens.example.prompt_length - 1
    own_y = -lr * float(factors.inputs[last] @ factors.inputs[last]) * factors.vjps[last]
    return {
        "layer": layer,
        "lr": lr,
        "delta_z": {
            name: _error(predicted[Place(layer, name)], (out1[Place(layer, name)] - outputs[Place(layer, name)])[0])
            for name in reading
        },
        "delta_a": _error(first_a, delta_a),
        "delta_y_down_only": _error(predicted[down], (out2[down] - outputs[down])[0]),
        "delta_y_first_order": _error(first_y, delta_y),
        "delta_y_with_second_order": _error(delta_a @ (weight + delta_w) + predicted[down], delta_y),
        "own_share_y": float(own_y @ predicted[down][last] / predicted[down][last].square().sum().clamp_min(1e-30)),
    }


def _error(predicted: Tensor, actual: Tensor) -> float:
    actual = actual.float()
    return float((predicted - actual).norm() / actual.norm().clamp_min(1e-30))
