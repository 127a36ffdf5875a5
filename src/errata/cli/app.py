"""Commands and their options. No torch is imported before a command runs: `errata --help` answers at once."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from errata.cli.interrupt import Interrupts
from errata.errors import ErrataError, NumericsError

app = typer.Typer(
    name="errata",
    help="Correct what a language model believes: thousands of facts at a time, undoably.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Model = Annotated[str, typer.Option("--model", "-m", help='"smollm2" (embedded), a local folder, or a hub id.')]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
CorpusPath = Annotated[
    str | None,
    typer.Option(
        "--corpus", help="Text, JSONL or Parquet file, folder, or dataset:NAME; default: the model's own samples."
    ),
]
Field = Annotated[str, typer.Option("--field", help="Field of a JSONL or Parquet corpus that holds the text.")]
Format = Annotated[str, typer.Option(help="Of the facts: auto, jsonl, json, csv, counterfact, zsre or known.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="NAME=VALUE",
        help="Override a hyperparameter: prior_weight=300, layers=7-9; `errata methods` lists them.",
    ),
]
AtOnce = Annotated[bool, typer.Option("--at-once", help="All facts in one update, on the unedited model (default).")]
InBatches = Annotated[
    int | None,
    typer.Option("--in-batches", metavar="N", help="N facts at a time, each batch on the model as edited so far."),
]
OneByOne = Annotated[
    bool, typer.Option("--one-by-one", help="One fact after another, each on the model as edited so far.")
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the patch and the report.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in the --out folder.")]


def run() -> None:
    """Parse and run: exit codes 0 done, 1 numerics, 2 bad input, 130 interrupted, 141 the output's reader went away."""
    try:
        with Interrupts.watched():
            _call()
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted. What was finished is kept: the same command goes on from there.", 130)
    except ErrataError as error:
        _fail(str(error), 1 if isinstance(error, NumericsError) else 2)
    except SystemExit:
        # Only for a broken pipe (errata ... | head) does typer exit by itself, and with 1; shells know 128 + SIGPIPE.
        raise SystemExit(141) from None
    except OSError as error:
        _fail(f"a file or the output could not be read or written: {error}.", 2)
    except Exception as error:
        # click's own usage errors, without importing click by name: typer may vendor it.
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            _fail(f"{error.format_message().rstrip('.')}. See errata --help.", 2)  # type: ignore[attr-defined]
        raise


def _call() -> None:
    """Run the command; whatever a Ctrl-C was turned into on its way up is a KeyboardInterrupt again."""
    try:
        # typer turns Ctrl-C into this return value.
        if app(sys.argv[1:] or ["--help"], standalone_mode=False) == 130:
            raise KeyboardInterrupt
    except Exception as error:
        if Interrupts.pressed:
            raise KeyboardInterrupt from error
        raise


def _fail(message: str, code: int) -> None:
    print(f"errata: {message}", file=sys.stderr)
    raise SystemExit(code) from None


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if version:
        from errata import __version__

        typer.echo(f"errata {__version__}")
        raise typer.Exit


@app.command()
def demo(
    out: Out = Path("runs/demo"),
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    quiet: Quiet = False,
) -> None:
    """Edit a dozen facts into a real model and show what it says before and after."""
    from errata.cli.run import run_demo

    run_demo(out, model=model, device=device, dtype=dtype, quiet=quiet)


