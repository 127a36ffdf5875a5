"""Where an answer begins, by the plainest definition: where the tokens first differ from the prompt's own."""

from itertools import takewhile

import torch


def answer_tokens(tokenizer, prompt, text):
    """Ids of the whole text, and how many of them are the prompt's own; an end token that is appended is left out."""
    ids, alone = (_without_end(tokenizer, tokenizer(one)["input_ids"]) for one in (text, prompt))
    return ids, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, alone, strict=False)))


def _without_end(tokenizer, ids):
    return ids[:-1] if tokenizer.eos_token_id is not None and ids[-1:] == [tokenizer.eos_token_id] else ids


def answer_log_prob(hf, tokenizer, prompt, text):
    """What the unmodified model gives the answer's tokens, in nats: one forward of the whole text."""
    return answer_log_probs(hf, tokenizer, [(prompt, text)])[0]


@torch.no_grad()
def answer_log_probs(hf, tokenizer, pairs, batch=20):
    """The same of many prompts and whole texts, a padded batch at a time."""
    rows = [answer_tokens(tokenizer, prompt, text) for prompt, text in pairs]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
    found = [0.0] * len(rows)
    for at in range(0, len(order), batch):
        members = order[at : at + batch]
        width = len(rows[members[-1]][0])
        ids = torch.tensor([rows[i][0] + [0] * (width - len(rows[i][0])) for i in members])
        mask = torch.tensor([[1] * len(rows[i][0]) + [0] * (width - len(rows[i][0])) for i in members])
        log_probs = hf(input_ids=ids, attention_mask=mask, use_cache=False).logits.float().log_softmax(-1)
        for row, i in enumerate(members):
            own, start = rows[i]
            found[i] = sum(float(log_probs[row, t - 1, own[t]]) for t in range(start, len(own)))
    return found


@torch.no_grad()
def writes_answer(hf, tokenizer, prompt, text):
    """Whether greedy `generate`, given what comes before the answer, writes the answer's tokens."""
    ids, start = answer_tokens(tokenizer, prompt, text)
    given = torch.tensor([ids[:start]])
    written = hf.generate(
        given, attention_mask=torch.ones_like(given), max_new_tokens=len(ids) - start, do_sample=False, num_beams=1,
        pad_token_id=0, eos_token_id=None,
    )  # fmt: skip
    return written[0, start:].tolist() == ids[start:]
