"""Numbers with their nouns, for messages: "1 fact", "1,200 facts"."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """The number and the noun in the form that goes with it; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
