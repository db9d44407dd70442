"""Where the project and its documentation are: every other address is made of these."""

from typing import Final

REPOSITORY: Final = "pytest-mergegate/pytest-mergegate"
"""``owner/name``; ``.ci/address`` gives another to every file that names it."""
SITE: Final = "https://pytest-mergegate.github.io/pytest-mergegate"
"""Of the documentation, without the last slash."""
