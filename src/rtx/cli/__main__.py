"""`python -m rtx.cli` is `rtx`."""

from rtx.cli import main

main()
