"""`python -m fastrecon`."""

import sys

from fastrecon.cli import main

sys.exit(main())
