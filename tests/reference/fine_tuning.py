"""Fine-tuning and single steps the slow, obvious way: full forwards, torch's optimisers on the parameters."""

import torch

from reference.answers import answer_tokens


def tokens_of(lm, fact):
    """Ids of prompt and target, and how many of them are the prompt's."""
    return answer_tokens(lm.tokenizer, fact.text, fact.text + " " + fact.target_new)


def fact_nll(lm, fact, loss):
    """NLL of each scored target token of one fact, by one full forward of it alone."""
    ids, start = tokens_of(lm, fact)
    run = ids if loss == "teacher_forced" else ids[:start]
    logits = lm.hf(input_ids=torch.tensor([run]), use_cache=False).logits[0]
    log_probs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
    targets = list(enumerate(ids[start:]))
    if loss == "first":
        return -log_probs[start - 1, ids[start]][None]
    return torch.stack([-log_probs[start - 1 + (i if loss == "teacher_forced" else 0), t] for i, t in targets])


def trained_parameters(lm, layer, matrices):
    """The block's matrices, as the model itself holds them: the parameters with two axes."""
    block = lm.layers[layer]
    if matrices == "down":
        return [lm.down(layer).weight]
    attention = {id(p) for p in block.get_submodule(lm.family.attention).parameters()}
    return [p for p in block.parameters() if p.ndim == 2 and (matrices == "block" or id(p) not in attention)]


def fine_tune_(lm, facts, config):
    """The whole training, written down; leaves the model tuned. Gives the mean loss of each epoch."""
    parameters = trained_parameters(lm, config.layers[0], config.matrices)
    starts = [p.detach().clone() for p in parameters]
    for p in lm.hf.parameters():
        p.requires_grad_(any(p is q for q in parameters))
    adam = torch.optim.Adam(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    order = torch.Generator().manual_seed(config.seed)
    size = config.facts_a_step or len(facts)
    epochs = []
    for _ in range(config.epochs):
        shuffled = torch.randperm(len(facts), generator=order).tolist()
        total = 0.0
        for at in range(0, len(facts), size):
            chosen = shuffled[at : at + size]
            loss = torch.stack([fact_nll(lm, facts[i], config.loss).mean() for i in chosen]).mean()
            total += float(loss.detach()) * len(chosen)
            if loss >= config.stop_loss:
                adam.zero_grad()
                loss.backward()
                adam.step()
            if config.linf:
                with torch.no_grad():
                    for p, start in zip(parameters, starts, strict=True):
                        p.copy_(p.clamp(start - config.linf, start + config.linf))
        epochs.append(total / len(facts))
        if epochs[-1] < config.stop_loss:
            break
    lm.hf.requires_grad_(False)
    return epochs


def single_step_(lm, facts, config, optimiser):
    """One step of a torch optimiser on the sum of the losses; leaves the model changed."""
    parameters = [p for layer in config.layers for p in trained_parameters(lm, layer, config.matrices)]
    for p in parameters:
        p.requires_grad_(True)
    loss = "first" if config.loss == "first" else "teacher_forced"
    torch.cat([fact_nll(lm, fact, loss) for fact in facts]).sum().backward()
    optimiser(parameters, lr=config.learning_rate).step()
    lm.hf.requires_grad_(False)
    for p in parameters:
        p.grad = None
