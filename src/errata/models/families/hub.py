"""The hub of models, asked without waiting: whether it answers, and what lies in its cache on this machine."""

import queue
import threading
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

from errata.errors import ModelNotFoundError

# A machine without a network mostly knows at once; where packets are dropped, this is how long one waits to hear it.
_SECONDS = 1.5


def hub_source(name: str, revision: str | None, embedded: Iterable[str]) -> str:
    """From where transformers is to load a hub id: from the id itself, or offline from its folder in the hub's cache.

    (With an id and `local_files_only` transformers still asks the hub for some files, with retries.) Raises
    ModelNotFoundError where there is neither: hub clients say less, and only after many retries.
    """
    cached = _cached(name, revision)
    near = get_close_matches(name, list(embedded), n=1, cutoff=0.75)
    if near and not cached and "/" not in name:
        raise ModelNotFoundError(
            f"No model {name!r}; did you mean {near[0]!r}? Otherwise give a local folder or a hub id (owner/name)."
        )
    if _is_reachable():
        return name
    if cached:
        return cached
    raise ModelNotFoundError(
        f"No model {name!r}: not an embedded name ({', '.join(embedded)}), not a folder, not in the hub's cache here, "
        f"and the hub ({_endpoint()}) cannot be reached. Correct the name, or connect to the network."
    )


def _cached(name: str, revision: str | None) -> str | None:
    """The folder of a model in the hub's cache on this machine."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "config.json", revision=revision)
    except ValueError:  # no id that a hub could have
        return None
    return str(Path(found).parent) if isinstance(found, str) else None


def _is_reachable() -> bool:
    """Whether the hub answers at all, whatever it says; through the proxy where one is set."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answers: queue.Queue[bool] = queue.Queue()

    def knock() -> None:
        from huggingface_hub import get_session

        try:
            get_session().head(_endpoint(), timeout=_SECONDS)
            answers.put(True)
        except Exception:  # whatever the client or the system raises: there is no answer
            answers.put(False)

    # A thread, for no timeout of the client covers the look-up of the name.
    threading.Thread(target=knock, daemon=True).start()
    try:
        return answers.get(timeout=_SECONDS)
    except queue.Empty:
        return False


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
