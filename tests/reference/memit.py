"""MEMIT the slow, obvious way: one fact at a time, full forwards, autograd, full logits, primal solve."""

import torch

from errata.models import projection
from reference.answers import answer_tokens
from reference.written import KEPT, gains_and_eps, to_write


def find(tokenizer, text, start, end):
    """Ids of a text and the last token over characters [start, end)."""
    encoding = tokenizer(text, return_offsets_mapping=True)
    covering = [i for i, (a, b) in enumerate(encoding["offset_mapping"]) if a < end and b > start]
    return encoding["input_ids"], covering


def block_output(output):
    return output[0] if isinstance(output, tuple) else output


def shifted_module(lm, layer, site):
    """The module whose output is shifted: the block itself, or its MLP's or attention's last map."""
    if site == "block":
        return lm.layers[layer]
    return lm.down(layer) if site == "mlp" else projection(lm, layer, "o").module


class Shifted:
    """Adds `shift` to what `site` of layer `layer` gives at one position of each row; records what it was before."""

    def __init__(self, lm, layer, positions, shift, site="block"):
        self.positions, self.shift = positions, shift
        self.handle = shifted_module(lm, layer, site).register_forward_hook(self.hook)

    def hook(self, _module, _arguments, output):
        hidden = block_output(output).clone()
        if hidden.ndim == 2:  # OPT's MLP sees all rows in one axis
            return self.moved(hidden.reshape(len(self.positions), -1, hidden.shape[-1])).reshape(hidden.shape)
        hidden = self.moved(hidden)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def moved(self, hidden):
        rows = torch.arange(len(hidden))
        self.before = hidden[rows, self.positions].detach()
        hidden[rows, self.positions] += self.shift
        return hidden


