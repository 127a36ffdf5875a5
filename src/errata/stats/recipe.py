"""Under which name second moments are kept: a digest of everything that they depend on beyond rounding.

Left out, because they move results by rounding only: the device, the batch size and when the sums were saved.
"""

from errata.models import LanguageModel, fingerprint
from errata.store import digest
from errata.store.kept import MOMENTS


def stream_digest(lm: LanguageModel, source_recipe: list[object], chunk_tokens: int) -> str:
    """Digest of the stream of keys: the model, corpus or samples, chunking, code version."""
    return digest(fingerprint(lm, MOMENTS, rounding=False), source_recipe, chunk_tokens)
