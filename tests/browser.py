"""Pages in a real headless Chromium, with no network, and what went wrong in them."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser; without one, a failure where there has to be one, else a skip."""
    found = next(filter(None, map(shutil.which, _NAMES)), None)
    if found is None:
        said = f"no Chromium: none of {', '.join(_NAMES)} is on PATH"
        if os.environ.get("CI"):
            pytest.fail(said)
        pytest.skip(said)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(_ARGUMENTS))
        yield browser
        browser.close()


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A page that has drawn its plots."""

    page: Page
    problems: list[str] = field(default_factory=list)
    """Whatever was logged, fetched or asked."""

    def run(self, script: str, *arguments: Any) -> Any:
        """What a piece of JavaScript gives."""
        return self.page.evaluate(script, *arguments)

    def until(self, script: str) -> None:
        """Wait for a piece of JavaScript to hold; Playwright's own wait needs eval."""
        deadline = time.monotonic() + 30
        while not self.run(script):
            assert time.monotonic() < deadline, f"never: {script}"
            time.sleep(0.05)


@contextmanager
def opened(
    browser: Browser, path: Path, *, width: int = 1280, height: int = 800, dark: bool = False
) -> Iterator[Opened]:
    """``path`` in a window of that size, offline."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if dark else "light",
        offline=True,
    )
    context.set_default_timeout(60_000)
    shown = Opened(page=context.new_page())
    shown.page.on("console", lambda m: shown.problems.append(f"console {m.type}: {m.text}"))
    shown.page.on("pageerror", lambda e: shown.problems.append(f"error: {e}"))
    shown.page.on("request", lambda r: _note_request(shown, r.url, path))
    shown.page.on("dialog", lambda d: (shown.problems.append(f"dialog: {d.message}"), d.dismiss()))
    shown.page.goto(path.as_uri())
    shown.page.wait_for_selector("html[data-ready]")
    yield shown
    context.close()


def _note_request(shown: Opened, url: str, path: Path) -> None:
    if url != path.as_uri() and not url.startswith("data:,"):
        shown.problems.append(f"request: {url[:200]}")
