"""Which text behind C, how many tokens of it and which context prefixes are the better default of MEMIT on SmolLM2.

    python benchmarks/choose_defaults.py CASE[,CASE...] [--first 4000,4100,4200,4300] [--against CASE]

A case is `prefixes/text/tokens/λ/passes`, such as `preset/shipped/30k/3000/2`; a hundred records from each of `--first`
are edited at once with it. Target values depend on the prefixes alone and are kept by errata, so that texts and λ cost
a solve and a measurement. What is finished is a line of `OUT/cases.jsonl`, so the script goes on where it stopped.
Printed for each case: means over all facts, and how far NS fell from the unedited model's, with half a 95 % interval
over facts, both as shares of neighbours and in nats of the margin between the two answers; with `--against`,
differences from that case, fact by fact.

Texts: `self`, the model's own samples (after BOS); `wiki`, the development data's Wikipedia paragraphs; `prompts`, the
prompts of records from 5,000 on with their true answers; `shipped`, errata's text; any other is `OUT/NAME.jsonl`.
`NAME@32` cuts every document at 32 tokens.
"""

import argparse
import json
import math
import os
import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from errata import measure
from errata.core.progress import SILENT
from errata.edit import EditTask, context_prefixes, find_method, settings_for
from errata.evaluate.drift import Drift
from errata.evaluate.scores import FactScore
from errata.facts import Fact, read_facts
from errata.jobs.bench.data_records import usable
from errata.models import LanguageModel, load, updates_applied
from errata.stats import OWN_SAMPLES, Corpus, SecondMoments, open_corpus, second_moments, shipped_text

