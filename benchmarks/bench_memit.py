"""Target values, keys and a whole edit on the embedded model, against the plain reference in tests/reference.

    python benchmarks/bench_memit.py targets|keys|edit|schedule [--facts 32] [--sample 6] [--runs 3]

The reference edits one fact at a time, so its time grows with the number of facts and nothing else: it is measured on
`--sample` facts, taken evenly from those sorted by length, and scaled to all. What is compared is checked to be equal.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1] / "tests")]

import errata
from errata.core.allocator import keep_freed_memory
from errata.edit import MemitConfig, context_prefixes, settings_for, solve
from errata.edit.methods.memit import RidgeRule
from errata.edit.values.keys import KeyFrontier
from errata.edit.values.prompt_rows import essence_rows, key_rows, rewriting_rows
from errata.edit.values.targets import learning_rates, target_values
from errata.evaluate import measure
from errata.facts import Fact
from errata.models import LanguageModel, Place, weights_restored
from errata.models.run.packing import packs
from errata.stats import open_corpus, second_moments
from reference import evaluation as slow_evaluation
from reference import memit as slow
from timing import Timing, measured, report

BATCH = 32


def in_batches(facts: Sequence[Fact]) -> list[Sequence[Fact]]:
    return [facts[at : at + BATCH] for at in range(0, len(facts), BATCH)]


def turns(work: Mapping[str, tuple[Callable[[], object], float]], runs: int) -> list[Timing]:
    """Seconds of each piece of work, times its scale, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(runs):
        for name, (run, scale) in work.items():
            seconds[name].append(measured(run) * scale)
            print(f"  {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return [Timing(name, tuple(values)) for name, values in seconds.items()]


def spread(lm: LanguageModel, facts: Sequence[Fact], count: int) -> list[Fact]:
    """`count` facts, evenly from those sorted by how long they are."""
    lengths = {row.fact: len(row.ids) for row in rewriting_rows(lm, facts, ("",))}
    ordered = sorted(range(len(facts)), key=lengths.__getitem__)
    return [facts[ordered[(2 * i + 1) * len(ordered) // (2 * count)]] for i in range(count)]


def products(weights: Sequence[torch.Tensor], rows: int) -> Callable[[], object]:
    """The matrix products of `weights` at `rows` tokens, forward and backward."""
    inputs = [torch.randn(rows, w.shape[1]) for w in weights]
    outputs = [torch.randn(rows, w.shape[0]) for w in weights]

    def run() -> None:
        for w, x, y in zip(weights, inputs, outputs, strict=True):
            torch.mm(x, w.T)
            torch.mm(y, w)

    return run


def seconds_of(run: Callable[[], object], least: float = 0.5) -> float:
    """Median seconds of one call, over calls that take `least` together."""
    run()
    found = [measured(run)]
    while sum(found) < least:
        found.append(measured(run))
    return sorted(found)[len(found) // 2]


def matrices(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in module.parameters() if p.ndim == 2]


def gemm_speed(lm: LanguageModel, rows: int) -> float:
    """GFLOP/s of a block's own matrix products at `rows` tokens."""
    weights = matrices(lm.layers[0])
    return 4 * rows * sum(w.numel() for w in weights) / seconds_of(products(weights, rows)) / 1e9


@dataclass(frozen=True)
class Arithmetic:
    """The matrix products of all updates: how many they are, and how long they take alone, in the shapes they have."""

    gflop: float
    seconds: float
    shapes: str


def arithmetic(lm: LanguageModel, facts: Sequence[Fact], config: MemitConfig, prefixes: Sequence[str]) -> Arithmetic:
    """Layers above the edited one, tokens from the edited one on, forward and backward; padding is no needed work."""
    above, updates = lm.num_layers - 1 - config.layers[-1], len(learning_rates(config))
    block = sum(w.numel() for w in matrices(lm.layers[0]))
    rows = rewriting_rows(lm, facts, prefixes) + essence_rows(lm, facts, len(prefixes))
    lengths = [len(row.ids) - row.edited for row in rows]
    reads = [len(row.targets) or 1 for row in rows]
    gflop = 4 * (sum(lengths) * above * block + sum(reads) * lm.d_model * lm.d_vocab) / 1e9
    seconds, shapes = 0.0, []
    for members in packs(lengths):
        tokens = len(members) * max(lengths[i] for i in members)
        seconds += above * seconds_of(products(matrices(lm.layers[0]), tokens))
        seconds += seconds_of(products(matrices(lm.lm_head), sum(reads[i] for i in members)))
        shapes.append(str(tokens))
    return Arithmetic(gflop * updates, seconds * updates, " + ".join(shapes))


def bench_targets(lm: LanguageModel, facts: list[Fact], config: MemitConfig, sample: int, runs: int) -> None:
    """The same 20 updates for every fact (no early stop), exact and with the fast schedule."""
    config = config.replace(value_steps=21, stop_loss=0.0)
    fast = config.replace(schedule="fast")
    prefixes = context_prefixes(lm, config)
    few = spread(lm, facts, sample)
    for fact in few[:2]:
        value, updates, _ = slow.target_value(lm, fact, config, prefixes)
        found = target_values(lm, [fact], config, prefixes)
        assert updates == int(found.updates[0]) == 20
        assert (found.value[0] - value).norm() <= 1e-3 * value.norm()
    work = [arithmetic(lm, batch, config, prefixes) for batch in in_batches(facts)]
    gflop, alone = (sum(getattr(one, name) for one in work) for name in ("gflop", "seconds"))
    speeds = {rows: round(gemm_speed(lm, rows)) for rows in (16, 32, 64, 128, 256, 512)}
    bound = gflop / max(speeds.values())
    timings = turns(
        {
            "reference": (lambda: [slow.target_value(lm, f, config, prefixes) for f in few], len(facts) / len(few)),
            "fast schedule": (lambda: [target_values(lm, b, fast, prefixes) for b in in_batches(facts)], 1.0),
            "exact": (lambda: [target_values(lm, b, config, prefixes) for b in in_batches(facts)], 1.0),
        },
        runs,
    )
    exact, schedule = timings[2].median, timings[1].median
    report(
        f"target values, {len(facts)} facts, 20 updates", timings, required=6.0,
        fast_schedule_ratio=round(timings[0].median / schedule, 2),
        gemm_gflops_by_rows=speeds,
        arithmetic_bound=f"{gflop:.0f} GFLOP, {bound:.1f} s at the best of these speeds",
        bound_ratio=round(timings[0].median / bound, 2),
        products_alone=f"{alone:.1f} s in the shapes they have ({work[0].shapes} tokens)",
        exact_against_bound=round(exact / bound, 2),
        exact_against_products=round(exact / alone, 2),
    )  # fmt: skip


def bench_keys(lm: LanguageModel, facts: list[Fact], config: MemitConfig, sample: int, runs: int) -> None:
    """Keys of five layers: 5 to 9."""
    layers = tuple(range(5, 10))
    prefixes = context_prefixes(lm, config)
    few = spread(lm, facts, sample)

    def fast(chosen: Sequence[Fact]) -> list[torch.Tensor]:
        frontier = KeyFrontier(lm, key_rows(lm, chosen, prefixes), len(chosen))
        return [frontier.advance(layer, layers[-1])[0] for layer in layers]

    def plain(chosen: Sequence[Fact]) -> list[torch.Tensor]:
        found = []
        for layer in layers:
            found.append(torch.stack([slow.key(lm, fact, layer, prefixes) for fact in chosen]))
            [slow.residual_state(lm, fact, layers[-1]) for fact in chosen]
        return found

    for a, b in zip(fast(few), plain(few), strict=True):
        assert (a - b).norm() <= 1e-3 * b.norm()
    work = {"reference": (lambda: plain(few), len(facts) / len(few)), "fast": (lambda: fast(facts), 1.0)}
    report(f"keys and states of 5 layers, {len(facts)} facts", turns(work, runs), required=10.0)


def bench_edit(lm: LanguageModel, facts: list[Fact], config: MemitConfig, sample: int, runs: int) -> None:
    """A whole edit with its measurements, second moments cached: values, keys and solve, before and after."""
    moments = second_moments(lm, config.layers, corpus=corpus(), tokens=config.moment_tokens)
    prefixes = context_prefixes(lm, config)
    few = spread(lm, facts, sample)

    def fast() -> None:
        with tempfile.TemporaryDirectory() as folder:
            errata.edit_facts(lm, facts, moments=moments, cache=Path(folder))

    def plain() -> None:
        for _ in range(2):
            slow_evaluation.metrics(lm, few)
        values = torch.stack([slow.target_value(lm, fact, config, prefixes)[0] for fact in few])
        with weights_restored(lm, [Place(i, "down") for i in config.layers]):
            slow.edit_(lm, few, config, prefixes, moments.layers, values)

    values = torch.cat([target_values(lm, b, config, prefixes).value for b in in_batches(few)])
    rule = RidgeRule(moments, config.prior_weight)
    ours = solve(lm, few, values, rule, config.layers, prefixes, passes=config.passes)
    with weights_restored(lm, [Place(i, "down") for i in config.layers]):
        theirs, _ = slow.edit_(lm, few, config, prefixes, moments.layers, values)
    for edit in ours.layers:
        assert (edit.update.matrix() - theirs[edit.layer]).norm() <= 1e-3 * theirs[edit.layer].norm()
    measure(lm, few)
    work = {"reference": (plain, len(facts) / len(few)), "fast": (fast, 1.0)}
    report(f"edit of {len(facts)} facts with both measurements, statistics cached", turns(work, runs), required=6.0)


def compare_schedules(lm: LanguageModel, facts: list[Fact]) -> None:
    """The metrics of one edit under each schedule. Target values that are cached are not computed again."""
    for schedule in ("published", "fast"):
        report = errata.edit_facts(lm, facts, schedule=schedule, progress=errata.progress_on()).report
        metrics = {name: round(report["after"][name], 1) for name in ("es", "ps", "ns", "score")}
        print(f"{schedule:10} {metrics}, mean NLL {report['target_values']['mean_nll']:.3f} nat", flush=True)


def data(name: str) -> Path:
    folder = Path(os.environ.get("ERRATA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not (folder / name).is_file():
        sys.exit(f"No {name} in {folder}; set ERRATA_DATA to the folder of the development data.")
    return folder / name


def corpus():
    return open_corpus(data("wikipedia_paragraphs.jsonl"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["targets", "keys", "edit", "schedule"])
    parser.add_argument("--facts", type=int, default=32)
    parser.add_argument("--sample", type=int, default=6)
    parser.add_argument("--runs", type=int, default=3)
    chosen = parser.parse_args()
    keep_freed_memory()
    lm = errata.load("smollm2")
    facts = list(errata.read_facts(data("counterfact.json"), limit=chosen.facts).facts)
    if chosen.what == "schedule":
        compare_schedules(lm, facts)
        return
    config = settings_for(lm).config
    bench = {"targets": bench_targets, "keys": bench_keys, "edit": bench_edit}[chosen.what]
    bench(lm, facts, config, chosen.sample, chosen.runs)


if __name__ == "__main__":
    main()
