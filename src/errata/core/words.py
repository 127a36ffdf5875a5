"""Counts in sentences."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """ "1 fact", "1,234 facts"; `plural` where it is not the noun with an s."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
