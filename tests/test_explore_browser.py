"""The explorer as a reader meets it: `dpnet explore`, JupyterLab, a headless Chromium without a network."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from chromium import headless
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from dpnet.companion import explorer, views
from dpnet.companion.explorer import Cell, Kept

ROOT = Path(__file__).parents[1]
FLAGS = ["headless=new", "no-sandbox", "disable-gpu", "no-first-run", "window-size=1400,1600"]
FLAGS += ["host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "disable-background-networking"]
PATIENCE = 240  # seconds, where something else runs


@pytest.fixture(scope="module")
def kept() -> Kept:
    return explorer.load(explorer.cohort("shapes", "quick"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a JupyterLab that `dpnet explore` started."""
    home = tmp_path_factory.mktemp("home")
    apart = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("DATA", "CONFIG", "RUNTIME")}
    scratch, said = home / "scratch", home / "said"
    scratch.mkdir()
    environment = {**os.environ, **apart, "IPYTHONDIR": str(home / "ipython"), "TMPDIR": str(scratch)}
    verb = [sys.executable, "-m", "dpnet", "explore", "--no-browser", "--results", str(ROOT / "results")]
    with said.open("w") as stream:
        server = subprocess.Popen(verb, stdout=stream, stderr=stream, cwd=ROOT, env=environment)
        try:
            for _ in range(PATIENCE):
                found = re.search(r"http://127\.0\.0\.1:\d+/lab\S*token=\w+", said.read_text())
                if found or server.poll() is not None:
                    break
                time.sleep(1)
            assert found, said.read_text()
            yield found[0]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    assert not list(scratch.glob("dpnet-*"))  # nothing is left of the copy


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    yield from headless(FLAGS, tmp_path_factory.mktemp("profile"))


def waited(browser: webdriver.Chrome, what: Callable[[webdriver.Chrome], Any], message: str = "") -> Any:
    gone = [StaleElementReferenceException, NoSuchElementException]
    return WebDriverWait(browser, PATIENCE, 0.5, gone).until(what, message)


def one(browser: webdriver.Chrome, selector: str) -> WebElement:
    found: WebElement = waited(browser, lambda b: next(iter(b.find_elements(By.CSS_SELECTOR, selector)), None))
    return found


def expect(browser: webdriver.Chrome, kept: Kept, episode: int, beta: float, cell: Cell) -> None:
    """Wait until the page says what the pure function says, and shows a picture of it."""
    expected = list(explorer.state(kept, episode, beta, cell).words)

    def there(b: webdriver.Chrome) -> bool:
        return [p.text for p in b.find_elements(By.CSS_SELECTOR, ".dpnet-picture p")] == expected

    waited(browser, there, f"the page does not say {expected}")
    picture = one(browser, ".dpnet-picture img")
    assert picture.get_attribute("alt") == " ".join(expected)
    assert browser.execute_script("return arguments[0].naturalWidth", picture) > 1000


def click(browser: webdriver.Chrome, x: float, y: float) -> None:
    """At a point of the picture, in 0..1 of its width and height."""
    picture = one(browser, ".dpnet-picture img")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    width, height = (browser.execute_script(f"return arguments[0].client{s}", picture) for s in ("Width", "Height"))
    right, down = round((x - 0.5) * width), round((y - 0.5) * height)
    ActionChains(browser).move_to_element_with_offset(picture, right, down).click().perform()


def test_the_explorer_in_jupyterlab_without_a_network(address: str, browser: webdriver.Chrome, kept: Kept) -> None:
    browser.get(address)
    waited(browser, lambda b: b.find_elements(By.CSS_SELECTOR, ".jp-NotebookPanel .jp-CodeCell"))
    waited(browser, lambda b: "| Idle" in b.find_element(By.CSS_SELECTOR, "#jp-main-statusbar").text)
    menu = {e.text: e for e in browser.find_elements(By.CSS_SELECTOR, "#jp-MainMenu .lm-MenuBar-item")}
    menu["Run"].click()
    one(browser, ".lm-Menu-item[data-command='runmenu:run-all']").click()

    at = kept.start(0)
    expect(browser, kept, 0, 0.2, at)
    assert not browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output[data-mime-type*=stderr]")

    handles = browser.find_elements(By.CSS_SELECTOR, ".widget-slider .noUi-handle")
    beta, row, column = handles
    beta.send_keys(Keys.ARROW_RIGHT)
    expect(browser, kept, 0, 0.3, at)
    row.send_keys(Keys.ARROW_UP)  # those who cannot click
    expect(browser, kept, 0, 0.3, (at[0] + 1, at[1]))
    column.send_keys(Keys.ARROW_LEFT)
    expect(browser, kept, 0, 0.3, (at[0] + 1, at[1] - 1))

    Select(one(browser, ".widget-dropdown select")).select_by_visible_text(kept.names[4])
    expect(browser, kept, 4, 0.3, kept.start(4))
    for cell in ((0, 0), (5, 12), (20, 20)):
        click(browser, *views.point_of(kept, cell))
        expect(browser, kept, 4, 0.3, cell)
    click(browser, 0.5, 0.4)  # the query: nothing happens, and what follows is what follows
    beta.send_keys(Keys.END)
    expect(browser, kept, 4, 0.8, (20, 20))

    assert not browser.find_elements(By.CSS_SELECTOR, ".Toastify__toast")  # nobody is asked about news
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    asked |= {e["params"]["url"] for e in events if e["method"] == "Network.webSocketCreated"}
    assert any("/api/kernels" in url for url in asked)  # the log does record
    networks = [u for u in asked if urlsplit(u).scheme in ("http", "https", "ws", "wss")]
    assert [u for u in networks if urlsplit(u).hostname != "127.0.0.1"] == []
