"""The command `errata lens`: a prompt in, a grid on the terminal and the asked-for files out."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.inputs import typed_prompt
from errata.cli.options import Chat, Device, PatchDtype, PatchModel, Revision
from errata.cli.screen import screen_width, shows_colour
from errata.cli.session import ModelChoice, open_patched, output_paths
from errata.errors import ConfigError

# Losses of a target that may be the model's own answer.
_TARGET_LOSSES = ("first", "target")
# Options that mean something under one loss only.
_LOSS_OPTIONS = {"against": "logit-difference", "reference": "kl"}


def lens(
    prompt: Annotated[list[str], typer.Argument(help="The beginning of a text, in quotes.")],
    target: Annotated[
        str | None, typer.Option("--target", "-t", help="What should come next; default: the model's own answer.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Marks the prompt's segments.")] = None,
    matrix: Annotated[
        str,
        typer.Option(help="gate, up, down, q, k, v, o; or a stream of the forward pass: residual, mlp, attention."),
    ] = "down",
    loss: Annotated[str, typer.Option(help="first, target, all, logit-difference or kl.")] = "first",
    against: Annotated[
        str | None, typer.Option(help="With logit-difference: the other answer (default: the model's own).")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="With kl: the prompt whose next token is the aim.")] = None,
    mode: Annotated[str, typer.Option(help="paper, normalised, eps-free, linear or raw.")] = "paper",
    sign: Annotated[str, typer.Option(help="vjp (δ), or -vjp (the direction of an update).")] = "vjp",
    top: Annotated[int, typer.Option(help="Tokens kept for each cell, at either end.")] = 10,
    track: Annotated[
        list[str] | None, typer.Option(help="Follow this token's rank (repeatable); default: target and own answer.")
    ] = None,
    max_layers: Annotated[int | None, typer.Option("--max-layers", help="Show so many layers on the terminal.")] = None,
    patch: Annotated[Path | None, typer.Option("--patch", "-p", help="Look at the model with this patch on.")] = None,
    chat: Chat = False,
    html: Annotated[Path | None, typer.Option(help="Interactive page, one offline file.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="The grid as a figure.")] = None,
    png: Annotated[Path | None, typer.Option(help="The grid as a picture.")] = None,
    json: Annotated[Path | None, typer.Option(help="Every cell as JSON.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Every cell as a row of a Parquet file.")] = None,
    model: PatchModel = None,
    device: Device = "cpu",
    dtype: PatchDtype = None,
    revision: Revision = None,
) -> None:
    """Backward Lens: what the gradient of a prompt says, token by token and layer by layer."""
    text = typed_prompt(prompt, "lens")
    outputs = output_paths(html=html, pdf=pdf, png=png, json=json, parquet=parquet)
    _check_inputs(text, outputs, max_layers)
    _check_sign(sign, matrix)
    _check_loss(loss, against=against, reference=reference)
    lm, opened = open_patched(patch, ModelChoice(model=model, device=device, dtype=dtype, revision=revision))
    from errata.jobs.lens_job import own_target
    from errata.lens import backward_lens
    from errata.lens.table import FORWARD_SOURCES
    from errata.models import mlp_matrices
    from errata.reports.lens_report import lens_text, write_lens

    with opened.applied(lm) if opened else nullcontext():
        if target is None and loss in _TARGET_LOSSES:
            target, probability = own_target(lm, text)
            said = f"No --target was given: it is the model's own answer, {target!r} ({probability:.1%})."
            typer.echo(f"{said} --target takes another.\n")
        tapped = None if matrix in FORWARD_SOURCES else sorted({*mlp_matrices(lm.family), "o", matrix})
        result = backward_lens(
            lm, text, target, matrices=tapped,
            loss=loss, mode=mode, subject=subject, against=against, reference=reference, chat=chat,
        )  # fmt: skip
        if matrix in FORWARD_SOURCES:
            table = result.forward(matrix, top=top, track=track or None)
        else:
            table = result.project(matrix, sign=sign, top=top, track=track or None)
    typer.echo(lens_text(result, table, width=screen_width(), colour=shows_colour(), max_layers=max_layers))
    for path in write_lens(result, table, outputs, track=track or None, top=top):
        typer.echo(f"Written: {path}")


def _check_inputs(prompt: str, outputs: dict[str, Path], max_layers: int | None) -> None:
    from errata.facts.checks import check_prompt
    from errata.reports.output_files import check_outputs

    check_prompt(prompt)
    check_outputs(outputs)
    if max_layers is not None and max_layers < 2:
        raise ConfigError(f"--max-layers must be at least 2, found {max_layers}.")


def _check_sign(sign: str, matrix: str) -> None:
    from errata.lens.table import FORWARD_SOURCES

    if sign not in ("vjp", "-vjp"):
        raise ConfigError(f"--sign {sign}: choose 'vjp' or '-vjp'.")
    if sign == "-vjp" and matrix in FORWARD_SOURCES:
        raise ConfigError(f"--sign -vjp turns gradients round; {matrix} is of the forward pass. Leave it out.")


def _check_loss(loss: str, **given: str | None) -> None:
    """ConfigError where an option is given that means nothing under this loss."""
    for name, value in given.items():
        if value is not None and loss != _LOSS_OPTIONS[name]:
            raise ConfigError(f"--{name} belongs to --loss {_LOSS_OPTIONS[name]}; the loss is {loss}.")
