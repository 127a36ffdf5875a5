"""Find settings of the editing methods for the embedded model, on records that are not reported on (5,000 and up).

    python benchmarks/tune_methods.py METHOD[,METHOD...] [--n 50] [--singles 25] [--first 5000] [--out runs/tuning]

Every combination of a method's grid below is a benchmark of its own over the same records; what is finished is kept, so
the script goes on where it stopped. Printed: Score, ES, PS, NS of single edits and of `--n` edits at once.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from errata.jobs.bench.job import run_bench
from errata.jobs.bench.options import BenchOptions
from errata.jobs.bench.report import figures_of
from errata.models import load

_ROME = {"layers": [(5,), (7,), (9,)], "clamp": [1.0, 2.0, 4.0], "prefixes": [5], "short_prefixes": [0],
         "moment_tokens": [10_000]}  # fmt: skip
GRIDS: dict[str, list[dict[str, list[Any]]]] = {
    "memit": [{"layers": [(7, 8, 9)]}],
    "emmet": [
        {"layers": [(9,), (8,)], "softness": [30.0, 300.0], "clamp": [1.0], "passes": [1, 2],
         "moment_tokens": [10_000]},
        {"layers": [(7, 8, 9)], "softness": [100.0], "clamp": [1.0], "passes": [2], "moment_tokens": [10_000]},
    ],
    # Published: 2e-2, absolute, and ridge 10. SmolLM2's spectrum is flat: nothing is below 0.03 of its mean.
    "alphaedit": [
        {"layers": [(7, 8, 9)], "threshold": [0.01, 0.02, 0.04], "threshold_unit": ["absolute"],
         "ridge": [0.3, 3.0, 10.0], "clamp": [1.0], "passes": [2], "moment_tokens": [10_000]},
        {"layers": [(7, 8, 9)], "threshold": [0.02], "threshold_unit": ["absolute"], "ridge": [3.0], "clamp": [1.0],
         "passes": [1], "moment_tokens": [10_000]},
    ],
    "pmet": [
        {"layers": [(7, 8, 9), (5, 6, 7, 8, 9)], "prior_weight": [30.0, 300.0], "clamp": [2.0], "passes": [1, 2],
         "moment_tokens": [10_000]},
        {"layers": [(7, 8, 9)], "prior_weight": [100.0], "clamp": [1.0, 4.0], "passes": [2], "moment_tokens": [10_000]},
    ],
    "rome": [_ROME],
    "r-rome": [_ROME],
    "shift": [
        {"layers": [(14,), (18,), (22,), (26,)], "learning_rate": [0.03, 0.06, 0.12, 0.24], "value": ["target"]},
        {"layers": [(18,), (22,), (26,)], "margin": [0.5, 2.0], "value": ["target", "contrastive"]},
        {"layers": [(18,), (22,), (26,)], "margin": [0.5, 2.0], "value": ["target", "contrastive"], "whitened": [True],
         "moment_tokens": [10_000]},
        {"layers": [(10,), (14,), (18,)], "margin": [0.5, 2.0], "key": ["subject"], "whitened": [True],
         "moment_tokens": [10_000]},
    ],
    "ft": [{"layers": [(5,), (9,), (14,), (20,)], "learning_rate": [5e-4, 2e-3]}],
    "ft-l": [{"layers": [(5,), (9,), (14,), (20,)], "learning_rate": [2e-3], "linf": [5e-4, 2e-3, 5e-3]}],
    "ft-w": [{"layers": [(5,), (9,), (14,), (20,)], "learning_rate": [2e-4, 5e-4], "weight_decay": [5e-4]}],
    "sgd": [{"layers": [(9,), (14,), (20,), (26,)], "learning_rate": [0.01, 0.03, 0.1, 0.3]}],
    "adam": [{"layers": [(9,), (14,), (20,), (26,)], "learning_rate": [3e-4, 1e-3, 3e-3]}],
    "kn": [
        {"layers": [tuple(range(10, 30))], "prefixes": [0], "threshold": [0.2], "max_neurons": [5, 20],
         "strength": [0.5, 2.0], "signed": [True], "steps": [10]},
    ],
}  # fmt: skip


def combinations(grid: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]


def main() -> None:
    parser = argparse.ArgumentParser(description="Find settings for the embedded model.")
    parser.add_argument("methods")
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--singles", type=int, default=25)
    parser.add_argument("--first", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    chosen = parser.parse_args()
    folder = Path(os.environ.get("ERRATA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    lm = load("smollm2")
    print("method      edits            Score    ES     PS     NS   settings")
    for method in chosen.methods.split(","):
        for settings in itertools.chain.from_iterable(map(combinations, GRIDS[method])):
            options = BenchOptions(
                methods=(method,), counts=(1, chosen.n), singles=chosen.singles, first=chosen.first,
                settings={method: settings}, text_tokens=0,
            )  # fmt: skip
            result = run_bench(lm, folder / "counterfact.json", chosen.out / method, options=options)
            for cell, one in result.cells:
                if cell.method == method:
                    found = figures_of(one)
                    figures = [found[key].value if one.outcomes else None for key in ("score", "es", "ps", "ns")]
                    shown = " ".join("     –" if value is None else f"{value:6.1f}" for value in figures)
                    named = " ".join(f"{name}={value}" for name, value in settings.items())
                    print(f"{method:11} {cell.label:16} {shown}   {named} {one.mark}")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
