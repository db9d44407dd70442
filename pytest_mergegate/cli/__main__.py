"""``python -m pytest_mergegate.cli`` is the command ``mergegate``."""

from __future__ import annotations

import sys

from pytest_mergegate.cli import main

sys.exit(main())