def target_value(lm, fact, config, prefixes, sites=("block",)):
    """The optimised value of one fact at the last of `sites`, the number of updates, and the final total loss."""
    rows, targets, positions = [], [], []
    for prefix in prefixes:
        text = prefix + fact.text + " " + fact.target_new
        start, end = (len(prefix) + i for i in fact.subject_span)
        ids, subject = find(lm.tokenizer, text, start, end)
        _, own = answer_tokens(lm.tokenizer, prefix + fact.text, text)
        target = range(own, len(ids))
        rows.append(ids)
        targets.append(target)
        positions.append(subject[-1])
    ids, subject = find(lm.tokenizer, f"{fact.subject} is a", 0, len(fact.subject))
    rows.append(ids)
    positions.append(subject[-1])
    width = max(map(len, rows))
    batch = torch.tensor([r + [0] * (width - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in rows])
    positions = torch.tensor(positions)

    steps = [torch.zeros(lm.d_model, requires_grad=True) for _ in sites]
    units = [unit_of(lm, fact, config, site) for site in sites]
    adam = torch.optim.Adam(steps, lr=config.learning_rate)
    starts = p0 = loss = None
    updates = 0
    for step in range(config.value_steps):
        shifts = [one * unit for one, unit in zip(steps, units, strict=True)]
        hooked = [
            Shifted(lm, config.layers[-1], positions, shift, site) for shift, site in zip(shifts, sites, strict=True)
        ]
        logits = lm.hf(input_ids=batch, attention_mask=mask, use_cache=False).logits.float()
        for one in hooked:
            one.handle.remove()
        log_probs = logits.log_softmax(-1)
        if starts is None:
            starts = [one.before[0].float() for one in hooked]
        nll = torch.stack(
            [-torch.stack([log_probs[i, t - 1, rows[i][t]] for t in target]).mean() for i, target in enumerate(targets)]
        ).mean()
        essence = log_probs[-1, positions[-1]]
        p0 = essence.detach() if p0 is None else p0
        kl = (essence.exp() * (essence - p0)).sum()
        loss = nll + config.kl_factor * kl
        relative = config.value_unit == "start"
        whole = [torch.tensor(lm.d_model**0.5) if relative else start.norm() for start in starts]
        for one, length in zip(steps, whole, strict=True):
            loss = loss + config.weight_decay * one.norm() / (length if relative else length**2)
        if loss < config.stop_loss or step == config.value_steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        updates += 1
        with torch.no_grad():
            for one, length in zip(steps, whole, strict=True):
                limit = config.clamp * length
                if one.norm() > limit:
                    one *= limit / one.norm()
    assert starts is not None
    assert loss is not None
    return (starts[-1] + steps[-1] * units[-1]).detach(), updates, float(loss.detach())


def unit_of(lm, fact, config, site):
    """What one channel of a shift is counted in: 1, or the size that this channel of the start usually has."""
    layer = config.layers[-1]
    if config.value_unit == "absolute":
        return torch.ones(lm.d_model)
    if site == "block" and lm.family.mlp_post_norm:
        gain, _ = gains_and_eps(lm, layer)
        return ((layer + 1) * (gain**2 + KEPT * gain.abs().median() ** 2)).sqrt().float()
    return residual_state(lm, fact, layer, site).square().mean().sqrt().expand(lm.d_model)


def key(lm, fact, layer, prefixes):
    """½ · the bare prompt's key + ½ · the mean of the prefixed prompts' keys, by one full forward each."""
    keys = context_keys(lm, fact, layer, prefixes)
    return keys[1:].mean(0) / 2 + keys[0] / 2 if len(keys) > 1 else keys[0]


@torch.no_grad()
def context_keys(lm, fact, layer, prefixes):
    """The key after each prefix, by one full forward each."""
    keys = []
    for prefix in prefixes:
        start, end = (len(prefix) + i for i in fact.subject_span)
        ids, subject = find(lm.tokenizer, prefix + fact.text, start, end)
        seen = {}
        handle = lm.down(layer).register_forward_pre_hook(lambda _m, args, seen=seen: seen.update(x=args[0]))
        lm.hf(input_ids=torch.tensor([ids]), use_cache=False)
        handle.remove()
        keys.append(seen["x"].reshape(len(ids), -1)[subject[-1]])
    return torch.stack(keys)


@torch.no_grad()
def residual_state(lm, fact, layer, site="block"):
    """What layer `layer` leaves in the stream, or its MLP writes, at the last subject token of the bare prompt."""
    ids, subject = find(lm.tokenizer, fact.text, *fact.subject_span)
    seen = {}
    module = shifted_module(lm, layer, site)
    handle = module.register_forward_hook(lambda _m, _a, out: seen.update(x=block_output(out).clone()))
    lm.hf(input_ids=torch.tensor([ids]), use_cache=False)
    handle.remove()
    return seen["x"].reshape(len(ids), -1)[subject[-1]]


@torch.no_grad()
def missing_of(lm, facts, layer, values, site):
    """What the stream after `layer` is still to get, fact by fact; values of an MLP's output are before its norm."""
    states = torch.stack([residual_state(lm, fact, layer, site) for fact in facts]).double()
    if site == "block":
        return values.double() - states
    return torch.stack(
        [joins(lm, layer, v) - joins(lm, layer, s) for v, s in zip(values.double(), states, strict=True)]
    )


def joins(lm, layer, written):
    """What joins the stream of what an MLP writes."""
    if lm.family.mlp_post_norm is None:
        return getattr(lm.hf.config, "residual_multiplier", 1.0) * written
    gain, eps = gains_and_eps(lm, layer)
    return gain * written / (written.square().mean() + eps).sqrt()


@torch.no_grad()
def edit_(lm, facts, config, prefixes, moments, values, rule=None, spread=lambda left: left, site="block"):
    """The layer loop, `passes` times; leaves the model edited, returns each layer's dense update and first keys.

    `rule(moment, keys, residuals)` gives a layer's update; MEMIT's if none is given.
    """

    def memit(moment, keys, residuals):
        return torch.linalg.solve(config.prior_weight * moment + keys.T @ keys, keys.T @ residuals)

    rule = rule or memit
    updates, all_keys = {}, {}
    for _ in range(config.passes):
        for i, layer in enumerate(config.layers):
            keys = torch.stack([key(lm, fact, layer, prefixes) for fact in facts]).double()
            missing = missing_of(lm, facts, config.layers[-1], values, site)
            written = torch.stack([residual_state(lm, fact, layer, "mlp") for fact in facts])
            share = spread(len(config.layers) - i)
            residuals = torch.stack(
                [to_write(lm, layer, now, asked / share) for now, asked in zip(written, missing, strict=True)]
            )
            update = rule(moments[layer].double(), keys, residuals)
            weight = lm.down(layer).weight
            # Conv1D stores (in, out), Linear (out, in).
            weight += (update if type(lm.down(layer)).__name__ == "Conv1D" else update.T).to(weight)
            updates[layer] = updates.get(layer, 0) + update
            all_keys.setdefault(layer, keys)
    return updates, all_keys


@torch.no_grad()
def short_loss(lm, fact, value, layer, prefixes, reach, site="block"):
    """The fact's NLL, by one full forward a context, where `reach` of the way from its state to `value` is added."""
    shift = reach * (value - residual_state(lm, fact, layer, site))
    losses = []
    for prefix in prefixes:
        text = prefix + fact.text + " " + fact.target_new
        start, end = (len(prefix) + i for i in fact.subject_span)
        ids, subject = find(lm.tokenizer, text, start, end)
        _, own = answer_tokens(lm.tokenizer, prefix + fact.text, text)
        target = range(own, len(ids))
        hooked = Shifted(lm, layer, torch.tensor([subject[-1]]), shift, site)
        log_probs = lm.hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float().log_softmax(-1)
        hooked.handle.remove()
        losses.append(-sum(float(log_probs[t - 1, ids[t]]) for t in target) / len(target))
    return sum(losses) / len(losses)
