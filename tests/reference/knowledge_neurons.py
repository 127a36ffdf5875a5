"""Knowledge neurons the slow, obvious way: full forwards, a hook on down's input, autograd, one step at a time."""

from collections import Counter

import torch

from reference.answers import answer_tokens
from reference.written import direction


def prompt_ids(lm, prompt):
    return lm.tokenizer(prompt)["input_ids"]


def answer_ids(lm, prompt, answer):
    ids, start = answer_tokens(lm.tokenizer, prompt, prompt + " " + answer)
    return ids[start:]


def parting(lm, fact):
    """The tokens both answers begin with, and the first of the new and the old one after them; None for the old one
    where the fact names none, and what they have in common is then what the model says anyway."""
    new = answer_ids(lm, fact.text, fact.target_new)
    old = answer_ids(lm, fact.text, fact.target_true) if fact.target_true else None
    common = []
    while len(common) < min(len(new), len(old or new)) - 1:
        token = old[len(common)] if old else own_answer(lm, prompt_ids(lm, fact.text) + common)
        if token != new[len(common)]:
            break
        common.append(token)
    return common, new[len(common)], old and old[len(common)]


def own_answer(lm, ids):
    with torch.no_grad():
        return int(lm.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1, : len(lm.tokenizer)].argmax())


def probability(lm, ids, layer, answer, activation):
    """The answer's probability with the last token's activations at `layer` replaced; None leaves them as they are."""
    seen = {}

    def hook(_module, arguments):
        flat = arguments[0].reshape(len(ids), -1)
        seen["activation"] = flat[-1].detach().clone()
        if activation is None:
            return None
        return (torch.cat([flat[:-1].detach(), activation[None]]).reshape(arguments[0].shape),)

    handle = lm.down(layer).register_forward_pre_hook(hook)
    logits = lm.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1, : len(lm.tokenizer)]
    handle.remove()
    return logits.softmax(-1)[answer], seen["activation"]


def attribution(lm, ids, layer, answer, steps):
    """Attributions of one layer's neurons."""
    with torch.no_grad():
        _, full = probability(lm, ids, layer, answer, None)
    total = torch.zeros_like(full, dtype=torch.float64)
    for step in range(steps):
        point = (step / steps * full).requires_grad_()
        (gradient,) = torch.autograd.grad(probability(lm, ids, layer, answer, point)[0], point)
        total += gradient.double()
    return total * full.double() / steps


def neurons(lm, prompts, answer, config, common=()):
    """The sign of the activation by (layer, neuron) of one fact, from what each of its contexts shows."""
    counts, strength, activation = Counter(), Counter(), Counter()
    for prompt in prompts:
        ids = prompt_ids(lm, prompt) + list(common)
        full = {layer: probability(lm, ids, layer, answer, None)[1] for layer in config.layers}
        scores = {layer: attribution(lm, ids, layer, answer, config.steps) for layer in config.layers}
        best = max(float(score.max()) for score in scores.values())
        for layer, score in scores.items():
            for neuron, value in enumerate(score.tolist()):
                if best > 0 and value > config.threshold * best:
                    counts[layer, neuron] += 1
                    strength[layer, neuron] += value / best
                    activation[layer, neuron] += value / best * (1 if full[layer][neuron] > 0 else -1)
    shared = [place for place, count in counts.items() if count >= config.share * len(prompts)]
    kept = sorted(shared, key=lambda place: -strength[place])[: config.max_neurons]
    return {place: 1 if activation[place] > 0 else -1 for place in kept}


def edit(lm, facts, config, prefixes):
    """Each layer's dense update, and each fact's neurons (None: known already)."""
    updates = {layer: torch.zeros(lm.d_mlp, lm.d_model, dtype=torch.float64) for layer in config.layers}
    found = []
    head = lm.lm_head.weight.double()
    for fact in facts:
        common, new, true = parting(lm, fact)
        said = own_answer(lm, prompt_ids(lm, fact.text) + common)
        if said == new:
            found.append(None)
            continue
        old = said if true is None else true
        found.append(neurons(lm, [prefix + fact.text for prefix in prefixes], old, config, common))
        for (layer, neuron), sign in found[-1].items():
            with torch.no_grad():
                activation = probability(lm, prompt_ids(lm, fact.text) + common, layer, old, None)[1]
                written = lm.down(layer)(activation)
                move = direction(lm, layer, written, config.strength * (head[new] - head[old]))
            updates[layer][neuron] += (sign if config.signed else 1) * move
    return updates, found
