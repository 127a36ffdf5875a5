"""Under which name second moments are kept: a digest of everything that they depend on beyond rounding.

Left out, because they move results by rounding only: the device, the batch size and when the sums were saved.
"""

from errata.models import LanguageModel, config_digest, matmul_precision
from errata.store import digest

# Raise it when the code changes what is summed: chunks, truncation, paragraphs, sampling.
RECIPE_VERSION = 1


def stream_digest(lm: LanguageModel, source_recipe: list[object], chunk_tokens: int) -> str:
    """Digest of the stream of keys: weights, configuration, dtype, corpus or samples, chunking, code version."""
    return digest(
        RECIPE_VERSION,
        lm.digest(),
        config_digest(lm),
        str(lm.dtype),
        matmul_precision(),
        source_recipe,
        chunk_tokens,
    )
