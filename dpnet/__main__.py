"""`python -m dpnet`."""

import sys

from dpnet.cli import main

sys.exit(main())
