"""ROME, EMMET, AlphaEdit and PMET as published, with dense systems and full forwards."""

import math

import torch

from errata.models import Place, weights_restored
from reference import memit


@torch.no_grad()
def rome_update(lm, fact, config, prefixes, moment, value):
    """One fact's dense update."""
    (layer,) = config.layers
    keys = memit.context_keys(lm, fact, layer, prefixes).double()
    mean = keys.mean(0)
    direction = torch.linalg.solve(moment, mean)
    direction = direction / direction.norm()
    key = mean if config.one_key else keys[0]
    module = lm.down(layer)
    weight = (module.weight if type(module).__name__ == "Conv1D" else module.weight.T).double()
    written = key @ weight + (module.bias.double() if module.bias is not None else 0)
    return torch.outer(direction, (value.double() - written) / (key @ direction))


def pmet_updates(lm, facts, config, prefixes, moments):
    """Each layer's dense update and each fact's value: attention's shift helps to find it and is then forgotten."""
    values = [memit.target_value(lm, fact, config, prefixes, ("attention", "mlp"))[0] for fact in facts]
    with weights_restored(lm, [Place(layer, "down") for layer in config.layers]):
        updates, _ = memit.edit_(
            lm, facts, config, prefixes, moments, torch.stack(values), spread=math.sqrt, site="mlp"
        )
    return updates, torch.stack(values)


def emmet_rule(config):
    def rule(moment, keys, residuals):
        solved = torch.linalg.solve(config.moment_scale * moment, keys.T)
        system = keys @ solved + config.softness * torch.eye(len(keys), dtype=keys.dtype)
        return solved @ torch.linalg.solve(system, residuals)

    return rule


def alphaedit_rule(config, past=None):
    def rule(moment, keys, residuals):
        left, singular, _ = torch.linalg.svd(moment)
        small = left[:, singular < config.threshold]
        projector = small @ small.T
        gram = keys.T @ keys + (0 if past is None else past.T @ past)
        system = projector @ gram + config.ridge * torch.eye(len(moment), dtype=moment.dtype)
        return torch.linalg.solve(system, projector @ keys.T @ residuals)

    return rule
