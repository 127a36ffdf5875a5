"""`python -m errata`, the same as `errata`."""

from errata.cli import main

main()
