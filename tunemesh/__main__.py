"""``python -m tunemesh`` is the same as ``tunemesh``."""

from tunemesh.cli import main

if __name__ == "__main__":
    main()
