"""`python -m bareformers`."""

from bareformers.cli import main

main()