HUNDRED = 100
DATA = Path(os.environ.get("ERRATA_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
# Written for this comparison: in each register that prompts come in, none about a fact of the data.
WRITTEN = (
    "The weather had been mild all week, and nobody was in a hurry. ",
    "Therefore the committee decided to meet again in the spring. ",
    "Because the road was closed, they took the longer way home. ",
    "I have been thinking about this question for quite some time. ",
    "You can find more details in the second chapter of the book. ",
)
MORE_WRITTEN = (
    *WRITTEN,
    "According to the report, the results were better than expected. ",
    "She closed the window, sat down and began to read. ",
    "In the following section we describe the method in detail. ",
    "Question: what do you know about this? ",
    "Many people have written about it over the years. ",
)


def prefixes_of(lm: LanguageModel, kind: str, config: Any) -> tuple[str, ...]:
    """The empty prefix and those of a kind: preset, none, written, written10, sampled, sampled10."""
    if kind == "preset":
        return context_prefixes(lm, config)
    if kind.startswith("sampled"):
        count = int(kind.removeprefix("sampled") or 5)
        return context_prefixes(lm, replace(config, prefix_source="sampled", prefixes=count))
    return ("", *{"none": (), "written": WRITTEN, "written10": MORE_WRITTEN}[kind])


def corpus_of(text: str, out: Path) -> Corpus:
    if text == "self":
        return OWN_SAMPLES
    if text == "wiki":
        return open_corpus(DATA / "wikipedia_paragraphs.jsonl")
    if text == "prompts":
        pool = read_facts(DATA / "counterfact.json", limit=10_000).facts[5000:]
        return Corpus.from_texts([f"{fact.text} {fact.target_true}." for fact in pool], name="prompts")
    return shipped_text() if text == "shipped" else open_corpus(out / f"{text}.jsonl")


class Cases:
    def __init__(self, lm: LanguageModel, out: Path) -> None:
        self.lm, self.out, self.file = lm, out, out / "cases.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        self.known = [json.loads(line) for line in self.file.read_text().splitlines()] if self.file.exists() else []
        self.facts: dict[int, tuple[Fact, ...]] = {}
        self.moments: dict[Any, SecondMoments] = {}
        self.unedited: Drift | None = None

    def row(self, case: str, first: int) -> dict[str, Any]:
        """A case's outcome for each of a hundred facts, from the file where it is known."""
        for row in self.known:
            if (row["case"], row["first"]) == (case, first):
                return row
        row = {"case": case, "first": first, **self.tried(case, self.hundred(first))}
        self.known.append(row)
        with self.file.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        return row

    def hundred(self, first: int) -> tuple[Fact, ...]:
        if first not in self.facts:
            pool = read_facts(DATA / "counterfact.json", limit=first + HUNDRED + 20).facts[first:]
            config = settings_for(self.lm, HUNDRED).config
            self.facts[first] = usable(self.lm, pool, HUNDRED, context_prefixes(self.lm, config), print)
        return self.facts[first]

    def tried(self, case: str, facts: tuple[Fact, ...]) -> dict[str, Any]:
        if case == "unedited":
            return outcomes(measure(self.lm, facts).facts)
        kind, text, tokens, prior_weight, passes, *layers = case.split("/")
        fields: dict[str, Any] = {"schedule": "fast", "prior_weight": float(prior_weight), "passes": int(passes)}
        if layers:
            first, last = map(int, layers[0].split("-"))
            fields["layers"] = tuple(range(first, last + 1))
        method = find_method("memit")
        config = settings_for(self.lm, HUNDRED, method="memit", **fields).config
        moments = self.second_moments(text, tokens, config)
        prefixes = prefixes_of(self.lm, kind, config)
        task = EditTask(self.lm, facts, config, prefixes, moments, 32, None, SILENT, lambda _: nullcontext())
        edit = method.edit(task)
        drift = self.drift()
        with updates_applied(self.lm, edit.updates):
            found = outcomes(measure(self.lm, facts).facts)
            return found | {"landing": edit.summary[0], "kl": drift.measure().kl_drift.value}

    def drift(self) -> Drift:
        """On Wikipedia paragraphs beyond those that the text `wiki` takes at 100,000 tokens."""
        if self.unedited is None:
            texts = list(open_corpus(DATA / "wikipedia_paragraphs.jsonl").documents(start=895))
            rows = [self.lm.tokenizer(text)["input_ids"][:128] for text in texts]
            self.unedited = Drift(self.lm, rows)
        return self.unedited

    def second_moments(self, text: str, tokens: str, config: Any) -> SecondMoments:
        count = int(tokens.removesuffix("k")) * 1000
        if (text, count, config.layers) not in self.moments:
            name, _, length = text.partition("@")
            corpus = corpus_of(name, self.out)
            self.moments[text, count, config.layers] = second_moments(
                self.lm, config.layers, corpus=corpus, tokens=count, seed=config.seed, max_length=int(length or 512)
            )
        return self.moments[text, count, config.layers]


def outcomes(scores: Sequence[FactScore]) -> dict[str, Any]:
    """For each fact the margins (nats; > 0 is success) of its prompt, paraphrases and neighbours, and accuracy."""

    def margin(score: Any, *, neighbour: bool = False) -> float:
        difference = score.true.nll - score.new.nll
        return round(-difference if neighbour else difference, 4)

    return {
        "es": [margin(fact.prompt) for fact in scores],
        "ps": [margin(fact.paraphrases[0]) for fact in scores],
        "ns": [margin(fact.neighbours[0], neighbour=True) for fact in scores],
        "said": [bool(fact.prompt.new.correct) for fact in scores],
        "ps_said": [bool(fact.paraphrases[0].new.correct) for fact in scores],
        "ns_said": [bool((true := fact.neighbours[0].true) and true.correct) for fact in scores],
    }


def shown(values: Sequence[float], *, digits: int = 1) -> str:
    mean = statistics.fmean(values)
    half = 1.96 * statistics.stdev(values) / math.sqrt(len(values))
    return f"{mean:6.{digits}f} ±{half:4.{digits}f}"


def joined(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [value for row in rows for value in row[name]]


def percent(rows: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [100.0 * (value > 0) for value in joined(rows, name)]


def show(case: str, rows: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> None:
    es, ps, ns, before = (percent(r, n) for r, n in ((rows, "es"), (rows, "ps"), (rows, "ns"), (base, "ns")))
    lost = [b - a for a, b in zip(ns, before, strict=True)]
    margin = [b - a for a, b in zip(joined(rows, "ns"), joined(base, "ns"), strict=True)]
    each = " ".join(
        f"{statistics.fmean(percent([row], 'ns')) - statistics.fmean(percent([b], 'ns')):+.0f}"
        for row, b in zip(rows, base, strict=True)
    )
    said = 100 * statistics.fmean(joined(rows, "said"))
    ps_said, ns_said = (100 * statistics.fmean(joined(rows, name)) for name in ("ps_said", "ns_said"))
    drifts = [row["kl"] for row in rows if "kl" in row]
    kl = f"KL {statistics.fmean(drifts):.3f}" if drifts else ""
    scores = [statistics.fmean(values) for values in (es, ps, ns)]
    print(
        f"{case:34} Score {statistics.harmonic_mean(scores):5.1f}  "
        + "  ".join(f"{name} {value:5.1f}" for name, value in zip(("ES", "PS", "NS"), scores, strict=True))
        + f"  NS lost {shown(lost)} ({each})  margin lost {shown(margin, digits=2)} nat"
        + f"  said {said:.1f} / {ps_said:.1f} / {ns_said:.1f}  {kl}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Which text, tokens and prefixes are the better default.")
    parser.add_argument("cases")
    parser.add_argument("--first", default="4000,4100,4200,4300")
    parser.add_argument("--against")
    parser.add_argument("--out", type=Path, default=Path("runs/defaults"))
    chosen = parser.parse_args()
    firsts = [int(first) for first in chosen.first.split(",")]
    cases = Cases(load("smollm2"), chosen.out)
    base = [cases.row("unedited", first) for first in firsts]
    show("unedited", base, base)
    names = chosen.cases.split(",")
    for case in names:
        rows = [cases.row(case, first) for first in firsts]
        show(case, rows, base)
        if chosen.against and case != chosen.against:
            other = [cases.row(chosen.against, first) for first in firsts]
            difference = {
                n: [a - b for a, b in zip(percent(rows, n), percent(other, n), strict=True)] for n in ("es", "ps", "ns")
            }
            print(
                "   against: " + "  ".join(f"{n.upper()} {shown(values)}" for n, values in difference.items()),
                flush=True,
            )


if __name__ == "__main__":
    main()
