"""``python -m refseg``: the same as the command ``refseg``."""

from refseg.cli import main

if __name__ == "__main__":
    main()
