"""`python -m dpnet`, which is `dpnet` where that is not installed."""

import sys

from dpnet.cli import main

sys.exit(main())
