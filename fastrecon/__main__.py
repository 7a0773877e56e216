"""`python -m fastrecon`."""

import sys

from fastrecon.cli.main import main

sys.exit(main())
