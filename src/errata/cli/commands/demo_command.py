"""The command `errata demo`: a dozen facts edited into a real model."""

from __future__ import annotations

from pathlib import Path

import typer

from errata.cli.exit_codes import end_with
from errata.cli.options import Device, Dtype, Model, Out, Quiet, Verbose
from errata.cli.session import ModelChoice, open_model
from errata.jobs.terminal_progress import progress_on


def demo(
    out: Out = Path("runs/demo"),
    model: Model = "smollm2",
    device: Device = "cpu",
    dtype: Dtype = "float32",
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Edit a dozen facts into a real model and show what it says before and after."""
    progress = progress_on(quiet=quiet)
    out = out.expanduser()
    lm = open_model(ModelChoice(model=model, device=device, dtype=dtype), progress)
    from errata.jobs.demo_job import run_demo
    from errata.patches import RUN_FILES
    from errata.reports.demo_report import write_demo
    from errata.store.run_folder import check_out

    check_out(out, overwrite=True, ours=RUN_FILES)
    done = run_demo(lm, progress=progress)
    typer.echo(write_demo(done, out, verbose=verbose))
    end_with(done.result.report["failed"], ())
