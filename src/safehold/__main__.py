"""`python -m safehold`, the same as `safehold`."""

import sys

from safehold.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
