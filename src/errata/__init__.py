"""errata: see what a language model's gradients say, and correct what it believes.

Names are imported on first use, so that `import errata` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from errata.edit import MemitConfig, settings_for
    from errata.errors import ErrataError
    from errata.evaluate import Measurement, measure
    from errata.facts import Fact, Neighbour, read_facts, require, write_facts
    from errata.jobs.ask_job import ask
    from errata.jobs.edit_job import EditResult, edit_facts
    from errata.jobs.eval_job import evaluate_patch
    from errata.jobs.evaluation import Evaluation
    from errata.jobs.terminal_progress import progress_on
    from errata.jobs.trace_job import trace_facts
    from errata.jobs.train_job import train_mend
    from errata.lens import BackwardLens, LensTable, backward_lens, backward_lenses
    from errata.models import LanguageModel, load, wrap
    from errata.patches import Patch
    from errata.stats import SecondMoments, second_moments
    from errata.tracing import AverageTrace, Trace, propose_layers, trace

__version__ = "0.1.0"

_HOMES = {
    "errata.edit": ("MemitConfig", "settings_for"),
    "errata.errors": ("ErrataError",),
    "errata.evaluate": ("Measurement", "measure"),
    "errata.facts": ("Fact", "Neighbour", "read_facts", "require", "write_facts"),
    "errata.jobs.ask_job": ("ask",),
    "errata.jobs.edit_job": ("EditResult", "edit_facts"),
    "errata.jobs.eval_job": ("evaluate_patch",),
    "errata.jobs.evaluation": ("Evaluation",),
    "errata.jobs.terminal_progress": ("progress_on",),
    "errata.jobs.trace_job": ("trace_facts",),
    "errata.jobs.train_job": ("train_mend",),
    "errata.lens": ("BackwardLens", "LensTable", "backward_lens", "backward_lenses"),
    "errata.models": ("LanguageModel", "load", "wrap"),
    "errata.patches": ("Patch",),
    "errata.stats": ("SecondMoments", "second_moments"),
    "errata.tracing": ("AverageTrace", "Trace", "propose_layers", "trace"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [  # noqa: RUF022 (grouped by the order of work)
    "load",
    "wrap",
    "LanguageModel",
    "Fact",
    "Neighbour",
    "read_facts",
    "require",
    "write_facts",
    "backward_lens",
    "backward_lenses",
    "BackwardLens",
    "LensTable",
    "trace",
    "trace_facts",
    "Trace",
    "AverageTrace",
    "propose_layers",
    "MemitConfig",
    "settings_for",
    "second_moments",
    "SecondMoments",
    "train_mend",
    "edit_facts",
    "EditResult",
    "Patch",
    "ask",
    "measure",
    "Measurement",
    "evaluate_patch",
    "Evaluation",
    "progress_on",
    "ErrataError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'errata' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
