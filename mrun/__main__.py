"""`python -m mrun`."""

from mrun.cli.main import main

main()
