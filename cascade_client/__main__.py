"""`python -m cascade_client` is the command `cascade`."""

import sys

from cascade_client.cli import main

if __name__ == "__main__":
    sys.exit(main())
