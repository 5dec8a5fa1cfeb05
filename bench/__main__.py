"""`python -m bench`."""

import signal
import sys

from bench.cli import main

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as orderly as Ctrl-C
    sys.exit(main())
