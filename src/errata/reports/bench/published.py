"""Figures that papers publish, to stand beside ours: theirs, with model and metric named, never mixed with ours."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One published table: whose it is, what was measured, and its rows by method."""

    title: str
    metrics: tuple[str, ...]
    rows: dict[str, tuple[float, ...]]


_COUNTERFACT = Published(
    title="MEMIT (Meng et al. 2023), GPT-J 6B, CounterFact, 10,000 edits",
    metrics=("Score", "ES", "PS", "NS", "GE", "RS"),
    rows={
        "unedited": (22.4, 15.2, 17.7, 83.5, 622.4, 29.4),
        "ft-w": (67.6, 99.4, 77.0, 46.9, 293.9, 15.9),
        "mend": (23.1, 15.7, 18.5, 83.0, 618.4, 31.1),
        "rome (one by one)": (50.3, 50.2, 50.4, 50.2, 589.6, 3.3),
        "memit": (85.8, 98.9, 88.6, 73.7, 619.9, 40.1),
    },
)
_SINGLE = Published(
    title=(
        "Backward Lens (Katz et al. 2024), GPT2-xl, CounterFact, 1,000 single edits: argmax accuracies "
        "(not ES/PS/NS), n-gram entropy, WikiText perplexity"
    ),
    metrics=("prompt accuracy", "paraphrase accuracy", "neighbour accuracy", "GE", "perplexity"),
    rows={
        "unedited": (0.4, 0.4, 11.21, 626.94, 93.56),
        "ft (layer 0)": (96.37, 7.46, 10.12, 618.81, 199.84),
        "ft (layer 35)": (100.0, 46.1, 5.59, 618.50, 103.42),
        "mend": (71.4, 17.6, 7.73, 623.94, 94.96),
        "rome": (99.4, 71.9, 10.91, 622.78, 137.38),
        "memit": (79.4, 40.7, 10.98, 627.18, 93.60),
        "shift": (99.4, 41.55, 6.02, 622.45, 93.66),
    },
)
_ZSRE = Published(
    title=(
        "MEMIT (Meng et al. 2023), GPT-J 6B, zsRE, 10,000 edits; there the true answer is edited in, here `alt`, a new "
        "one: the unedited rows are of different questions"
    ),
    metrics=("zsRE Score", "zsRE efficacy", "zsRE paraphrase", "zsRE specificity"),
    rows={
        "unedited": (26.4, 26.4, 25.8, 27.0),
        "ft-w": (42.1, 69.6, 64.8, 24.1),
        "mend": (20.0, 19.4, 18.6, 22.4),
        "rome (one by one)": (2.6, 21.0, 19.6, 0.9),
        "memit": (50.7, 96.7, 89.7, 26.6),
    },
)
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "counterfact": (_COUNTERFACT, _SINGLE),
    "zsre": (_ZSRE,),
    "relations": (),
}
