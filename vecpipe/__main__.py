"""``python -m vecpipe`` is the command line."""

from vecpipe.cli import main

main(prog_name="vecpipe")
