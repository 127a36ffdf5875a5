"""Commands that look into a model: the Backward Lens and causal tracing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from errata.cli.options import (
    Chat,
    Device,
    Dtype,
    Facts,
    Field,
    Format,
    Model,
    PatchDtype,
    PatchModel,
    Quiet,
    Revision,
    SkipBad,
)


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
    from errata.cli.lens import run_lens
    from errata.cli.prompts import typed_prompt

    outputs = {"html": html, "pdf": pdf, "png": png, "json": json, "parquet": parquet}
    run_lens(
        typed_prompt(prompt, "lens"),
        target,
        patch_folder=patch,
        options={
            "loss": loss,
            "mode": mode,
            "subject": subject,
            "against": against,
            "reference": reference,
            "chat": chat,
        },
        show={"matrix": matrix, "sign": sign, "top": top, "track": track, "max_layers": max_layers},
        outputs={kind: path for kind, path in outputs.items() if path is not None},
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
    )


def trace(
    prompt: Annotated[
        list[str] | None, typer.Argument(help="The beginning of a text, in quotes; or give --facts.")
    ] = None,
    subject: Annotated[str | None, typer.Option(help="Of a prompt: the words in it to corrupt.")] = None,
    answer: Annotated[
        str | None, typer.Option("--answer", "-a", help="What comes next; default: the model's own next token.")
    ] = None,
    facts: Annotated[
        Path | None, typer.Option("--facts", "-f", help="Trace the facts of a file that the model knows.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", "-n", help="Of the facts: the first N records.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Of facts: folder for tables, figures and summary.md.")
    ] = None,
    kinds: Annotated[str, typer.Option(help="What is restored, of hidden,mlp,attention.")] = "hidden,mlp,attention",
    tokens: Annotated[
        str,
        typer.Option(help='Where: all, or "last subject": its last token alone, enough to propose layers.'),
    ] = "all",
    severed: Annotated[
        bool, typer.Option(help="Also restore hidden states while the token's MLPs, or attention, stay corrupted.")
    ] = True,
    samples: Annotated[int, typer.Option(help="Corrupted runs.")] = 10,
    noise: Annotated[float, typer.Option(help="In standard deviations of the subjects' embeddings.")] = 3.0,
    window: Annotated[int, typer.Option(help="Layers whose MLPs or attentions are restored together.")] = 10,
    corruption: Annotated[str, typer.Option(help="gaussian, uniform, swap (another subject) or zero.")] = "gaussian",
    swap: Annotated[
        list[str] | None, typer.Option(help="Of a prompt, with --corruption swap: another subject (repeatable).")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    exact: Annotated[bool, typer.Option(help="--no-exact: the attribution only, one backward a prompt.")] = True,
    batch_tokens: Annotated[int, typer.Option("--batch-tokens", help="Tokens run at a time: memory and speed.")] = 2048,
    lens: Annotated[
        bool | None,
        typer.Option("--lens/--no-lens", help="The Backward Lens beside it in --html (default: yes)."),
    ] = None,
    max_layers: Annotated[int | None, typer.Option("--max-layers", help="Show so many layers on the terminal.")] = None,
    patch: Annotated[Path | None, typer.Option("--patch", "-p", help="Trace the model with this patch on.")] = None,
    chat: Chat = False,
    html: Annotated[Path | None, typer.Option(help="Interactive page, one offline file.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="The grids as a figure.")] = None,
    png: Annotated[Path | None, typer.Option(help="The grids as a picture.")] = None,
    json: Annotated[Path | None, typer.Option(help="Every number as JSON.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Every cell as a row of a Parquet file.")] = None,
    skip_bad: SkipBad = False,
    format: Format = "auto",
    model: PatchModel = None,
    device: Device = "cpu",
    dtype: PatchDtype = None,
    revision: Revision = None,
    quiet: Quiet = False,
) -> None:
    """Causal tracing: which states of a prompt bring its answer back when the subject is corrupted."""
    from errata.cli.prompts import typed_prompt
    from errata.cli.trace import run_trace

    outputs = {"html": html, "pdf": pdf, "png": png, "json": json, "parquet": parquet}
    run_trace(
        typed_prompt(prompt, "trace") if prompt else None,
        facts_file=facts,
        one={"subject": subject, "answer": answer, "swap": swap, "lens": lens, "max_layers": max_layers},
        many={"n": n, "out": out, "skip_bad": skip_bad, "format": format},
        options={
            "kinds": kinds,
            "tokens": tokens,
            "severed": severed,
            "samples": samples,
            "noise": noise,
            "window": window,
            "corruption": corruption,
            "seed": seed,
            "exact": exact,
            "batch_tokens": batch_tokens,
        },
        outputs={kind: path for kind, path in outputs.items() if path is not None},
        patch_folder=patch,
        chat=chat,
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        quiet=quiet,
    )


def reproduce(
    paper: Annotated[str, typer.Argument(help="backward-lens.")],
    facts: Facts,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for tables, figures and summary.md.")],
    n: Annotated[int, typer.Option("--n", "-n", help="Prompts: the first N records.")] = 100,
    mode: Annotated[str, typer.Option(help="Of the lens: paper, normalised, eps-free, linear or raw.")] = "paper",
    flip_prompts: Annotated[
        int, typer.Option("--flip-prompts", help="Prompts for the smallest flipping learning rates.")
    ] = 10,
    flip_layers: Annotated[int, typer.Option("--flip-layers", help="Layers for them, evenly spread.")] = 10,
    neuron_prompts: Annotated[int, typer.Option("--neuron-prompts", help="Prompts for the tables of neurons.")] = 10,
    mechanism_prompts: Annotated[
        int, typer.Option("--mechanism-prompts", help="Prompts for predicted and actual effects of a step.")
    ] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate of that step.")] = 0.01,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Tokens behind each perplexity.")] = 500,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="Text for perplexity; default: the model's own samples.")
    ] = None,
    field: Field = "text",
    skip_bad: SkipBad = False,
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    format: Format = "auto",
    quiet: Quiet = False,
) -> None:
    """Run a paper's experiments on a model: tables, figures and a summary beside the published findings."""
    from errata.cli.lens import run_reproduce

    run_reproduce(
        paper,
        facts,
        out,
        options={
            "n": n,
            "mode": mode,
            "flip_prompts": flip_prompts,
            "flip_layers": flip_layers,
            "neuron_prompts": neuron_prompts,
            "mechanism_prompts": mechanism_prompts,
            "lr": lr,
            "text_tokens": text_tokens,
        },
        corpus=corpus,
        field=field,
        skip_bad=skip_bad,
        format=format,  # type: ignore[arg-type]
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        quiet=quiet,
    )
