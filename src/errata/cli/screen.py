"""The terminal that output goes to: how wide it is, and whether it shows colours."""

import os
import shutil
import sys


def screen_width() -> int:
    """Columns of the terminal; 100 where there is none."""
    return shutil.get_terminal_size((100, 24)).columns


def shows_colour() -> bool:
    """Whether output goes to a terminal that shows colours, and NO_COLOR does not forbid them."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
