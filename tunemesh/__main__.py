"""``python -m tunemesh`` is the same as ``tunemesh``."""

import os
import sys

if __name__ == "__main__":
    # Python puts the working folder first, where a person's own module may have the name of another one.
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]

    from tunemesh.cli import main

    main()
