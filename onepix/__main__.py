"""`python -m onepix`."""

from onepix.cli import main

main()
