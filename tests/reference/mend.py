"""MEND the slow, obvious way: one fact at a time, whole forwards, weights really replaced, autograd through it all."""

import torch
from torch.func import functional_call

from errata.models import projection


def token_factors(lm, row, places):
    """For each matrix x and δ of one fact's gradient, token by token, from a whole forward and backward."""
    seen, hooks, maps = {}, [], {place: projection(lm, *place) for place in places}

    def keep(name):
        def hook(_module, arguments, output):
            seen[name] = (arguments[0].detach().reshape(-1, arguments[0].shape[-1]), output)
            return output.clone()  # some families add to it in place

        return hook

    modules = {id(one.module): one.module for one in maps.values()}
    hooks += [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    hooks.append(lm.embed_tokens.register_forward_hook(lambda _m, _a, output: output.requires_grad_()))
    try:
        loss = target_nll(lm, {}, row)
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for place, one in maps.items():
        x, output = seen[id(one.module)]
        (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
        found[place] = x, one.part(gradient.reshape(len(x), -1))
    return found


def logits(lm, weights, ids):
    """Logits of one row under replaced weights (by parameter name)."""
    return functional_call(lm.hf, weights, kwargs={"input_ids": torch.tensor([list(ids)]), "use_cache": False}).logits[
        0
    ]


def target_nll(lm, weights, row):
    """Mean NLL of a row's target tokens."""
    log_probs = logits(lm, weights, row.ids).float().log_softmax(-1)
    return -torch.stack([log_probs[at - 1, row.ids[at]] for at in range(row.start, len(row.ids))]).mean()


def replaced_weights(lm, updates):
    """W + ΔW for each matrix, as the model stores it, by parameter name; differentiable in the updates."""
    names = {id(parameter): name for name, parameter in lm.hf.named_parameters()}
    weights: dict[str, torch.Tensor] = {}
    for place, update in updates.items():
        one = projection(lm, *place)
        weight: torch.Tensor = one.module.weight  # type: ignore[assignment]
        name = names[id(weight)]
        stored = update if one.in_first else update.T
        if one.columns is not None:
            whole = torch.zeros(weight.shape)
            if one.in_first:
                whole[:, one.columns] = stored
            else:
                whole[one.columns] = stored
            stored = whole
        weights[name] = weights.get(name, weight.detach()) + stored
    return weights


def editor_update(editor, place, inputs, vjps):
    """ΔW of one matrix: each token that has a gradient through the editor, the outer products summed one by one."""
    total = torch.zeros(inputs.shape[1], vjps.shape[1])
    for x, vjp in zip(inputs, vjps, strict=True):
        if bool((x != 0).any()) and bool((vjp != 0).any()):
            left, right = editor(place, x[None], vjp[None])
            total = total + torch.outer(left[0], right[0])
    return total


def losses(lm, editor, facts, *, together=1):
    """(NLL of the paraphrase, KL on the locality text) of each (edit, paraphrase, locality) after its group's edit."""
    found = []
    for start in range(0, len(facts), together):
        group = facts[start : start + together]
        factors = [token_factors(lm, edit, editor.places) for edit, _, _ in group]
        updates = {p: sum(editor_update(editor, p, *each[p]) for each in factors) for p in editor.places}
        weights = replaced_weights(lm, updates)
        for _, paraphrase, ids in group:
            base = logits(lm, {}, ids).float().log_softmax(-1).detach()
            edited = logits(lm, weights, ids).float().log_softmax(-1)
            kl = (base.exp() * (base - edited)).sum(-1).mean()
            found.append((target_nll(lm, weights, paraphrase), kl))
    return found
