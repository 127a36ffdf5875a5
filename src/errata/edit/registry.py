"""Every editing method by its name."""

from difflib import get_close_matches

from errata.edit.method import Method
from errata.edit.methods.alphaedit import ALPHAEDIT
from errata.edit.methods.emmet import EMMET
from errata.edit.methods.fine_tuning import FT, FT_L, FT_W
from errata.edit.methods.knowledge_neurons.knowledge_neurons import KNOWLEDGE_NEURONS
from errata.edit.methods.memit import MEMIT
from errata.edit.methods.mend.mend import MEND
from errata.edit.methods.pmet import PMET
from errata.edit.methods.rome import R_ROME, ROME
from errata.edit.methods.shift.shift import SHIFT
from errata.edit.methods.single_step import ADAM, SGD
from errata.errors import ConfigError

_ALL = (
    *(MEMIT, ALPHAEDIT, EMMET, PMET, ROME, R_ROME, KNOWLEDGE_NEURONS, SHIFT),
    *(MEND, SGD, ADAM, FT, FT_L, FT_W),
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def find_method(name: str) -> Method:
    """The method of this name; ConfigError, with the nearest known one, where there is none."""
    if name not in METHODS:
        near = get_close_matches(name.lower(), METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METHODS)}."
        raise ConfigError(f"Unknown method {name!r}; {hint}")
    return METHODS[name]
