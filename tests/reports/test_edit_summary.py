"""What the summary says, against reports made by hand."""

from errata.edit.values import value_report
from errata.reports.edit_summary import metrics_table, summary

NAMES = ("score", "es", "ps", "ns", "accuracy", "paraphrase_accuracy", "neighbour_accuracy")


def metrics(value: float | None, count: int = 3) -> dict:
    return {**dict.fromkeys(NAMES, value), "counts": dict.fromkeys(NAMES[1:], count)}


METRICS = {
    "residual": {"start": 8.0, "end": 2.0, "landed": 0.75},
    "layers": [{"layer": 7, "relative_norm": 0.0123}, {"layer": 8, "relative_norm": 0.5}],
    "target_values": {
        "mean_nll_before": 9.5,
        "mean_nll": 0.25,
        "mean_short_nll": 0.5,
        "mean_updates": 11.5,
        "converged": 1200,
        "second_tries": 2,
        "second_tries_found": 1,
    },
}


VERDICT = {"facts": 1234, "said": 1200, "preferred": 30, "not_learned": 4, "neighbours": 10, "neighbours_kept": 9}


def report(**changes: object) -> dict:
    return {
        "facts": 1234,
        "patch": "abc",
        "model": {"name": "tiny"},
        "config_source": "a preset",
        "summary": (value_report.landing_summary(METRICS), value_report.value_summary(METRICS["target_values"], 1234)),
        "second_moments": {"tokens": 10000, "source": "corpus.txt"},
        "seconds": {"total": 61.23},
        "peak_memory_mib": 2048,
        "before": metrics(0.0),
        "after": metrics(99.95),
        "verdict": {**VERDICT, "of_facts": []},
        "failed": None,
        "warnings": [],
        **changes,
    }


def told(**changes: object) -> str:
    return summary(report(**changes))


def test_every_number_is_there() -> None:
    text = told()
    for part in (
        "1,234 facts in tiny, patch abc (a preset).",
        "Residual at layer 8: 8 before, 2 after (75 % landed). ‖ΔW‖/‖W‖ by layer: 7: 0.012, 8: 0.500.",
        "NLL 9.50 → 0.25 nat in 11.5 updates (0.50",
        "2 facts needed a second try, 1 of them found a value.",
        "Second moments: 10,000 tokens of corpus.txt.",
        "Time 61.2 s, peak memory 2,048 MiB.",
    ):
        assert part in text
    assert "Warning" not in text


def test_without_measurements_there_is_no_table() -> None:
    text = told(before=None, after=None, verdict=None)
    assert "| Score" not in text
    assert text.startswith("Not measured: ")
    assert "1,234 facts in tiny" in text


def test_the_sentence_comes_first_and_the_tables_only_when_asked_for() -> None:
    sentence = "1,200 of 1,234 facts are said, 30 only preferred, 4 not learned; 9 of 10 neighbours kept their answer."
    assert told().startswith(sentence + "\n")
    short = summary(report(warnings=["look"]), verbose=False)
    assert short == f"{sentence}\n\nWarning: look"


def test_a_failed_edit_has_no_score_and_says_so_first() -> None:
    text = told(failed="The update is out of proportion.")
    assert text.startswith("FAILED: The update is out of proportion.\n")
    assert "| Score" not in text
    assert "| ES" in text
    assert "| Score" in told()


def test_warnings_are_shown_up_to_a_number() -> None:
    assert told(warnings=["first", "second"]).endswith("\n\nWarning: first\n\nWarning: second")
    many = told(warnings=[f"number {i}" for i in range(25)])
    assert "Warning: number 19" in many
    assert "number 20" not in many
    assert many.endswith("... and 5 more warnings in report.json")


def test_metrics_that_cannot_be_had_are_dashes() -> None:
    before, after = metrics(None, 0), metrics(12.34)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in metrics_table(before, after).splitlines()[2:]]
    assert len(rows) == len(NAMES)
    assert all(row[1:3] == ["–", "12.3"] for row in rows)
    assert [row[3] for row in rows] == ["", *["0"] * 6]
