"""The terminal that output goes to: how wide it is, and whether it shows colours."""

import os
import shutil
import sys


def screen_width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def shows_colour() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
