"""A command's defaults are those of the job: what the shell does without an option, Python does without it too."""

import inspect
from dataclasses import MISSING, fields

import pytest

from errata.cli.commands.bench_command import bench
from errata.cli.commands.edit_command import edit
from errata.cli.commands.eval_command import evaluate
from errata.cli.commands.reproduce_command import reproduce
from errata.cli.commands.train_command import train_mend
from errata.cli.commands.tune_command import tune
from errata.jobs import train_job
from errata.jobs.bench.bench_options import BenchOptions
from errata.jobs.edit_job import edit_facts
from errata.jobs.eval_job import evaluate_patch
from errata.jobs.reproduce import ReproduceOptions
from errata.jobs.tune.tune_options import TuneOptions

# Options that the command writes in another form: what they are made into has its own tests.
WRITTEN_AS_TEXT = {"layers", "counts", "methods", "settings", "presets", "mixed", "in_batches", "fields", "preset"}
RENAMED = {"minutes": "budget", "count": "n"}


def defaults_of(function):
    """Parameters with a default, by name."""
    parameters = inspect.signature(inspect.unwrap(function)).parameters.values()
    return {one.name: one.default for one in parameters if one.default is not inspect.Parameter.empty}


@pytest.mark.parametrize(
    ("command", "options"), [(reproduce, ReproduceOptions), (tune, TuneOptions), (bench, BenchOptions)]
)
def test_of_options(command, options):
    shell = defaults_of(command)
    own = {RENAMED.get(one.name, one.name): one.default for one in fields(options) if one.default is not MISSING}
    both = set(own) & set(shell) - WRITTEN_AS_TEXT
    assert len(both) >= 6
    assert {name: shell[name] for name in both} == {name: own[name] for name in both}


@pytest.mark.parametrize(
    ("command", "job"), [(edit, edit_facts), (evaluate, evaluate_patch), (train_mend, train_job.train_mend)]
)
def test_of_jobs(command, job):
    shell, own = defaults_of(command), defaults_of(job)
    both = set(own) & set(shell) - WRITTEN_AS_TEXT
    assert len(both) >= 3
    assert {name: shell[name] for name in both} == {name: own[name] for name in both}
