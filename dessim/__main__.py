"""`python -m dessim` is `dessim`."""

from dessim.cli.app import main

main()
