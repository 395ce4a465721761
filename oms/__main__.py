"""``python -m oms``."""

import sys

INTERRUPTED = 128 + 2

try:
    from oms.main import main

    status = main()
except KeyboardInterrupt:  # also while it is still loading
    status = INTERRUPTED
sys.exit(status)
