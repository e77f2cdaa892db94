"""Makes `python -m dessim` the same as the `dessim` command."""

from dessim.cli.app import main

main()
