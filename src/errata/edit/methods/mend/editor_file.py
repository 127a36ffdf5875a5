"""An editor on disk: one safetensors file that says for which weights, layers and matrices it was trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from errata.edit.methods.mend.editor import MendEditor
from errata.edit.methods.mend.mend_config import MendConfig, places_of
from errata.errors import ConfigError, CorruptFileError
from errata.models import LanguageModel, config_digest, weight_of
from errata.patches import patches_on
from errata.store.tensors import load_tensors, save_tensors

FORMAT = "errata MEND editor 1"


def new_editor(lm: LanguageModel, config: MendConfig) -> MendEditor:
    """An untrained editor for the configuration's matrices of `lm`, on its device."""
    places = places_of(lm, config)
    shapes = {place: (weight_of(lm, place).shape[0], weight_of(lm, place).shape[1]) for place in places}
    editor = MendEditor(shapes, rank=config.rank, depth=config.depth, start_rate=config.start_rate, seed=config.seed)
    return editor.to(lm.device)


def identity(lm: LanguageModel) -> dict[str, str]:
    """What an editor is trained for: these weights in this architecture."""
    return {"base_digest": lm.digest(), "config_digest": config_digest(lm)}


def save_editor(
    path: Path, editor: MendEditor, lm: LanguageModel, config: MendConfig, training: Mapping[str, Any]
) -> None:
    """Write the editor at once; `training` says how it came about, as plain JSON. Raises StorageError."""
    made = {"format": FORMAT, "model": lm.name, **identity(lm), "config": config.training(), "training": dict(training)}
    save_tensors(path, editor.tensors(), made)


def load_editor(
    lm: LanguageModel, path: Path, *, on_its_weights: bool = True
) -> tuple[MendEditor, MendConfig, dict[str, Any]]:
    """The editor at `path`, the configuration it was trained with, and what is known of its training.

    Raises ConfigError where the file is no editor or one for other weights, CorruptFileError where it is damaged.
    """
    tensors, made = load_tensors(path)
    if made.get("format") != FORMAT:
        raise ConfigError(f"{path} is not a MEND editor of this errata; `errata train mend` makes one.")
    if on_its_weights:
        _expect_trained_on(lm, path, made)
    try:
        fields = made["config"]
        config = MendConfig(**{**fields, "layers": tuple(fields["layers"])})
        editor = new_editor(lm, config)
        editor.load_tensors_(tensors)
    except (KeyError, TypeError, ConfigError) as error:
        raise CorruptFileError(f"{path} is damaged: {error}. Train the editor again.") from error
    return editor.requires_grad_(False), config, made["training"]


def _expect_trained_on(lm: LanguageModel, path: Path, made: Mapping[str, Any]) -> None:
    """Patches may be on the model: edits follow one another on weights that move little."""
    current = identity(lm)
    base = patches_on(lm).base_digest or current["base_digest"]
    if {name: made.get(name) for name in current} != {**current, "base_digest": base}:
        raise ConfigError(
            f"The editor {path} was trained for {made.get('model')} (weights {str(made.get('base_digest'))[:12]}), but "
            f"{lm.name} in {str(lm.dtype).removeprefix('torch.')} has weights {base[:12]}. Load that model in the "
            "dtype of the training, or train an editor for this one: errata train mend."
        )
