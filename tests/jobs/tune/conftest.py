"""Facts whose answers differ, on a tiny model in one thread, with a home of its own."""

import pytest

from errata.facts import Fact, Neighbour

SUBJECTS = ["Toyota", "Bill Gates", "France", "Microsoft", "Rome", "Paris", "Japan", "Danielle Darrieux"]
TEMPLATES = ["{} is in", "{} speaks", "We say that {} likes"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ERRATA_HOME", str(tmp_path / "home"))


@pytest.fixture
def facts():
    """24 of them."""
    made = []
    for i, subject in enumerate(SUBJECTS):
        for j, template in enumerate(TEMPLATES):
            new, true = ("China", "Italy") if (i + j) % 2 else ("French", "English")
            made.append(
                Fact(
                    id=f"{i}-{j}", subject=subject, prompt=template, target_new=new, target_true=true,
                    paraphrases=("I know: " + template.format(subject),),
                    neighbours=(Neighbour(prompt=template.format("The Great Wall"), answer=true),),
                )
            )  # fmt: skip
    return made


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(f"Tower {i} is in Paris, which is the capital of France." for i in range(60)))
    return path
