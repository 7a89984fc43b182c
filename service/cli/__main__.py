"""`python -m vlibrary.cli`: the `vlibrary` command without its script."""

from vlibrary.cli import main

main()
