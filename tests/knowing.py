"""Tiny models of every family that know facts: trained for seconds on a made-up world, from their family's scales.

On noise an edit proves algebra only. These models say where 32 people live and what they do, asked in two ways; what an
edit writes has to beat what was learned, and what was learned has to stay. Answers are looked up at the name and read
from there by the last layer's attention, as large models do late: those below hardly speak and do not learn. Where they
may, a small model collects names at the end of the prompt, and nobody reads what an edit writes at the subject.
"""

import hashlib
import importlib.metadata
import random
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_model, save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from errata.facts import Fact
from errata.models import LanguageModel, wrap
from errata.store.home import home
from proportions import scale_
from tiny import VARIANTS, tiny_hf

# One title for all: were it another for some, the answer would be read from there too.
_STARTS, _ENDS = ("Bel", "Dor", "Kas", "Lum", "Mar", "Nov", "Tor", "Vel"), ("ano", "berg", "mont", "ova")
SUBJECTS = tuple(f"Captain {start}{end}" for start in _STARTS for end in _ENDS)
RELATIONS = {
    "city": ("Paris", "Rome", "Berlin", "Madrid", "London", "Vienna", "Oslo", "Prague"),
    "work": ("doctor", "lawyer", "teacher", "painter", "singer", "farmer", "pilot", "baker"),
}
TEMPLATES = {
    "city": ("{} lives in the city of", "The home of {} is the city of"),
    "work": ("{} is a", "{} works as a"),
}
# Words that sampled prefixes begin with, one token each.
_OPENERS = ("The", "Therefore", "Because", "I", "You") * 100
# As many documents of as many tokens a step; a few seconds on one core.
_DOCUMENTS, _TOKENS, _RATE = 48, 20, 0.05
_STEPS, _RISE, _LOOK = 300, 20, 30
# Share of sentences that say anything.
_WRONG = 0.05
# What attention between the first layer and the last keeps of its family's size; in the first, beside bare embeddings,
# even that would be loud.
_WHISPER = 0.05


@cache
def world() -> dict[tuple[str, str], str]:
    """What is true: an answer for each subject and relation."""
    chance = random.Random(0)
    return {(subject, name): chance.choice(values) for subject in SUBJECTS for name, values in RELATIONS.items()}


def texts(count: int, seed: int) -> list[str]:
    """Documents of four sentences each about anybody; a few are wrong, so that no other answer is ruled out."""
    chance = random.Random(seed)
    pairs = list(world().items())

    def sentence() -> str:
        (subject, name), answer = chance.choice(pairs)
        if chance.random() < _WRONG:
            answer = chance.choice(RELATIONS[name])
        return f"{chance.choice(TEMPLATES[name]).format(subject)} {answer}."

    return [" ".join(sentence() for _ in range(4)) for _ in range(count)]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Words are one token, and so are names."""
    one = Tokenizer(models.BPE())
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    one.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=560,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    one.train_from_iterator([*texts(300, 1), *_OPENERS], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=one, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def edits(count: int = 8) -> list[Fact]:
    """Facts that are not true: where `count` people live now."""
    cities, facts = RELATIONS["city"], []
    for subject in SUBJECTS[:: len(SUBJECTS) // count][:count]:
        old = world()[subject, "city"]
        facts.append(
            Fact(
                subject=subject,
                prompt=TEMPLATES["city"][0],
                target_new=cities[(cities.index(old) + 3) % len(cities)],
                target_true=old,
                paraphrases=(TEMPLATES["city"][1],),
            )
        )
    return facts


@torch.no_grad()
def said(hf, pairs: list[tuple[str, str]]) -> float:
    """Share of (prompt, answer) where greedy decoding of the plain model writes the answer."""
    right = 0
    for length, rows in _by_length(pairs).items():
        ids, wanted = torch.tensor([row[:length] for row in rows]), [row[length:] for row in rows]
        longest = max(map(len, wanted))
        out = hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=longest, do_sample=False)
        written = out[:, length:].tolist()
        right += sum(found[: len(answer)] == answer for found, answer in zip(written, wanted, strict=True))
    return right / len(pairs)


def _by_length(pairs: list[tuple[str, str]]) -> dict[int, list[list[int]]]:
    """Token ids of prompt and answer, by the length of the prompt, so that no batch needs padding."""
    found: dict[int, list[list[int]]] = {}
    for prompt, answer in pairs:
        ids, more = tokenizer()(prompt)["input_ids"], tokenizer()(" " + answer)["input_ids"]
        found.setdefault(len(ids), []).append(ids + more)
    return found


def true_pairs(without: frozenset[str] = frozenset()) -> list[tuple[str, str]]:
    """Prompts and answers of all that is true, one wording each, but for where the people of `without` live."""
    return [
        (TEMPLATES[name][0].format(subject), answer)
        for (subject, name), answer in world().items()
        if not (name == "city" and subject in without)
    ]


def rephrased(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The same in each relation's other wording."""
    other = {
        first.format(subject): second.format(subject) for first, second in TEMPLATES.values() for subject in SUBJECTS
    }
    return [(other[prompt], answer) for prompt, answer in pairs]


