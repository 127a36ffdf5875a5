"""The Backward Lens on the embedded model: what capturing and reading cost, against doing it directly.

    python benchmarks/bench_lens.py [--tokens 20] [--runs 5]

capture: one forward and backward that keep the factors of every MLP matrix, against the same forward and a backward
that keeps nothing.  grid: top 10, bottom 10 and two ranks of every layer and position of the MLP's output.  direct:
dense gradients of all MLP weights, then one projection for each vector.
"""

import argparse
import gc
import sys
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

import errata
from errata.core.allocator import keep_freed_memory
from errata.lens import BackwardLens, backward_lens
from errata.models import LanguageModel, Place, mlp_matrices
from reference import lens as slow
from timing import interleaved, report

PROMPT = "The old town of Edinburgh, with its castle on the hill above the narrow streets, is the capital city of"
TARGET = "Italy"


def plain(lm: LanguageModel, ids: torch.Tensor, target: int) -> torch.Tensor:
    """A forward, and a backward down to the embeddings that keeps no gradient on the way."""
    embedded = lm.embed_tokens(ids).detach().requires_grad_()
    logits = lm.hf(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits[0, -1]
    loss = torch.nn.functional.cross_entropy(logits.float()[None], torch.tensor([target]))
    return torch.autograd.grad(loss, embedded)[0]


def direct(lm: LanguageModel, lens: BackwardLens) -> None:
    """Every MLP weight's dense gradient; δ by solving for it is no part of it: each vector is read from the lens."""
    places = [Place(i, name) for i in range(lm.num_layers) for name in mlp_matrices(lm.family)]
    target = lens.example.target_ids[0]

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits[-1:], torch.tensor([target]))

    slow.dense_gradients(lm, list(lens.example.ids), loss, places)
    for layer in range(lm.num_layers):
        for vector in lens.of(layer, "down").vjps:
            logits = slow.read(lm, vector)
            logits.topk(10)
            logits.topk(10, largest=False)
            for token in (target, lens.answer):
                (logits > logits[token]).sum()


def peak_of(lens: BackwardLens) -> float:
    """MiB that reading the grid needs above what the process holds before (Linux: the peak is reset first)."""

    def status(name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(name)).split()[1]) / 1024

    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    lens.project("down", top=10)
    return status("VmHWM") - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    chosen = parser.parse_args()
    keep_freed_memory()
    lm = errata.load("smollm2")
    words = lm.tokenizer(PROMPT)["input_ids"][: chosen.tokens]
    prompt = str(lm.tokenizer.decode(words))
    lens = backward_lens(lm, prompt, TARGET)
    ids = torch.tensor([lens.example.ids])
    print(f"{ids.shape[1]} tokens, {lm.num_layers} layers, {lm.d_vocab:,} tokens in the vocabulary")
    long = backward_lens(lm, " ".join(["word"] * 8 * chosen.tokens), TARGET)
    peaks = [f"{len(one.tokens)} tokens {peak_of(one):.0f} MiB" for one in (lens, long)]
    whole = [f"{len(one.tokens) * lm.num_layers * lm.d_vocab * 4 / 2**20:.0f}" for one in (lens, long)]
    timings = interleaved(
        {
            "forward, activation-only backward": lambda: plain(lm, ids, lens.example.target_ids[0]),
            "capture": lambda: backward_lens(lm, prompt, TARGET),
            "grid": lambda: lens.project("down", top=10),
            "direct": lambda: direct(lm, lens),
        },
        runs=chosen.runs,
    )
    base, capture, grid, plain_way = (timing.median for timing in timings)
    report(
        "Backward Lens: capture and grid against the direct way",
        [timings[3], timings[0], timings[1]],
        capture_over_plain=f"{capture / base:.2f} (at most 1.3)",
        grid_over_capture=f"{grid / capture:.2f} (at most 3)",
        direct_over_ours=f"{plain_way / (capture + grid):.2f} (at least 3)",
        peak_memory_of_the_grid=f"{', '.join(peaks)} (all logits at once would be {' and '.join(whole)} MiB)",
    )


if __name__ == "__main__":
    main()
