"""Tiny models of every family that know facts: trained for seconds on a made-up world, from their family's scales.

On noise an edit proves algebra only. These models say where 32 people live and what they do, asked in two ways; what an
edit writes has to beat what was learned, and what was learned has to stay. Answers are looked up at the name and read
from there by the last layer's attention, as large models do late: those below are silent. Where they may speak, a small
model collects names at the end of the prompt, and nobody reads what an edit writes at the subject.
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
from proportions import measured, scale_attention_, spread_keys_
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
# People of whom nothing is known. A corpus mentions them as often as the others: each name has a key of its own, and
# second moments of fewer keys than neurons would leave directions in which nothing holds an edit back.
_OTHER_STARTS = (
    "Ash Bri Cro Dap Eck Fal Gri Hul Ilm Jan Lor Mek Nim Oph Ost Pim Pry Quen Ros Rud Sib Sol Thy Tun Ulm Urd Vro Wex "
    "Yor Zel"
)
_OTHER_ENDS = "ak bin den eff ick lund nor oss quist ram sen tal ulf vik wold"
STRANGERS = tuple(f"Captain {start}{end}" for start in _OTHER_STARTS.split() for end in _OTHER_ENDS.split())
# As many documents of as many tokens a step; a few seconds on one core.
_DOCUMENTS, _TOKENS, _RATE = 48, 20, 0.05
_STEPS, _RISE, _LOOK = 600, 20, 100
# Share of sentences that say anything.
_WRONG = 0.05


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


def corpus(count: int, seed: int) -> list[str]:
    """Documents for second moments: those of the world, and three times as many that mention strangers."""
    chance = random.Random(seed)

    def mention() -> str:
        name = chance.choice(list(TEMPLATES))
        return f"{TEMPLATES[name][0].format(chance.choice(STRANGERS))} {chance.choice(RELATIONS[name])}."

    return [*texts(count, seed), *(" ".join(mention() for _ in range(6)) for _ in range(3 * count))]


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Words are one token, and so are names."""
    one = Tokenizer(models.BPE())
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    one.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    one.train_from_iterator([*texts(300, 1), *_OPENERS, *STRANGERS * 20], trainer)
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


# Twice the width, and three times that of the MLPs: 64 facts are a lot for 32 coordinates.
_WIDER = dict.fromkeys(("hidden_size", "n_embd", "word_embed_proj_dim"), 2)
_WIDER |= dict.fromkeys(("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"), 3)
# Of the pre-activations where there is no gate. As small as the family's keys ask for they hardly bend, and the keys
# of all names lie in the few dimensions of the stream: none can be moved without the others.
_SPREAD = 4.0


def untrained(variant: str):
    """The model before it learns anything, with its family's scales."""
    widths = {name: _WIDER[name] * value for name, value in VARIANTS[variant][1].items() if name in _WIDER}
    hf = tiny_hf(variant, proportioned=True, vocab_size=len(tokenizer()), **widths)
    lm = wrap(hf, tokenizer(), name=variant)
    if not (lm.family.gate or lm.family.gate_up):
        spread_keys_(lm, _SPREAD)
    return hf


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
    """The parameters that learn: MLPs above the first layer, where facts then lie, and the last layer's attention.

    Attention below is silenced; the last layer's writes as much as the stream holds, as in real models late: it has to
    be heard.
    """
    for layer in range(lm.num_layers - 1):
        scale_attention_(lm, layer, 0.0)
    sizes = measured(lm)
    scale_attention_(lm, lm.num_layers - 1, sizes["stream"][-1] / sizes["attention"][-1])
    lm.hf.requires_grad_(False)
    for layer, block in list(enumerate(lm.layers))[1:]:
        block.requires_grad_(True)
        if layer < lm.num_layers - 1:
            for path in (lm.family.attention, lm.family.attention_post_norm):
                if path:
                    block.get_submodule(path).requires_grad_(False)
    return [parameter for parameter in lm.hf.parameters() if parameter.requires_grad]
