"""The command line: parse, call a job, print; everything heavy is imported inside the command that needs it."""

import sys


def main() -> None:
    """Entry point; Ctrl-C is safe from the first import on."""
    try:
        from errata.cli.app import run

        run()
    except KeyboardInterrupt:
        print("errata: interrupted.", file=sys.stderr)
        raise SystemExit(130) from None


__all__ = ["main"]
