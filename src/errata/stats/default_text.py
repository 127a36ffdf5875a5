"""The text that errata brings along, for second moments where no corpus is given: the same on every machine."""

import json
import lzma
from functools import cache
from hashlib import sha256
from importlib.resources import files

from errata.errors import CorruptFileError
from errata.models import LanguageModel
from errata.stats.corpus import OWN_SAMPLES, Corpus

# As SmolLM2 counts them.
SHIPPED_TOKENS = 29_983
_FILE = "sample_text.jsonl.xz"
_SHA256 = "dd57f1d8615a7dbdaf2288930c39c50904a3f8ff3ea08be2ff3784dbc4645f10"
# Fewer tokens for each neuron leave the second moment of a wide layer nearly singular.
_TOKENS_A_NEURON = 8


@cache
def shipped_text() -> Corpus:
    """The text as a corpus. Raises CorruptFileError where the installed file is not the one that was released."""
    packed = (files("errata") / "data" / _FILE).read_bytes()
    if sha256(packed).hexdigest() != _SHA256:
        raise CorruptFileError(f"errata/data/{_FILE} is not the file that errata was released with. Reinstall errata.")
    lines = lzma.decompress(packed).decode().splitlines()
    return Corpus.from_texts([json.loads(line)["text"] for line in lines], name="errata's text")


def default_corpus(lm: LanguageModel) -> Corpus:
    """What will do where no corpus is given: errata's text, or the model's own samples where that is too short."""
    return shipped_text() if _TOKENS_A_NEURON * lm.d_mlp <= SHIPPED_TOKENS else OWN_SAMPLES
