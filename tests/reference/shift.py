"""Forward pass shifting the slow, obvious way: one fact and rate at a time, weights really edited, full forwards."""

import torch

from reference.answers import answer_tokens
from reference.memit import find
from reference.written import direction


def target_of(lm, fact):
    """The prompt's ids with what of the target the model says by itself, and the target's next token."""
    ids, start = answer_tokens(lm.tokenizer, fact.text, fact.text + " " + fact.target_new)
    while start < len(ids) - 1 and int(next_logits(lm, ids[:start]).argmax()) == ids[start]:
        start += 1
    return ids[:start], ids[start]


def next_logits(lm, ids):
    with torch.no_grad():
        return lm.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1, : len(lm.tokenizer)].float()


def factors(lm, fact, config, second_moment=None):
    """k and v of one fact, which writes kᵀv at a rate of 1; None where the model says the target already."""
    ids, target = target_of(lm, fact)
    seen = {}
    (layer,) = config.layers
    handle = lm.down(layer).register_forward_pre_hook(lambda _m, args: seen.update(x=args[0].detach()))
    logits = next_logits(lm, ids)
    handle.remove()
    if int(logits.argmax()) == target:
        return None
    _, subject = find(lm.tokenizer, fact.text, *fact.subject_span)
    at = subject[-1] if config.key == "subject" else len(ids) - 1
    key, head = seen["x"].reshape(len(ids), -1)[at].double(), lm.lm_head.weight.double()
    value = head[target]
    if config.value == "contrastive":
        value = value - logits.double().softmax(0) @ head[: len(logits)]
    with torch.no_grad():
        written = lm.down(layer)(seen["x"].reshape(len(ids), -1)[at])
    value = direction(lm, layer, written, value.detach())
    if config.whitened:
        inverse = torch.linalg.inv(second_moment)
        key = inverse @ key * (key @ key) / (key @ inverse @ key)
    return key, value


def _stored(lm, layer, update):
    """The update as the weight is stored: Conv1D (in, out), Linear (out, in)."""
    weight = lm.down(layer).weight
    return (update if type(lm.down(layer)).__name__ == "Conv1D" else update.T).to(weight)


def lead(logits, target):
    others = torch.cat([logits[:target], logits[target + 1 :]])
    return logits[target] - others.max()


def slope(lm, fact, layer, update):
    """d lead/d rate at a rate of 0, by autograd through the edited weight of a full forward."""
    ids, target = target_of(lm, fact)
    rate = torch.zeros((), requires_grad=True)
    weight = lm.down(layer).weight
    (name,) = (name for name, one in lm.hf.named_parameters() if one is weight)
    edited = weight.detach() + rate * _stored(lm, layer, update)
    output = torch.func.functional_call(
        lm.hf, {name: edited}, kwargs={"input_ids": torch.tensor([ids]), "use_cache": False}
    )
    found = lead(output.logits[0, -1, : len(lm.tokenizer)].float(), target)
    (gradient,) = torch.autograd.grad(found, rate)
    return float(found.detach()), float(gradient)


def answers(lm, fact, layer, update, rate, margin=0.0):
    """Whether the target is the answer, by `margin`, once rate · update is added to the weight."""
    ids, target = target_of(lm, fact)
    weight = lm.down(layer).weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight += _stored(lm, layer, rate * update)
        logits = next_logits(lm, ids)
        weight.copy_(before)
    return int(logits.argmax()) == target and float(lead(logits, target)) >= margin


def rate_of(lm, fact, config, update, ladder):
    """The fact's own rate, and whether it is what was asked for."""
    (layer,) = config.layers
    rate, good = config.learning_rate, True
    if config.margin > 0:
        start, growth = slope(lm, fact, layer, update)
        good = growth > 0
        rate = (config.margin - start) / growth if good else rate
    if not config.line_search:
        return rate, good
    tried = [rate * factor for factor in ladder]
    enough = [one for one in tried if answers(lm, fact, layer, update, one, config.margin)]
    return (min(enough), True) if enough else (max(tried), False)
