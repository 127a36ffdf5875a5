"""Hyperparameters of MEND: of the editor, of its training, and the file an edit takes."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from errata.edit.settings.method_config import MethodConfig
from errata.errors import ConfigError
from errata.models import MLP_MATRICES, LanguageModel, Place, mlp_matrices

# What an edit may choose; everything else is the training's and comes from the editor's file.
EDIT_FIELDS = frozenset({"editor", "editor_digest", "scale"})


@dataclass(frozen=True, kw_only=True)
class MendConfig(MethodConfig):
    """Hyperparameters of MEND (Mitchell et al. 2021); the defaults are those of its public code.

    For an edit:

    editor: the file that `errata train mend` wrote.  editor_digest: of its content; filled in.
    scale: a factor on every update (1 as trained).

    For training, with the loss edit_weight · ((1 − w) · NLL(paraphrase) + w · NLL(prompt)) + locality_weight ·
    KL(base ‖ edited), w being prompt_weight:

    layers: those that the editor can write, ascending, 0-based.  matrices: names as up,down, or "mlp", all that the
    model's MLP has; with the gate SmolLM2's validation was no better, for half as many matrices again.
    rank: of the editor's residual layers, capped by their width.  depth: their number.
    start_rate: the editing rate of each matrix at the start.  rate_learning_rate: at which Adam learns those rates.
    learning_rate: of Adam on the networks.
    edit_weight: of what is to be said in the loss.  locality_weight: of what must not move.
    prompt_weight: the prompt's share beside its paraphrase; the public code has 0, and on CounterFact the prompt itself
    is then answered less and less.
    batch: facts behind one step.  facts_at_once: how many of them are edited together into one model.  clip: bound on
    the gradient's norm.  validate_every: steps from one validation to the next.  patience: steps without a better
    validation after which training ends.  text_tokens: length of unrelated texts.
    seed: of the start, the order of the facts and those held out.
    """

    title: ClassVar[str] = "MEND"

    editor: str = ""
    editor_digest: str = ""
    scale: float = 1.0
    matrices: str = "up,down"
    rank: int = 1920
    depth: int = 2
    start_rate: float = 1e-4
    learning_rate: float = 1e-6
    rate_learning_rate: float = 1e-4
    edit_weight: float = 0.1
    prompt_weight: float = 0.0
    locality_weight: float = 1.0
    batch: int = 10
    facts_at_once: int = 1
    clip: float = 100.0
    validate_every: int = 500
    patience: int = 2000
    text_tokens: int = 64
    seed: int = 0

    def domain_checks(self) -> list[tuple[str, bool]]:
        whole = ("rank", "depth", "batch", "facts_at_once", "validate_every", "patience")
        rates = ("learning_rate", "rate_learning_rate", "edit_weight", "clip")
        return [
            *[(f"{name} must be at least 1, found {getattr(self, name)}", getattr(self, name) < 1) for name in whole],
            *[(f"{name} must be positive, found {getattr(self, name)}", getattr(self, name) <= 0) for name in rates],
            (f"prompt_weight must be 0–1, found {self.prompt_weight}", not 0 <= self.prompt_weight <= 1),
            (f"scale must be positive, found {self.scale}; 1 is the edit as trained", self.scale <= 0),
            (f"locality_weight must be ≥ 0, found {self.locality_weight}", self.locality_weight < 0),
            (f"text_tokens must be at least 2, found {self.text_tokens}", self.text_tokens < 2),
            (f"facts_at_once must divide batch, found {self.facts_at_once} and {self.batch}", self._uneven()),
            (f"matrices must be 'mlp' or some of {', '.join(MLP_MATRICES)}, found {self.matrices!r}", self._unknown()),
            # Here, because a configuration is made before the model is loaded.
            (f"editor={self.editor!r}: there is no such file", bool(self.editor) and not self.path.is_file()),
        ]

    @property
    def path(self) -> Path:
        """The editor's file."""
        return Path(os.path.expanduser(self.editor))

    def training(self) -> dict[str, Any]:
        """The fields that an editor's training depends on, as plain JSON."""
        fields = {name: value for name, value in asdict(self).items() if name not in EDIT_FIELDS}
        return {**fields, "layers": list(self.layers)}

    def _names(self) -> list[str]:
        return [name.strip() for name in self.matrices.split(",")]

    def _unknown(self) -> bool:
        names = self._names()
        return self.matrices != "mlp" and (not set(names) <= set(MLP_MATRICES) or len(set(names)) < len(names))

    def _uneven(self) -> bool:
        return self.facts_at_once > 0 and bool(self.batch % self.facts_at_once)


def places_of(lm: LanguageModel, config: MendConfig) -> tuple[Place, ...]:
    """The edited matrices in the order of the forward pass; ConfigError where the model lacks one."""
    config.check_layers(lm.num_layers, lm.name)
    names = mlp_matrices(lm.family)
    wanted = names if config.matrices == "mlp" else config._names()
    if missing := [name for name in wanted if name not in names]:
        raise ConfigError(f"matrices={config.matrices!r}: {lm.name}'s MLP has {', '.join(names)}, no {missing[0]}.")
    return tuple(Place(layer, name) for layer in config.layers for name in names if name in wanted)
