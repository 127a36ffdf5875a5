"""The command line: parse, call a job, print; everything heavy is imported inside the command that needs it."""

from errata.cli.app import main

__all__ = ["main"]
