"""Causal tracing done plainly: one full run of the unmodified model for every restoration, with hooks on its modules.

As published (Meng et al. 2022): a batch of the clean prompt and its corrupted copies; what is restored is copied from
the clean row while the batch runs. Severed variants run twice: the first run tells what the corrupted modules write.
"""

from contextlib import contextmanager

import torch

from errata.models import LanguageModel
from errata.models.weights.projections import Place, projection


def corrupted_batch(lm: LanguageModel, ids, first, last, subject):
    """Embeddings of the clean row and of one row for each sample."""
    embedded = lm.embed_tokens(torch.tensor(ids, device=lm.device))[None].repeat(1 + len(subject), 1, 1)
    embedded[1:, first : last + 1] = subject.to(embedded)
    return embedded


@contextmanager
def hooked(hooks):
    handles = [module.register_forward_hook(hook) for module, hook in hooks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def first_part(output):
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def run(lm: LanguageModel, ids, embedded, answer, hooks=()):
    """p(answer) at the last position of every row, in a full forward of the plain model."""
    rows = len(embedded)
    batch = torch.tensor(ids, device=lm.device).expand(rows, -1)
    embed = (lm.embed_tokens, lambda *_: embedded)
    with hooked([embed, *hooks]):
        logits = lm.hf(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False).logits
    return logits[:, -1].double().softmax(1)[:, answer].cpu()


def restored(lm: LanguageModel, ids, embedded, answer, *, kind, layer, position, window):
    """Mean over the samples of p(answer) with one state restored."""
    rows = len(embedded)

    def copy_hidden(_module, _arguments, output):
        hidden = first_part(output).clone()
        hidden[1:, position] = hidden[0, position]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def copy_written(_module, _arguments, output):
        written = output.reshape(rows, -1, output.shape[-1]).clone()
        written[1:, position] = written[0, position]
        return written.reshape(output.shape)

    if kind in ("mlp", "attention"):
        matrix = "down" if kind == "mlp" else "o"
        low, high = max(0, layer - window // 2), min(lm.num_layers, layer - (-window // 2))
        hooks = [(projection(lm, i, matrix).module, copy_written) for i in range(low, high)]
        return float(run(lm, ids, embedded, answer, hooks)[1:].mean())
    hooks = [(lm.layers[layer], copy_hidden)]
    if kind != "hidden":
        matrix = "down" if kind == "mlp severed" else "o"
        places = [Place(i, matrix) for i in range(lm.num_layers)]
        corrupted = {}

        def keep(place):
            def hook(_module, _arguments, output):
                corrupted[place] = output.reshape(rows, -1, output.shape[-1])[:, position].clone()

            return hook

        def put_back(place):
            def hook(_module, _arguments, output):
                written = output.reshape(rows, -1, output.shape[-1]).clone()
                written[1:, position] = corrupted[place][1:]
                return written.reshape(output.shape)

            return hook

        run(lm, ids, embedded, answer, [(projection(lm, *place).module, keep(place)) for place in places])
        hooks += [(projection(lm, *place).module, put_back(place)) for place in places]
    return float(run(lm, ids, embedded, answer, hooks)[1:].mean())


def scores(lm: LanguageModel, ids, embedded, answer):
    """Clean and mean corrupted probability."""
    found = run(lm, ids, embedded, answer)
    return float(found[0]), float(found[1:].mean())


def attribution(lm: LanguageModel, ids, embedded, answer, *, kind, layer, position, window):
    """(clean − corrupted) · gradient of p(answer), one full forward and one torch.autograd.grad for each sample."""
    total = 0.0
    low, high = max(0, layer - window // 2), min(lm.num_layers, layer - (-window // 2))
    if kind == "hidden":
        modules = [lm.layers[layer]]
    else:
        modules = [projection(lm, i, "down" if kind == "mlp" else "o").module for i in range(low, high)]
    for sample in range(1, len(embedded)):
        held = {}

        def keep(_module, _arguments, output, held=held, number=[0]):  # noqa: B006 (a counter of its own)
            hidden = first_part(output)
            hidden = hidden if hidden.requires_grad else hidden.requires_grad_()
            held[number[0]] = hidden
            number[0] += 1
            going = hidden.clone()
            return (going, *output[1:]) if isinstance(output, tuple) else going

        pair = embedded[[0, sample]].clone().requires_grad_()
        batch = torch.tensor(ids, device=lm.device).expand(2, -1)
        with (
            torch.enable_grad(),
            hooked([(lm.embed_tokens, lambda *_, pair=pair: pair), *((m, keep) for m in modules)]),
        ):
            logits = lm.hf(input_ids=batch, attention_mask=torch.ones_like(batch), use_cache=False).logits
            probability = logits[1, -1].float().softmax(0)[answer]
            grads = torch.autograd.grad(probability, list(held.values()))
        for state, grad in zip(held.values(), grads, strict=True):
            rows, vjp = state.detach().reshape(2, -1, state.shape[-1]), grad.reshape(2, -1, state.shape[-1])
            total += float(((rows[0, position] - rows[1, position]) * vjp[1, position]).double().sum())
    return total / (len(embedded) - 1)
