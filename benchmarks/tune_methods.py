"""Find settings of the editing methods for the embedded model, on records that are not reported on (5,000 and up).

    python benchmarks/tune_methods.py METHOD[,METHOD...] [--singles 50] [--n 100] [--measured 200]

Every combination of a method's settings below edits the same records: `--singles` of them each by itself, and the first
`--n` at once (0 leaves either out), of which the first `--measured` are measured. What is finished is kept as a line of
`runs/tuning/METHOD.jsonl`, so the script goes on where it stopped. Printed: Score, ES, PS, NS.
"""

import argparse
import itertools
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from errata import measure
from errata.edit import EditTask, find_method, settings_for
from errata.errors import ConfigError, NumericsError
from errata.evaluate import Summary, summarize
from errata.facts import Fact, read_facts
from errata.jobs.batches import checked_edit
from errata.jobs.bench.bench_options import BenchOptions
from errata.jobs.bench.data_records import usable
from errata.jobs.workbench import Workbench
from errata.models import LanguageModel, load, updates_applied

_MASS = {"clamp": [1.0], "moment_tokens": [10_000]}
_ROME = {
    "layers": [(5,), (7,), (9,)],
    "clamp": [1.0, 4.0],
    "prefixes": [5],
    "short_prefixes": [0],
    "moment_tokens": [10_000],
}
GRIDS: dict[str, list[dict[str, list[Any]]]] = {
    "memit": [{**_MASS, "layers": [(7, 8, 9)], "prior_weight": [100.0], "passes": [2]}],
    "emmet": [
        {**_MASS, "layers": [(9,)], "softness": [30.0, 100.0, 300.0], "passes": [2]},
        {**_MASS, "layers": [(7, 8, 9)], "softness": [30.0], "passes": [2]},
    ],
    # Published: 2e-2, absolute, and ridge 10. SmolLM2's spectrum is flat: nothing is below 0.03 of its mean.
    "alphaedit": [
        {**_MASS, "layers": [(7, 8, 9)], "threshold": [0.005, 0.01, 0.02], "threshold_unit": ["absolute"],
         "ridge": [0.3, 3.0], "passes": [2]},
    ],
    "pmet": [
        {**_MASS, "layers": [(7, 8, 9)], "prior_weight": [30.0, 300.0], "clamp": [1.0, 4.0], "passes": [2]},
    ],
    "rome": [_ROME],
    "r-rome": [_ROME],
    "shift": [
        {"layers": [(14,), (18,), (22,), (26,)], "learning_rate": [0.06, 0.24]},
        {"layers": [(18,), (22,), (26,)], "margin": [0.5, 2.0], "value": ["target", "contrastive"]},
        {"layers": [(18,), (22,), (26,)], "margin": [0.5, 2.0], "value": ["contrastive"], "whitened": [True],
         "moment_tokens": [10_000]},
        {"layers": [(9,), (14,), (18,)], "margin": [1.0], "value": ["contrastive"], "key": ["subject"],
         "whitened": [True], "moment_tokens": [10_000]},
    ],
    "ft": [{"layers": [(5,), (14,), (22,)], "learning_rate": [5e-4]}],
    "ft-l": [{"layers": [(5,), (14,), (22,)], "learning_rate": [5e-4], "linf": [2e-3]}],
    "ft-w": [{"layers": [(5,), (14,), (22,)], "learning_rate": [5e-4], "weight_decay": [5e-4]}],
    "sgd": [{"layers": [(9,), (14,), (20,), (26,)], "learning_rate": [0.1, 0.3, 1.0]}],
    "adam": [{"layers": [(9,), (14,), (20,), (26,)], "learning_rate": [3e-3, 1e-2]}],
    "mend": [{"editor": ["runs/mend-smollm2.safetensors"], "scale": [0.25, 0.5, 1.0]}],
    "kn": [
        {"layers": [tuple(range(10, 30))], "prefixes": [0], "threshold": [0.2], "max_neurons": [5, 20],
         "strength": [0.5, 2.0], "signed": [True], "steps": [10]},
    ],
}  # fmt: skip


