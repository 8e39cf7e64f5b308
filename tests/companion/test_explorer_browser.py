"""The explorer as a reader meets it: `dpnet explore`, JupyterLab, a headless Chromium without a network."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import drawing
import pytest
from chromium import headless
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from dpnet import io
from dpnet.companion import explorer

FLAGS = ["headless=new", "no-sandbox", "disable-gpu", "no-first-run", "window-size=1400,1600"]
FLAGS += ["host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "disable-background-networking"]
PATIENCE = 240  # seconds, where something else runs
LINK = re.compile(r"http://127\.0\.0\.1:\d+/lab\S*token=\w+")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a JupyterLab that `dpnet explore` started."""
    home = tmp_path_factory.mktemp("home")
    apart = {f"JUPYTER_{kind}_DIR": str(home / kind) for kind in ("DATA", "CONFIG", "RUNTIME")}
    scratch, log = home / "scratch", home / "log"
    scratch.mkdir()
    environment = {**os.environ, **apart, "IPYTHONDIR": str(home / "ipython"), "TMPDIR": str(scratch)}
    environment["DPNET_RESULTS"] = str(io.ROOT / "results")  # not a user's own
    verb = [sys.executable, "-m", "dpnet", "explore", "--no-browser"]
    with log.open("w") as stream:
        server = subprocess.Popen(verb, stdout=stream, stderr=stream, cwd=io.ROOT, env=environment)
        try:
            WebDriverWait(log, PATIENCE).until(lambda log: LINK.search(log.read_text()) or server.poll() is not None)
            link = LINK.search(log.read_text())
            assert link, log.read_text()
            yield link[0]
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    assert not list(scratch.glob("dpnet-*"))  # nothing is left of the copy


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    yield from headless(FLAGS, tmp_path_factory.mktemp("profile"))


def waited(browser: webdriver.Chrome, what: Callable[[webdriver.Chrome], Any], message: str) -> Any:
    gone = [StaleElementReferenceException, NoSuchElementException]
    return WebDriverWait(browser, PATIENCE, 0.5, gone).until(what, message)


def one(browser: webdriver.Chrome, selector: str) -> Any:
    return waited(browser, lambda b: b.find_element(By.CSS_SELECTOR, selector), selector)


def test_the_explorer_in_jupyterlab_without_a_network(address: str, browser: webdriver.Chrome) -> None:
    stored, output = (
        explorer.load(explorer.cohort("shapes", "quick", io.ROOT / "results")),
        ".widget-interact .jp-OutputArea-output",
    )
    browser.get(address)
    # Of the notebook itself: the status bar speaks of the kernel only once the notebook has the focus.
    one(browser, ".jp-Notebook-ExecutionIndicator[data-status=idle]")
    one(browser, ".lm-DockPanel-tabBar .lm-TabBar-tab").click()
    menu = {e.text: e for e in browser.find_elements(By.CSS_SELECTOR, "#jp-MainMenu .lm-MenuBar-item")}
    menu["Run"].click()
    one(browser, ".lm-Menu-item[data-command='runmenu:run-all']").click()
    pictures: list[str] = []

    def expect(episode: int, beta: float) -> None:
        """Wait until the page says what `in_words` says, beside another picture than before."""
        words = drawing.in_words(stored, episode, beta)

        def there(b: webdriver.Chrome) -> bool:
            text = b.find_element(By.CSS_SELECTOR, f"{output} pre").text
            picture = b.find_element(By.CSS_SELECTOR, f"{output} img")
            wide = b.execute_script("return arguments[0].naturalWidth", picture) > 900
            return text.split() == words.split() and wide and picture.get_attribute("src") not in pictures

        waited(browser, there, f"the page does not say: {words}")
        pictures.append(one(browser, f"{output} img").get_attribute("src"))

    expect(0, 0.2)
    assert not browser.find_elements(By.CSS_SELECTOR, ".jp-OutputArea-output[data-mime-type*=stderr]")
    slider = one(browser, ".widget-interact .widget-slider .noUi-handle")
    for key, beta in ((Keys.ARROW_RIGHT, 0.3), (Keys.END, 0.8)):
        slider.send_keys(key)
        expect(0, beta)
    Select(one(browser, ".widget-interact select")).select_by_visible_text(stored.names[4])
    expect(4, 0.8)
    slider.send_keys(Keys.HOME)
    expect(4, 0.0)

    assert not browser.find_elements(By.CSS_SELECTOR, ".Toastify__toast")  # nobody is asked about news
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    asked |= {e["params"]["url"] for e in events if e["method"] == "Network.webSocketCreated"}
    assert any("/api/kernels" in url for url in asked)  # the log does record
    networks = [u for u in asked if urlsplit(u).scheme in ("http", "https", "ws", "wss")]
    assert [u for u in networks if urlsplit(u).hostname != "127.0.0.1"] == []
