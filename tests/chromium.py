"""A headless Chromium for tests, which keeps what pages log and ask for."""

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver


def headless(flags: Iterable[str], profile: Path) -> Iterator[webdriver.Chrome]:
    """A browser, closed at the end; the test fails where none is installed.

    Arguments:
        flags: of the command line, without dashes.
        profile: an empty folder.
    """
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.fail("chromium is not installed: apt-get install chromium chromium-driver", pytrace=False)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*flags, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    running = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield running
    running.quit()
