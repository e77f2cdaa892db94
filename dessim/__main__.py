"""`python -m dessim` is `dessim`."""

from dessim.cli import main

main()
