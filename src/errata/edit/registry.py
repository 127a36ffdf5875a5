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
from errata.edit.settings.presets import Preset
from errata.edit.settings.search_space import SearchSpace
from errata.errors import ConfigError

_ALL = (
    MEMIT,
    ALPHAEDIT,
    EMMET,
    PMET,
    ROME,
    R_ROME,
    KNOWLEDGE_NEURONS,
    SHIFT,
    MEND,
    SGD,
    ADAM,
    FT,
    FT_L,
    FT_W,
)
METHODS: dict[str, Method] = {method.name: method for method in _ALL}


def find_method(name: str) -> Method:
    """The method of this name; ConfigError, with the nearest known one, where there is none."""
    if name not in METHODS:
        near = get_close_matches(name.lower(), METHODS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(METHODS)}."
        raise ConfigError(f"Unknown method {name!r}; {hint}")
    return METHODS[name]


def presets_of(name: str) -> tuple[Preset, ...]:
    """What somebody measured of a method, by its name: nothing of one that is not registered."""
    return METHODS[name].presets if name in METHODS else ()


def space_of(name: str) -> SearchSpace:
    """What is tried of a method; ConfigError for an unknown one and for one that says nothing of it."""
    space = find_method(name).search_space
    if space is None:
        tuned = [method.name for method in METHODS.values() if method.search_space is not None]
        raise ConfigError(
            f"What to try of {name} is not known; errata tune knows {', '.join(tuned)}. (A search_space in its "
            "Method, in edit/methods, makes another.)"
        )
    return space
