"""``python -m vagitus``."""

from vagitus.cli import main

main()
