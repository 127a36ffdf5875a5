"""Causal tracing on the embedded model: the whole trace of a prompt, against one full run for every restoration.

    python benchmarks/bench_trace.py [--sample 4] [--samples 10]

ours: everything `errata trace --facts` does for a fact: hidden states, MLP and attention windows at every token and
layer, and the severed states at the subject's last token.  plain: as published (tests/reference/trace.py), a full run
of the unmodified model for each restoration, the clean row and the samples in a batch, two runs for a severed one;
timed on a random sample of the same restorations, every kind by its share, and scaled up. What both give is compared.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

import errata
from errata.core.allocator import keep_freed_memory
from errata.models import LanguageModel
from errata.tracing import KINDS, SEVERED, Trace, TraceConfig, trace
from errata.tracing.corruption import corrupted_subject
from errata.tracing.prompts import traced_prompt
from reference import trace as slow
from timing import Timing, report

# Subjects at the beginning and in the middle of a prompt.
PROMPTS = [
    ("The mother tongue of Danielle Darrieux is", "Danielle Darrieux"),
    ("Vinson Massif is located in the continent of", "Vinson Massif"),
    ("The Space Needle is in downtown", "Space Needle"),
]


def plainly(lm: LanguageModel, found: Trace, chosen: Sequence[tuple[str, int, int]]) -> tuple[float, float]:
    """Seconds for some restorations in the plain way, and how far ours are from them at most."""
    one = traced_prompt(lm, found.prompt, found.subject)
    rows = corrupted_subject(lm, one, found.config, found.std)
    embedded = slow.corrupted_batch(lm, one.ids, one.first, one.last, rows)
    off, started = 0.0, time.perf_counter()
    for kind, layer, position in chosen:
        value = slow.restored(
            lm, one.ids, embedded, found.answer_id, kind=kind, layer=layer, position=position, window=10
        )
        off = max(off, abs(value - float(found.restored[kind][layer, position])))
    return time.perf_counter() - started, off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=4, help="restorations of each kind done plainly, for each prompt")
    parser.add_argument("--samples", type=int, default=TraceConfig.samples)
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    chosen = parser.parse_args()
    keep_freed_memory()
    lm = errata.load("smollm2")
    draw = random.Random(0)
    ours, plain, off, by_prompt = [], [], 0.0, []
    trace(lm, *PROMPTS[0], kinds=["hidden"], samples=1, tokens="last subject")  # warm up
    for prompt, subject in PROMPTS[: chosen.prompts]:
        started = time.perf_counter()
        found = trace(lm, prompt, subject, samples=chosen.samples)
        ours.append(time.perf_counter() - started)
        layers, tokens, last = lm.num_layers, len(found.ids), found.subject_tokens[1]
        seconds = 0.0
        for kind in (*KINDS, *SEVERED):
            places = [last] if kind in SEVERED else list(range(tokens))
            drawn = [(kind, draw.randrange(layers), draw.choice(places)) for _ in range(chosen.sample)]
            took, wrong = plainly(lm, found, drawn)
            seconds += took / chosen.sample * layers * len(places)
            off = max(off, wrong)
        plain.append(seconds)
        by_prompt.append(f"{seconds / ours[-1]:.2f}×")
        print(f"  {prompt!r}: {ours[-1]:.1f} s, plainly {seconds:.0f} s", file=sys.stderr, flush=True)
    assert off < 1e-5, off
    report(
        "Causal tracing, whole prompts",
        [Timing("plain (scaled up)", (sum(plain),)), Timing("ours", (sum(ours),))],
        required=8.0,
        by_prompt=", ".join(by_prompt),
        largest_difference=f"{off:.1e}",
        samples=chosen.samples,
    )


if __name__ == "__main__":
    main()
