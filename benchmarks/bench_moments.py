"""Second moments of three layers: one pass against three passes of one layer each.

    python benchmarks/bench_moments.py [--tokens 8000] [--runs 3]

The reference runs the same batches with the same early exit, one layer at a time, and forms whole squares XᵀX. The
fast way is `second_moments` itself with a cold cache: reading, tokenizing and saving included. What the forward and the
products take is measured apart, next to bare matrix products of the same shapes.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import errata.models
from errata.core.moments import add_products_, zero_panels
from errata.models import LanguageModel, run_layers
from errata.stats import Corpus, SecondMoments, open_corpus, second_moments
from errata.stats.token_stream import CorpusTokens, Position, Span, batches, chunks, padded
from timing import interleaved, measured, report

LAYERS = (7, 8, 9)
BATCH_TOKENS = 4096
REQUIRED = 2.2


class _Exit(Exception):  # noqa: N818 (control flow)
    pass


@torch.no_grad()
def one_layer(lm: LanguageModel, layer: int, work: Sequence[Sequence[Span]]) -> torch.Tensor:
    """The plain way: hook the down projection, leave the forward there, and add the whole square."""
    total = torch.zeros(lm.d_mlp, lm.d_mlp, dtype=torch.float64)
    mask = torch.empty(0)

    def hook(_module: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        rows = arguments[0][mask.bool()]
        total.add_(rows.T @ rows)
        raise _Exit

    handle = lm.down(layer).register_forward_pre_hook(hook)
    try:
        for batch in work:
            ids, mask, _ = padded(batch, lm.device)
            try:
                lm.backbone(input_ids=ids, attention_mask=mask, use_cache=False)
            except _Exit:
                continue
    finally:
        handle.remove()
    return total / sum(len(span.ids) for batch in work for span in batch)


def one_pass(lm: LanguageModel, corpus: Corpus, tokens: int) -> SecondMoments:
    with tempfile.TemporaryDirectory() as folder:
        return second_moments(lm, LAYERS, corpus=corpus, tokens=tokens, batch_tokens=BATCH_TOKENS, cache=Path(folder))


def where_the_time_goes(lm: LanguageModel, work: Sequence[Sequence[Span]]) -> dict[str, str]:
    """Seconds of the parts, next to bare matrix products of the same shapes."""
    counts = [sum(len(span.ids) for span in batch) for batch in work]
    areas = [len(batch) * len(batch[0].ids) for batch in work]
    rows = [torch.randn(count, lm.d_mlp) for count in counts for _ in LAYERS]
    weights = [weight.detach() for weight in lm.layers[0].parameters() if weight.ndim == 2]
    inputs = [(torch.randn(area, weight.shape[1]), weight) for area in areas for weight in weights]
    panels = zero_panels(lm.d_mlp)
    layers = max(LAYERS) + 1
    forward = _median(lambda: forwards(lm, work))
    bare = layers * _median(lambda: [torch.nn.functional.linear(*pair) for pair in inputs])
    products = _median(lambda: [add_products_(panels, part) for part in rows])
    squares = _median(lambda: [part.T @ part for part in rows])
    speed = 2 * sum(areas) * sum(weight.numel() for weight in weights) * layers / bare / 1e9
    return {
        "tokens": f"{sum(counts):,} in {len(work)} batches, {sum(areas) / sum(counts) - 1:.1%} padding",
        "forward": f"{forward:.3f} s (its matrix products alone: {bare:.3f} s, {speed:.0f} GFLOP/s)",
        "products": f"{products:.3f} s (whole squares: {squares:.3f} s)",
    }


@torch.no_grad()
def forwards(lm: LanguageModel, work: Sequence[Sequence[Span]]) -> None:
    for batch in work:
        ids, mask, _ = padded(batch, lm.device)
        run_layers(lm, ids, mask, stop=max(LAYERS) + 1, tap_down=LAYERS, end_at_down=True)


def _median(run: Callable[[], object]) -> float:
    return sorted(measured(run) for _ in range(3))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="smollm2")
    chosen = parser.parse_args()
    data = Path(os.environ.get("ERRATA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    path = data / "wikipedia_paragraphs.jsonl"
    if not path.is_file():
        sys.exit(f"No {path.name} in {data}; set ERRATA_DATA to the folder of the development data.")

    lm, corpus = errata.models.load(chosen.model), open_corpus(path)
    source = CorpusTokens(corpus, lm.tokenizer, 512)
    (chunk,) = chunks(source, Position(), chosen.tokens, chosen.tokens)
    work = list(batches(chunk.spans, BATCH_TOKENS))
    lm.digest()

    found = one_pass(lm, corpus, chosen.tokens)
    for layer in LAYERS:
        expected = one_layer(lm, layer, work)
        assert (found[layer] - expected).norm() <= 1e-4 * expected.norm(), layer
    timings = interleaved(
        {
            "three passes": lambda: [one_layer(lm, layer, work) for layer in LAYERS],
            "one pass": lambda: one_pass(lm, corpus, chosen.tokens),
        },
        runs=chosen.runs,
    )
    parts = where_the_time_goes(lm, work)
    report(f"second moments of layers {LAYERS} of {lm.name}", timings, required=REQUIRED, **parts)


if __name__ == "__main__":
    main()
