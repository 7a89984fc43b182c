"""`python -m service.cli`: the `vlibrary` command without its script."""

from service.cli import main

main()