def combinations(grids: Sequence[dict[str, list[Any]]]) -> Iterator[dict[str, Any]]:
    for grid in grids:
        for values in itertools.product(*grid.values()):
            yield dict(zip(grid, values, strict=True))


class Tuning:
    """The records and what is kept between the combinations of all methods."""

    def __init__(self, lm: LanguageModel, facts: Sequence[Fact], measured: int, out: Path) -> None:
        self.lm, self.facts, self.measured, self.out = lm, tuple(facts), measured, out

    def try_all(self, name: str, singles: int, together: int) -> None:
        file = self.out / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        known = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        for settings in combinations(GRIDS[name]):
            row: dict[str, Any] = {"method": name, "settings": json.loads(json.dumps(settings))}
            for count, singly in ((singles, True), (together, False)):
                at = {"facts": count, "singly": singly, "measured": count if singly else min(count, self.measured)}
                if not count or any({**row, **at}.items() <= one.items() for one in known):
                    continue
                found = {**row, **at, **self.tried(name, settings, count, singly)}
                with file.open("a") as lines:
                    lines.write(json.dumps(found) + "\n")
                show(found)

    def tried(self, name: str, settings: dict[str, Any], count: int, singly: bool) -> dict[str, Any]:
        """The metrics of one combination, or why there are none."""
        began, facts = time.monotonic(), self.facts[:count]
        options = BenchOptions(methods=(name,), counts=(1 if singly else count,), settings={name: settings})
        method = find_method(name)
        try:
            config = settings_for(self.lm, 1 if singly else count, method=name, **options.fields(name)).config
            bench = Workbench(self.lm)
            task = bench.task(facts, method, config, bench.moments(method, config))
            scores = list(self._scores(task, method, singly))
        except (NumericsError, ConfigError) as error:
            return {"failed": str(error)}
        summary: Summary = summarize(scores)
        found = summary.to_json()
        return {key: found[key] for key in ("score", "es", "ps", "ns")} | {"seconds": time.monotonic() - began}

    def _scores(self, task: EditTask, method: Any, singly: bool) -> Iterator[Any]:
        if singly:
            method.prepare(task)
        for facts in [(fact,) for fact in task.facts] if singly else [task.facts]:
            edit = checked_edit(method, EditTask(**{**vars(task), "facts": facts}))
            with updates_applied(self.lm, edit.updates):
                yield from measure(self.lm, facts[: self.measured]).facts


def show(row: dict[str, Any]) -> None:
    figures = [row.get(key) for key in ("score", "es", "ps", "ns")]
    shown = " ".join("     –" if value is None else f"{value:6.1f}" for value in figures)
    edits = f"{row['facts']} {'single edits' if row['singly'] else 'at once'}"
    named = " ".join(f"{name}={value}" for name, value in row["settings"].items())
    print(
        f"{row['method']:10} {edits:16} {shown} {row.get('seconds', 0):7.0f} s  {named} {row.get('failed', '')}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Find settings for the embedded model.")
    parser.add_argument("methods")
    parser.add_argument("--n", type=int, default=100)
    parser.add_argument("--singles", type=int, default=50)
    parser.add_argument("--measured", type=int, default=200)
    parser.add_argument("--first", type=int, default=5000)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    chosen = parser.parse_args()
    folder = Path(os.environ.get("ERRATA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    lm = load("smollm2")
    needed = max(chosen.n, chosen.singles)
    pool = read_facts(folder / "counterfact.json", limit=chosen.first + 2 * needed + 20).facts[chosen.first :]
    prefixes = Workbench(lm).prefixes(find_method("memit"), settings_for(lm, 1).config)
    facts = usable(lm, pool, needed, prefixes, print)
    tuning = Tuning(lm, facts, chosen.measured, chosen.out)
    print("method     edits             Score     ES     PS     NS      time  settings")
    for method in chosen.methods.split(","):
        tuning.try_all(method, chosen.singles, chosen.n)


if __name__ == "__main__":
    main()
