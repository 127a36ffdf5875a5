"""MEMIT the slow, obvious way: one fact at a time, full forwards, autograd, full logits, primal solve."""

import torch


def find(tokenizer, text, start, end):
    """Ids of a text and the last token over characters [start, end)."""
    encoding = tokenizer(text, return_offsets_mapping=True)
    covering = [i for i, (a, b) in enumerate(encoding["offset_mapping"]) if a < end and b > start]
    return encoding["input_ids"], covering


def block_output(output):
    return output[0] if isinstance(output, tuple) else output


class Shifted:
    """Adds `shift` to layer `layer`'s output at one position of each row, and records what it was before."""

    def __init__(self, lm, layer, positions, shift):
        self.positions, self.shift = positions, shift
        self.handle = lm.layers[layer].register_forward_hook(self.hook)

    def hook(self, _module, _arguments, output):
        hidden = block_output(output).clone()
        rows = torch.arange(len(hidden))
        self.before = hidden[rows, self.positions].detach()
        hidden[rows, self.positions] += self.shift
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden


def target_value(lm, fact, config, prefixes):
    """The optimised value of one fact, the number of updates, and the final total loss."""
    rows, targets, positions = [], [], []
    for prefix in prefixes:
        text = prefix + fact.text + " " + fact.target_new
        start, end = (len(prefix) + i for i in fact.subject_span)
        ids, subject = find(lm.tokenizer, text, start, end)
        _, target = find(lm.tokenizer, text, len(prefix + fact.text) + 1, len(text))
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

    shift = torch.zeros(lm.d_model, requires_grad=True)
    adam = torch.optim.Adam([shift], lr=config.learning_rate)
    start_value = p0 = None
    updates = 0
    for step in range(config.value_steps):
        hooked = Shifted(lm, config.layers[-1], positions, shift)
        logits = lm.hf(input_ids=batch, attention_mask=mask, use_cache=False).logits.float()
        hooked.handle.remove()
        log_probs = logits.log_softmax(-1)
        if start_value is None:
            start_value = hooked.before[0].float()
        nll = torch.stack(
            [-torch.stack([log_probs[i, t - 1, rows[i][t]] for t in target]).mean() for i, target in enumerate(targets)]
        ).mean()
        essence = log_probs[-1, positions[-1]]
        p0 = essence.detach() if p0 is None else p0
        assert start_value is not None
        kl = (essence.exp() * (essence - p0)).sum()
        loss = nll + config.kl_factor * kl + config.weight_decay * shift.norm() / start_value.norm() ** 2
        if loss < config.stop_loss or step == config.value_steps - 1:
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
        updates += 1
        with torch.no_grad():
            limit = config.clamp * start_value.norm()
            if shift.norm() > limit:
                shift *= limit / shift.norm()
    assert start_value is not None
    return (start_value + shift).detach(), updates, float(loss.detach())


@torch.no_grad()
def key(lm, fact, layer, prefixes):
    """½ · the bare prompt's key + ½ · the mean of the prefixed prompts' keys, by one full forward each."""
    keys = []
    for prefix in prefixes:
        start, end = (len(prefix) + i for i in fact.subject_span)
        ids, subject = find(lm.tokenizer, prefix + fact.text, start, end)
        seen = {}
        handle = lm.down(layer).register_forward_pre_hook(lambda _m, args, seen=seen: seen.update(x=args[0]))
        lm.hf(input_ids=torch.tensor([ids]), use_cache=False)
        handle.remove()
        keys.append(seen["x"].reshape(len(ids), -1)[subject[-1]])
    return torch.stack(keys[1:]).mean(0) / 2 + keys[0] / 2 if keys[1:] else keys[0]


@torch.no_grad()
def residual_state(lm, fact, layer):
    """Layer `layer`'s output at the last subject token of the bare prompt."""
    ids, subject = find(lm.tokenizer, fact.text, *fact.subject_span)
    seen = {}
    handle = lm.layers[layer].register_forward_hook(lambda _m, _a, out: seen.update(x=block_output(out).clone()))
    lm.hf(input_ids=torch.tensor([ids]), use_cache=False)
    handle.remove()
    return seen["x"][0, subject[-1]]


@torch.no_grad()
def edit_(lm, facts, config, prefixes, moments, values):
    """The layer loop, `passes` times; leaves the model edited, returns each layer's dense update and first keys."""
    updates, all_keys = {}, {}
    scale = getattr(lm.hf.config, "residual_multiplier", 1.0)
    for _ in range(config.passes):
        for i, layer in enumerate(config.layers):
            keys = torch.stack([key(lm, fact, layer, prefixes) for fact in facts]).double()
            states = torch.stack([residual_state(lm, fact, config.layers[-1]) for fact in facts]).double()
            residuals = (values.double() - states) / (len(config.layers) - i) / scale
            system = config.prior_weight * moments[layer].double() + keys.T @ keys
            update = torch.linalg.solve(system, keys.T @ residuals)
            weight = lm.down(layer).weight
            # Conv1D stores (in, out), Linear (out, in).
            weight += (update if type(lm.down(layer)).__name__ == "Conv1D" else update.T).to(weight)
            updates[layer] = updates.get(layer, 0) + update
            all_keys.setdefault(layer, keys)
    return updates, all_keys
