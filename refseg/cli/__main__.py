"""``python -m refseg.cli`` is the command ``refseg``."""

from refseg.cli import main

if __name__ == "__main__":
    main()
