"""``python -m oms``."""

import sys

from oms.main import main

sys.exit(main())
