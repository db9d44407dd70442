"""The questions that people ask, put to the search of the built site."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from browser import chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

ROOT = Path(__file__).parents[2]
QUESTIONS = {
    "own metric": "faq/#how-do-i-use-my-own-metric",
    "GPU": "faq/#do-i-need-a-gpu",
    "70B": "large-models/",
    "how long": "faq/#how-long-does-a-gate-take",
    "why did it fail": "faq/#why-did-it-fail",
    "chat": "faq/#how-do-i-gate-a-chat-model",
    "GitLab": "ci/#gitlab",
    "private hub": "faq/#how-do-i-gate-adapters-of-a-private-hub-repository",
    "merge after passing": "faq/#how-do-i-get-the-merge-after-passing",
    "MDS": "faq/#what-is-mds",
}
"""And where the answer is."""
_FOUND = """items => items.map(item => [...item.querySelectorAll('a')].map(a => a.href))"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing in the tests' output."""


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Page, str]]:
    """A page of a browser, and the address of the site, built anew."""
    pytest.importorskip("mkdocs")
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(site)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        with chromium() as browser:
            yield browser.new_page(), f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_first_three_hits_answer_it(searched: tuple[Page, str], question: str) -> None:
    page, site = searched
    page.goto(f"{site}?q={question.replace(' ', '%20')}")
    page.wait_for_selector(".md-search-result__item a", state="attached")
    found = page.eval_on_selector_all(".md-search-result__item", _FOUND)
    # ?h=... marks the words on the page
    hits = [[link.removeprefix(site) for link in item] for item in found[:3]]
    plain = [["#".join((h.partition("?")[0], *h.split("#")[1:])) for h in item] for item in hits]
    assert any(QUESTIONS[question] in item for item in plain), plain
