"""The back end that needs nothing: parts one after another in this process, on the state that it holds."""

from collections.abc import Iterator, Sequence

from errata.core.parts import Advance, Part, Payload, Result, State, Work


class Local:
    """One part after another. A part's work tells its progress itself."""

    def map(
        self, work: Work[State, Payload, Result], state: State, parts: Sequence[Part[Payload]], advance: Advance
    ) -> Iterator[tuple[int, Result]]:
        """As `Backend` says, in the order of the parts."""
        for number, part in enumerate(parts):
            yield number, work(state, part.payload, advance)


LOCAL = Local()