@app.command()
def edit(
    facts: Annotated[Path, typer.Argument(help="Facts: JSONL, JSON, CSV, CounterFact or zsRE.")],
    out: Out,
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    corpus: CorpusPath = None,
    field: Field = "text",
    method: Annotated[
        str | None, typer.Option(help="`errata methods` lists them; default: the preset's, or memit.")
    ] = None,
    preset: Annotated[
        Path | None, typer.Option("--preset", help="Settings from a file that `errata tune` wrote.")
    ] = None,
    at_once: AtOnce = False,
    in_batches: InBatches = None,
    one_by_one: OneByOne = False,
    settings: Set = None,
    format: Annotated[
        str, typer.Option(help="auto (by extension and fields), jsonl, json, csv, counterfact, zsre or known.")
    ] = "auto",
    limit: Annotated[int | None, typer.Option(help="Use only the first N records.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without unusable records.")] = False,
    evaluate: Annotated[bool, typer.Option(help="Measure the model before and after.")] = True,
    batch_size: Annotated[
        int, typer.Option(help="Target values optimised together: memory and speed, not the order of edits.")
    ] = 32,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Edit facts into a model: writes a patch, report.json and a table."""
    from errata.cli.run import one_order, run_edit

    run_edit(
        facts,
        out,
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        options={
            "corpus": corpus,
            "field": field,
            "skip_bad": skip_bad,
            "evaluate": evaluate,
            "batch_size": batch_size,
            "in_batches": one_order(at_once=at_once, in_batches=in_batches, one_by_one=one_by_one),
        },
        method=method,
        preset=preset,
        settings=settings or [],
        format=format,  # type: ignore[arg-type]
        limit=limit,
        overwrite=overwrite,
        quiet=quiet,
    )


@app.command()
def stats(
    model: Model = "smollm2",
    layers: Annotated[
        str | None, typer.Option(help="Layers as 7,8,9 or 7-9; default: those of the model's preset.")
    ] = None,
    tokens: Annotated[int | None, typer.Option(help="Corpus tokens; default: the preset's.")] = None,
    corpus: CorpusPath = None,
    field: Field = "text",
    seed: Annotated[int, typer.Option(help="For the model's own samples.")] = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    quiet: Quiet = False,
) -> None:
    """Compute second moments ahead of time, or extend them with more tokens; edits find them by themselves."""
    from errata.cli.run import run_stats_command

    load = {"model": model, "device": device, "dtype": dtype, "revision": revision}
    run_stats_command(load, layers=layers, tokens=tokens, corpus=corpus, field=field, seed=seed, quiet=quiet)


@app.command()
def ask(
    prompt: Annotated[list[str], typer.Argument(help="The beginning of a text for the model to go on with.")],
    patch: Annotated[
        Path | None, typer.Option("--patch", "-p", help="Folder of a patch: show before and after.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the patch's model, or smollm2.")] = None,
    tokens: Annotated[int, typer.Option(help="Tokens to continue with.")] = 20,
    top: Annotated[int, typer.Option(help="Next tokens to show.")] = 5,
    device: Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Default: the patch's, or float32.")] = None,
    revision: Revision = None,
) -> None:
    """Show the continuation and the likeliest next tokens, before and after a patch."""
    from errata.cli.run import run_ask

    run_ask(
        prompt, patch_folder=patch, model=model, tokens=tokens, top=top, device=device, dtype=dtype, revision=revision
    )


@app.command("eval")
def evaluate(
    patch: Annotated[Path, typer.Argument(help="Folder of a patch.")],
    facts: Annotated[
        Path | None, typer.Option("--facts", "-f", help="Facts to measure on; default: the patch's own.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for every prompt's numbers.")] = None,
    limit: Annotated[int | None, typer.Option(help="Use only the first N facts.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without unusable records.")] = False,
    format: Annotated[
        str, typer.Option(help="Of the facts: auto, jsonl, json, csv, counterfact, zsre or known.")
    ] = "auto",
    generate: Annotated[
        bool, typer.Option("--generate", help="Also let the model write 100 tokens a prompt: GE and RS.")
    ] = False,
    references: Annotated[
        Path | None, typer.Option("--references", help="JSONL of relation (id or template), target, text: for RS.")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="Held-out text for drift; default: the model's own samples.")
    ] = None,
    field: Field = "text",
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Tokens of held-out text; 0: no drift.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of generations and the model's own samples.")] = 0,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the patch's model.")] = None,
    device: Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Default: the patch's.")] = None,
    revision: Revision = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier evaluation in --out.")] = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model without and with a patch: success, accuracy, changed answers, drift elsewhere, generations."""
    from errata.cli.evaluation import run_eval

    run_eval(
        patch,
        facts_file=facts,
        out=out,
        limit=limit,
        skip_bad=skip_bad,
        format=format,  # type: ignore[arg-type]
        generate=generate,
        references_file=references,
        text={"corpus": corpus, "field": field, "text_tokens": text_tokens, "seed": seed},
        overwrite=overwrite,
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        quiet=quiet,
    )


@app.command()
def lens(
    prompt: Annotated[str, typer.Argument(help="The beginning of a text.")],
    target: Annotated[str | None, typer.Option("--target", "-t", help="What should come next.")] = None,
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
    html: Annotated[Path | None, typer.Option(help="Interactive page, one offline file.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="The grid as a figure.")] = None,
    png: Annotated[Path | None, typer.Option(help="The grid as a picture.")] = None,
    json: Annotated[Path | None, typer.Option(help="Every cell as JSON.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Every cell as a row of a Parquet file.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the patch's model, or smollm2.")] = None,
    device: Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Default: the patch's, or float32.")] = None,
    revision: Revision = None,
) -> None:
    """Backward Lens: what the gradient of a prompt says, token by token and layer by layer."""
    from errata.cli.lens import run_lens

    outputs = {"html": html, "pdf": pdf, "png": png, "json": json, "parquet": parquet}
    run_lens(
        prompt,
        target,
        patch_folder=patch,
        options={
            "loss": loss,
            "mode": mode,
            "subject": subject,
            "against": against,
            "reference": reference,
        },
        show={"matrix": matrix, "sign": sign, "top": top, "track": track, "max_layers": max_layers},
        outputs={kind: path for kind, path in outputs.items() if path is not None},
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
    )


@app.command()
def trace(
    prompt: Annotated[str | None, typer.Argument(help="The beginning of a text; or give --facts.")] = None,
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
    html: Annotated[Path | None, typer.Option(help="Interactive page, one offline file.")] = None,
    pdf: Annotated[Path | None, typer.Option(help="The grids as a figure.")] = None,
    png: Annotated[Path | None, typer.Option(help="The grids as a picture.")] = None,
    json: Annotated[Path | None, typer.Option(help="Every number as JSON.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Every cell as a row of a Parquet file.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without unusable records.")] = False,
    format: Format = "auto",
    model: Annotated[str | None, typer.Option("--model", "-m", help="Default: the patch's model, or smollm2.")] = None,
    device: Device = "cpu",
    dtype: Annotated[str | None, typer.Option(help="Default: the patch's, or float32.")] = None,
    revision: Revision = None,
    quiet: Quiet = False,
) -> None:
    """Causal tracing: which states of a prompt bring its answer back when the subject is corrupted."""
    from errata.cli.trace import run_trace

    outputs = {"html": html, "pdf": pdf, "png": png, "json": json, "parquet": parquet}
    run_trace(
        prompt,
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
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        quiet=quiet,
    )


@app.command()
def reproduce(
    paper: Annotated[str, typer.Argument(help="backward-lens.")],
    facts: Annotated[Path, typer.Option("--facts", "-f", help="Facts: JSONL, JSON, CSV, CounterFact or zsRE.")],
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
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without unusable records.")] = False,
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    format: Annotated[
        str, typer.Option(help="Of the facts: auto, jsonl, json, csv, counterfact, zsre or known.")
    ] = "auto",
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


train_app = typer.Typer(help="Train what a method needs before it can edit: mend.", rich_markup_mode=None)
app.add_typer(train_app, name="train", no_args_is_help=True)


@train_app.callback()
def train() -> None:
    """Train what a method needs before it can edit: mend."""


@train_app.command("mend")
def train_mend(
    facts: Annotated[Path, typer.Option("--facts", "-f", help="Facts: JSONL, JSON, CSV, CounterFact or zsRE.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the editor (safetensors).")],
    model: Model = "smollm2",
    steps: Annotated[int | None, typer.Option(help="Train for so many steps in all.")] = None,
    minutes: Annotated[float | None, typer.Option(help="Train for so many minutes in all.")] = None,
    corpus: Annotated[
        str | None,
        typer.Option("--corpus", help="Unrelated text that must not move; default: the facts' neighbours."),
    ] = None,
    field: Field = "text",
    seed: Annotated[
        int | None, typer.Option(help="Of the start, the order and the held-out facts; default: 0.")
    ] = None,
    settings: Set = None,
    valid: Annotated[int, typer.Option(help="Facts held out to tell the best editor by.")] = 100,
    limit: Annotated[int | None, typer.Option(help="Use only the first N records.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Go on without unusable records.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Train anew over an earlier --out.")] = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    format: Annotated[
        str, typer.Option(help="Of the facts: auto, jsonl, json, csv, counterfact, zsre or known.")
    ] = "auto",
    quiet: Quiet = False,
) -> None:
    """Train MEND's editor on facts; the same command goes on where an earlier one was stopped.

    Without --steps or --minutes it ends when the validation gets no better (--set patience=...).
    """
    from errata.cli.train import run_train_mend

    run_train_mend(
        facts,
        out,
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        options={
            "steps": steps,
            "minutes": minutes,
            "corpus": corpus,
            "field": field,
            "valid": valid,
            "skip_bad": skip_bad,
            "overwrite": overwrite,
        },
        settings=settings or [],
        seed=seed,
        format=format,  # type: ignore[arg-type]
        limit=limit,
        quiet=quiet,
    )


@app.command()
def bench(
    methods: Annotated[str, typer.Option(help="Methods, as memit,rome,shift; `errata methods` lists them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for cells, tables, figures and summary.md.")],
    dataset: Annotated[str, typer.Option(help="counterfact, zsre or relations.")] = "counterfact",
    data: Annotated[
        Path | None, typer.Option(help="The data set's file (default: DATASET.json in the folder $ERRATA_DATA).")
    ] = None,
    n: Annotated[str, typer.Option("--n", "-n", help="Numbers of edits, as 1,10,100; 1: single edits.")] = "1,10,100",
    singles: Annotated[int, typer.Option(help="Records behind the single edits.")] = 100,
    first: Annotated[int, typer.Option(help="Skip so many records (tune on others than you report).")] = 0,
    at_once: AtOnce = False,
    in_batches: InBatches = None,
    one_by_one: OneByOne = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", "-s", metavar="METHOD.NAME=VALUE", help="Override a method's hyperparameter."),
    ] = None,
    preset: Annotated[
        list[Path] | None,
        typer.Option("--preset", help="Settings of one of the methods from a file that `errata tune` wrote."),
    ] = None,
    mixed: Annotated[
        str | None, typer.Option(metavar="A|B", help="Mixed-relation study of two relations (or prompt templates).")
    ] = None,
    study: Annotated[
        bool, typer.Option("--study", help="Relate each fact's outcome to what can be known before.")
    ] = False,
    corpus: CorpusPath = None,
    field: Field = "text",
    text: Annotated[
        str | None, typer.Option(help="Held-out text for perplexity and drift (default: the model's own samples).")
    ] = None,
    text_tokens: Annotated[int, typer.Option("--text-tokens", help="Tokens of it; 0 leaves drift out.")] = 2000,
    generate: Annotated[bool, typer.Option("--generate", help="Also write texts (100 facts at most) for GE.")] = False,
    references: Annotated[
        Path | None, typer.Option(help="With --generate: reference texts for RS, as for errata eval.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Target values optimised together.")] = 32,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    quiet: Quiet = False,
) -> None:
    """Compare methods on a data set: tables, scaling curves and prompts' scores; goes on where it was stopped."""
    from errata.cli.benchmark import run_bench_command
    from errata.cli.run import one_order

    run_bench_command(
        data,
        out,
        options={
            "methods": methods,
            "dataset": dataset,
            "counts": n,
            "singles": singles,
            "first": first,
            "in_batches": one_order(at_once=at_once, in_batches=in_batches, one_by_one=one_by_one),
            "settings": settings or [],
            "presets": preset or [],
            "mixed": mixed,
            "study": study,
            "text_tokens": text_tokens,
            "generate": generate,
            "batch_size": batch_size,
            "seed": seed,
        },
        sources={"corpus": corpus, "text": text, "field": field},
        references=references,
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        quiet=quiet,
    )


@app.command()
def tune(
    facts: Annotated[Path, typer.Option("--facts", "-f", help="Facts: JSONL, JSON, CSV, CounterFact or zsRE.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for preset.json, the table of trials, summary.md.")],
    model: Model = "smollm2",
    budget: Annotated[float, typer.Option(metavar="MINUTES", help="How long it may take in all.")] = 30.0,
    method: Annotated[str, typer.Option(help="memit, alphaedit, emmet, pmet, ft or ft-l.")] = "memit",
    n: Annotated[
        int | None,
        typer.Option(
            "--n", "-n", help="Facts edited at once, as many as you mean to edit; default: 100, or half of F."
        ),
    ] = None,
    first: Annotated[int, typer.Option(help="Skip so many records (tune on others than you report).")] = 0,
    layers: Annotated[
        str | None, typer.Option(metavar="A-B,C-D", help="Ranges of layers to try in any case, as 5-9,7-9,9.")
    ] = None,
    traced: Annotated[
        int, typer.Option("--trace", metavar="N", help="Known facts that causal tracing proposes ranges from; 0: none.")
    ] = 12,
    settings: Set = None,
    corpus: CorpusPath = None,
    field: Field = "text",
    text_tokens: Annotated[
        int,
        typer.Option("--text-tokens", help="Tokens of the model's own text for the drift that decides ties; 0: none."),
    ] = 500,
    batch_size: Annotated[int, typer.Option(help="Target values optimised together.")] = 32,
    seed: Annotated[int, typer.Option(help="Of everything drawn.")] = 0,
    format: Annotated[str, typer.Option(help="Of the facts: auto, jsonl, json, csv, counterfact or zsre.")] = "auto",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    revision: Revision = None,
    quiet: Quiet = False,
) -> None:
    """Find settings of a method for a model that nobody has tuned, by small edits: writes a preset for --preset."""
    from errata.cli.tune import run_tune

    run_tune(
        facts,
        out,
        options={
            "method": method,
            "minutes": budget,
            "count": n,
            "first": first,
            "layers": layers,
            "traced": traced,
            "text_tokens": text_tokens,
            "batch_size": batch_size,
            "seed": seed,
        },
        settings=settings or [],
        sources={"corpus": corpus, "field": field},
        load={"model": model, "device": device, "dtype": dtype, "revision": revision},
        format=format,  # type: ignore[arg-type]
        quiet=quiet,
    )


@app.command()
def methods() -> None:
    """List the editing methods, their hyperparameters and defaults."""
    from errata.cli.run import run_methods

    run_methods()


@app.command()
def models() -> None:
    """List supported families, known settings, and what is installed."""
    from errata.cli.run import run_models

    run_models()
