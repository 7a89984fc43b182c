"""`python -m vlibrary.cli` runs the `vlibrary` command."""

from vlibrary.cli import main

main()