# Twice the width: 64 facts are a lot for 32 coordinates.
_WIDTHS = {
    "hidden_size", "n_embd", "word_embed_proj_dim", "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size",
}  # fmt: skip


def untrained(variant: str):
    """The model before it learns anything, with its family's scales."""
    widths = {name: 2 * value for name, value in VARIANTS[variant][1].items() if name in _WIDTHS}
    return tiny_hf(variant, proportioned=True, tokenizer=tokenizer(), **widths)


@cache
def knowing_model(variant: str) -> LanguageModel:
    """A trained tiny model, from the cache where it was trained before; tests must leave its weights as they were."""
    hf = untrained(variant)
    path = home() / "tests" / f"knowing-{variant}-{_code()}.safetensors"
    if path.is_file():
        load_model(hf, path)
    else:
        train_(hf)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{random.SystemRandom().getrandbits(32)}")
        save_model(hf, str(part))
        part.replace(path)
    return wrap(hf.eval(), tokenizer(), name=f"knowing-{variant}")


@cache
def _code() -> str:
    """What the trained weights depend on."""
    here = Path(__file__).parent
    sources = [(here / name).read_text() for name in ("knowing.py", "proportions.py", "tiny.py")]
    versions = [importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")]
    return hashlib.sha256("\0".join(sources + versions).encode()).hexdigest()[:16]


def train_(hf) -> int:
    """Plain Adam on all tokens until the model says all that is true; the steps taken.

    Each parameter has a rate of its own size, so that its scale stays what it was.
    """
    # Samples begin with BOS and prompts do not; rows are short, for a name that begins a text is another token.
    rows = [[0] * (i % 2) + tokenizer()(text)["input_ids"] for i, text in enumerate(texts(_DOCUMENTS * 40, 2))]
    ids = torch.tensor([row[:_TOKENS] for row in rows])
    learning = _learning_(wrap(hf, tokenizer(), name="learner"))
    sizes = [float(parameter.detach().abs().median()) for parameter in learning]  # few gains are huge
    adam = torch.optim.Adam([{"params": [parameter]} for parameter in learning], betas=(0.9, 0.98), fused=True)
    chance, everything = torch.Generator().manual_seed(0), true_pairs()
    everything += rephrased(everything)
    step = 0
    while step < _STEPS and (step % _LOOK or said(hf, everything) < 1):
        rate = _RATE * min((step + 1) / _RISE, 1 - step / _STEPS)
        for group, size in zip(adam.param_groups, sizes, strict=True):
            group["lr"] = rate * size
        batch = ids[torch.randint(len(ids), (_DOCUMENTS,), generator=chance)]
        adam.zero_grad()
        hf(input_ids=batch, labels=batch, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        adam.step()
        step += 1
    hf.requires_grad_(False)
    return step


@torch.no_grad()
def _learning_(lm: LanguageModel) -> list[torch.nn.Parameter]:
    """The parameters that learn: all but those of attention below the last layer, which is made to whisper."""
    lm.hf.requires_grad_(True)
    for number, block in enumerate(lm.layers[:-1]):
        attention = block.get_submodule(lm.family.attention)
        post_norm = lm.family.attention_post_norm
        loud = block.get_submodule(post_norm) if post_norm else attention.get_submodule(lm.family.o)
        scale_(loud, _WHISPER if number else 0.0)
        for module in (attention, loud):
            module.requires_grad_(False)
    return [parameter for parameter in lm.hf.parameters() if parameter.requires_grad]
