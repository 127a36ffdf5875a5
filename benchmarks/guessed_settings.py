"""What an edit by guessed settings does on a model that nobody measured: a few CounterFact records at once.

    python benchmarks/guessed_settings.py gemma3-270m [--first 5000] [--n 16] [--set layers=3-5 ...] [--preset FILE]

C is from the Wikipedia paragraphs beside the records ($ERRATA_DATA).
"""

import argparse
import os
from pathlib import Path
from typing import Any

import errata
from errata.edit import find_method, parse_override, read_preset

_SHOWN = ("es", "ps", "ns", "score", "accuracy", "paraphrase_accuracy", "neighbour_accuracy")


def main() -> None:
    parser = argparse.ArgumentParser(description="An edit by guessed settings.")
    parser.add_argument("model")
    parser.add_argument("--first", type=int, default=5000)
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=100_000)
    parser.add_argument("--set", nargs="*", default=[], dest="settings")
    parser.add_argument("--preset", help="a file of errata tune, in place of the guess")
    chosen = parser.parse_args()
    folder = Path(os.environ.get("ERRATA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    facts = errata.read_facts(folder / "counterfact.json").facts[chosen.first :][: chosen.n]
    lm, memit = errata.load(chosen.model), find_method("memit")
    # All fields are given, for where there is a preset, that would be taken.
    begun = memit.guess(lm) if chosen.preset is None else read_preset(chosen.preset).config
    fields: dict[str, Any] = vars(begun) | {"moment_tokens": chosen.tokens}
    fields |= dict(parse_override(memit.config_type, one) for one in chosen.settings)
    corpus = folder / "wikipedia_paragraphs.jsonl"
    result = errata.edit_facts(lm, facts, corpus=corpus, progress=errata.progress_on(), **fields)
    report = result.report
    print(report["config"])
    for state in ("before", "after"):
        print(f"{state:7s}", *(f"{name} {report[state][name]:.1f}" for name in _SHOWN))
    print(f"said    {report['guard']['said']} of {len(facts)}", *report["summary"], sep="\n")
    print(*report["warnings"], report["failed"] or "", report["seconds"], sep="\n")


if __name__ == "__main__":
    main()
