"""MEND (Mitchell et al. 2021): a trained editor turns each fact's fine-tuning gradient into an edit, in one pass."""

from collections.abc import Iterator

import torch
from torch import Tensor

from errata.core.outer import GradientSum, OuterSum
from errata.edit.method import Edit, EditTask, Method
from errata.edit.methods.mend.edit_gradients import entering, gradients
from errata.edit.methods.mend.editor import MendEditor
from errata.edit.methods.mend.editor_file import load_editor
from errata.edit.methods.mend.mend_config import MendConfig
from errata.edit.settings.presets import SMOLLM2, preset
from errata.errors import ConfigError
from errata.models import LanguageModel, Place, encode_targets, relative_norm, weight_of
from errata.patches import patches_on
from errata.store.digest import file_digest

_LAST = 3  # the published choice: the last three layers


@torch.no_grad()
def edit_mend(task: EditTask) -> Edit:
    """Every fact's own gradient through the editor; the updates of all facts, of all chunks, are summed."""
    config: MendConfig = task.config
    with task.stage("editor"):
        # Its weights were looked at before any work; in batches, they hold the batches before by now.
        editor, trained, about = load_editor(task.lm, config.path, on_its_weights=False)
    sums = {place: GradientSum(in_one_product=True) for place in editor.places}
    nll: list[Tensor] = []
    with task.stage("gradients"):
        for chunk_nll, factors in _chunks(task, editor, trained.layers[0]):
            nll.append(chunk_nll)
            for place, (left, right) in factors.items():
                sums[place].add_(OuterSum(left.cpu(), right.cpu()))
    updates = {place: total.update(config.scale) for place, total in sums.items()}
    norms = {place: relative_norm(update, weight_of(task.lm, place)) for place, update in updates.items()}
    rates = dict(zip(editor.places, editor.rates.tolist(), strict=True))
    mean_nll = float(torch.cat(nll).mean())
    return Edit(
        updates=updates,
        metrics={
            "layers": [
                {"layer": p.layer, "matrix": p.matrix, "relative_norm": norm, "rate": rates[p]}
                for p, norm in norms.items()
            ],
            "mean_nll_before": mean_nll,
            "editor": about,
        },
        summary=(
            f"NLL of the new targets before: {mean_nll:.2f} nat. ‖ΔW‖/‖W‖: "
            + ", ".join(f"{place} {norm:.4f}" for place, norm in norms.items())
            + ".",
        ),
        warnings=tuple(_warnings(task, trained)),
    )


def _chunks(
    task: EditTask, editor: MendEditor, first: int
) -> Iterator[tuple[Tensor, dict[Place, tuple[Tensor, Tensor]]]]:
    """NLL and factors of `batch_size` facts at a time."""
    lm = task.lm
    rows = [row for row, _ in encode_targets(lm.tokenizer, [fact.wanted for fact in task.facts])]
    with task.progress.stage("gradients", len(rows), "facts") as advance:
        for at in range(0, len(rows), task.batch_size):
            chunk = rows[at : at + task.batch_size]
            (entered,) = entering(lm, [[row.ids[:-1] for row in chunk]], first)
            read = gradients(lm, chunk, entered, editor.places)
            yield read.nll, {place: editor(place, *one.rows()) for place, one in read.by_place.items()}
            advance(len(chunk))


def _warnings(task: EditTask, trained: MendConfig) -> list[str]:
    warnings = []
    if len(task.facts) > trained.facts_at_once:
        warnings.append(
            f"The editor was trained on edits of {trained.facts_at_once} at a time; the updates of {len(task.facts):,} "
            "facts are summed, which it has not learned to balance. Train one with facts_at_once, or lower scale."
        )
    if patches_on(task.lm):
        warnings.append("The editor was trained on the model without the patches that are on it.")
    return warnings


def resolve(lm: LanguageModel, config: MendConfig, given: frozenset[str]) -> tuple[MendConfig, str]:
    """The settings of the editor's own training; ConfigError where there is no editor, or it cannot be used here."""
    if not config.editor:
        raise ConfigError(
            "MEND edits with a trained editor: --set editor=FILE. Train one: errata train mend --facts FILE --out FILE."
        )
    _, trained, _ = load_editor(lm, config.path)
    resolved = trained.replace(editor=config.editor, scale=config.scale, editor_digest=file_digest(config.path))
    fixed = sorted(given - {"editor", "scale"})
    if differ := [name for name in fixed if getattr(resolved, name) != getattr(config, name)]:
        was = ", ".join(f"{name}={getattr(resolved, name)}" for name in differ)
        raise ConfigError(f"The editor {config.editor} was trained with {was}; leave that to it, or train another.")
    return resolved, f"editor {config.path.name}"


def guess(lm: LanguageModel) -> MendConfig:
    """The published hyperparameters for the last three layers."""
    return MendConfig(layers=tuple(range(max(0, lm.num_layers - _LAST), lm.num_layers)))


def _plan(config: MendConfig) -> str:
    layers = ", ".join(map(str, config.layers))
    return f"layers {layers}, editor {config.editor}. To do: one gradient a fact."


MEND_PRESETS = (
    # Of an editor's training: by the loss on 100 held-out CounterFact facts after 20 steps each (rates, rank, layers,
    # matrices), then 25 minutes on one core. As trained, single edits land at the neighbours' cost: half is better.
    preset(
        "SmolLM2-135M",
        "measured on held-out facts, each edited alone",
        SMOLLM2,
        MendConfig(layers=(27, 28, 29), rank=256, learning_rate=1e-4, prompt_weight=0.5, validate_every=50, scale=0.5),
    ),
)


MEND = Method(
    name="mend",
    title="MEND (Mitchell et al. 2021)",
    writes="The fine-tuning gradient of the last layers, its factors changed by a trained editor (errata train mend).",
    paper="Mitchell et al. 2022, Fast Model Editing at Scale, arXiv:2110.11309",
    presets=MEND_PRESETS,
    config_type=MendConfig,
    guess=guess,
    certain=frozenset({"editor"}),
    plan=_plan,
    edit=edit_mend,
    resolve=resolve,
)
