"""A small data set in CounterFact's flattened shape, on a tiny model in one thread."""

import json

import pytest

SUBJECTS = ["Toyota", "Bill Gates", "France", "Microsoft", "Rome", "Paris", "Japan", "Danielle Darrieux"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))


@pytest.fixture
def data(tmp_path):
    """Two relations, by their templates, four records each."""
    records = []
    for i, subject in enumerate(SUBJECTS):
        template, new, true = ("{} is in", "China", "Italy") if i % 2 else ("{} speaks", "French", "English")
        records.append({
            "case_id": i,
            "prompt": template.format(subject),
            "subject": subject,
            "target_new": new,
            "ground_truth": true,
            "rephrase_prompt": "We know that " + template.format(subject),
            "locality_prompt": template.format("The Great Wall"),
            "locality_ground_truth": true,
        })  # fmt: skip
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps(records))
    return path


@pytest.fixture
def text(tmp_path):
    """Held-out text: another one than the second moments'."""
    path = tmp_path / "text.txt"
    path.write_text("\n\n".join(f"The capital of Italy is Rome, and number {i} is in China." for i in range(20)))
    return path


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(f"Tower {i} is in Paris, which is the capital of France." for i in range(40)))
    return path
