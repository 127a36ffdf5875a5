"""Evaluation of CounterFact records: batched against one whole forward for each prompt and target.

    python benchmarks/bench_evaluation.py [--records 50] [--runs 3] [--batch-tokens 256 1024 2048]

Each size in `--batch-tokens` is timed; the ratio is that of the default. Both ways must agree before anything is timed.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

import errata.models
from errata.evaluate import FactScore, PromptScore, measure
from errata.evaluate.measure import BATCH_TOKENS
from errata.facts import Fact, join_target, read_facts
from errata.models import LanguageModel, encode_targets
from reference.answers import answer_tokens
from timing import interleaved, report


@torch.no_grad()
def one_at_a_time(lm: LanguageModel, pairs: Sequence[tuple[str, str]]) -> list[float]:
    """Mean NLL of each target, from all logits of one forward of its own."""
    found = []
    for prompt, target in pairs:
        tokens, start = answer_tokens(lm.tokenizer, prompt, join_target(prompt, target))
        ids = torch.tensor(tokens)
        log_probs = torch.log_softmax(lm.hf(ids[None], use_cache=False).logits[0], dim=-1)
        found.append(-float(log_probs[range(start - 1, len(ids) - 1), ids[start:]].mean()))
    return found


def pairs_of(facts: Sequence[FactScore]) -> list[tuple[str, str, float]]:
    """Prompt, target and x of all that was measured."""
    prompts: list[PromptScore] = [p for fact in facts for p in (fact.prompt, *fact.paraphrases, *fact.neighbours)]
    return [(p.text, t.target, t.nll) for p in prompts for t in (p.new, p.true) if t is not None]


def described(lm: LanguageModel, pairs: Sequence[tuple[str, str]]) -> str:
    rows = [row for row, _ in encode_targets(lm.tokenizer, pairs)]
    single = sum(len(row.target_ids) == 1 for row in rows)
    prompts, tokens = len({prompt for prompt, _ in pairs}), sum(len(row.ids) for row in rows)
    return f"{len(rows)} targets ({single / len(rows):.0%} of one token), {tokens:,} tokens with {prompts} prompts"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=50)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--batch-tokens", type=int, nargs="*", default=[])
    chosen = parser.parse_args()
    data = Path(os.environ.get("ERRATA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    path = data / "counterfact.json"
    if not path.is_file():
        sys.exit(f"No {path.name} in {data}; set ERRATA_DATA to the folder of the development data.")

    lm = errata.models.load(chosen.model)
    facts: tuple[Fact, ...] = read_facts(path, limit=chosen.records).facts
    found = pairs_of(measure(lm, facts).facts)
    pairs = [(prompt, target) for prompt, target, _ in found]
    for (prompt, target, x), expected in zip(found, one_at_a_time(lm, pairs), strict=True):
        assert abs(x - expected) <= 1e-4 * expected + 2e-6, (prompt, target, x, expected)
    sizes = [size for size in chosen.batch_tokens if size != BATCH_TOKENS]
    timings = interleaved(
        {
            "one at a time": lambda: one_at_a_time(lm, pairs),
            **{f"batches of {size} tokens": lambda size=size: measure(lm, facts, batch_tokens=size) for size in sizes},
            f"batches of {BATCH_TOKENS} tokens (default)": lambda: measure(lm, facts),
        },
        runs=chosen.runs,
        warm_up=False,  # the check above was one run of each
    )
    report(f"evaluation of {len(facts)} CounterFact records on {lm.name}", timings, work=described(lm, pairs))


if __name__ == "__main__":
    main()
