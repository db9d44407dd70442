"""``python -m pytest_mergegate.cli`` is the command ``mergegate``."""

import sys

from pytest_mergegate.cli import main

sys.exit(main())
