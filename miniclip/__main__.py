"""`python -m miniclip`, the same as the command `miniclip`."""

from miniclip.cli import main

main()
