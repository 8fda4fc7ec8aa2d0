"""`python -m notbugs` is `notbugs`."""

from notbugs.cli import main

main()
