"""Options that several commands have, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[str, typer.Option("--model", "-m", help='"smollm2" (embedded), a local folder, or a hub id.')]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Revision = Annotated[str | None, typer.Option(help="Revision of a hub model.")]
CorpusPath = Annotated[
    str | None,
    typer.Option(
        "--corpus",
        help="Text, JSONL or Parquet file, folder, dataset:NAME, or self (the model's own samples); default: errata's "
        "text.",
    ),
]
Field = Annotated[str, typer.Option("--field", help="Field of a JSONL or Parquet corpus that holds the text.")]
Format = Annotated[
    str,
    typer.Option(
        help="How the facts are written (jsonl, json, csv, parquet, arrow) or what their records are (errata, "
        "easyedit, knowedit, rome, fastedit, counterfact, zsre, known, mquake, ripple, wikibigedit, unke, "
        "counterfact-tracing); auto: by the file's ending and each record's fields."
    ),
]
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
Require = Annotated[
    list[str] | None,
    typer.Option(
        "--require",
        metavar="NAME=NUMBER",
        help="Exit code 3 unless reached: said=90, preferred, kept, es, ps, ... at least; ns_drop=3, ... at most.",
    ),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also print the tables that the report holds.")]
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
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Go on without unusable records.")]
BatchSize = Annotated[int, typer.Option(help="Target values optimised together.")]
PatchModel = Annotated[str | None, typer.Option("--model", "-m", help="Default: the patch's model, or smollm2.")]
PatchDtype = Annotated[str | None, typer.Option(help="Default: the patch's, or float32.")]
Chat = Annotated[
    bool, typer.Option("--chat", help="The prompt is a user's message: put it through the model's chat template.")
]
_FACTS = (
    "Facts: JSONL, JSON, CSV or Parquet, or a folder that datasets saved; in errata's fields or a data set's, which "
    "--format lists."
)
Facts = Annotated[Path, typer.Option("--facts", "-f", help=_FACTS)]
FactsArgument = Annotated[Path, typer.Argument(help=_FACTS)]
