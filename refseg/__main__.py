"""``python -m refseg``: the same as the command ``refseg``."""

from refseg.cli import main

main()
