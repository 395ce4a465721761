"""``python -m oms``."""

import sys

from oms.errors import INTERRUPTED

try:
    from oms.main import main

    status = main()
except KeyboardInterrupt:  # also while it is still loading
    status = INTERRUPTED
sys.exit(status)
