"""`python -m lab COMMAND`: the lab without a browser."""

import sys

from lab.cli import main

sys.exit(main())
