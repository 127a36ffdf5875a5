"""Where an answer begins, by the plainest definition: where the tokens first differ from the prompt's own."""

from itertools import takewhile

import torch


def answer_tokens(tokenizer, prompt, text):
    """Ids of the whole text, and how many of them are the prompt's own; an end token that is appended is left out."""
    ids, alone = (_without_end(tokenizer, tokenizer(one)["input_ids"]) for one in (text, prompt))
    return ids, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, alone, strict=False)))


def _without_end(tokenizer, ids):
    return ids[:-1] if tokenizer.eos_token_id is not None and ids[-1:] == [tokenizer.eos_token_id] else ids


@torch.no_grad()
def answer_log_prob(hf, tokenizer, prompt, text):
    """What the unmodified model gives the answer's tokens, in nats: one forward of the whole text."""
    ids, start = answer_tokens(tokenizer, prompt, text)
    logits = hf(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    log_probs = logits.log_softmax(-1)
    return sum(float(log_probs[i - 1, ids[i]]) for i in range(start, len(ids)))


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
