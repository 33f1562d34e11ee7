"""A headless Chromium, a web server for a folder, and the site as `make docs` builds it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
# Of a page: is it wider than the window, and by which elements?
WIDER = """
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= width) return [];
return [...document.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > width + 1)
    .map(e => e.tagName + "." + e.className).slice(0, 5);
"""


def missing_browser() -> str:
    """Why there is no browser; "" where there is one."""
    driver, browser = shutil.which("chromedriver"), any(map(shutil.which, BROWSERS))
    return "" if driver and browser else "there is no chromium with its chromedriver: make browser installs it"


def build_site(folder: Path) -> str:
    """Build the site into a folder, strictly; returns what the builder says.

    Raises:
        AssertionError: It warns, or fails.
    """
    command = [sys.executable, "-W", "ignore", "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "DOCS_REPOSITORY": "https://code.example/dadapt-dist"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=200)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "WARNING" not in said, said
    return said


class _Handler(SimpleHTTPRequestHandler):
    """Files of a folder, or what is given in the place of one; prints nothing."""

    def __init__(self, *args: Any, instead: dict[str, bytes], **kwargs: Any) -> None:
        self.instead = instead
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        if self.path not in self.instead:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.instead[self.path])))
        self.end_headers()
        self.wfile.write(self.instead[self.path])

    def log_message(self, *_: Any) -> None: ...


@contextmanager
def served(folder: Path, instead: dict[str, bytes] | None = None) -> Iterator[str]:
    """Serve a folder on this machine; gives its address. instead: what takes the place of some files."""
    handler = partial(_Handler, directory=str(folder), instead=instead or {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Browser:
    """One window, and what went wrong in it since it was last asked."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        driver.get("about:blank")  # leaves the browser's own first page, whose requests do not count
        for log in ("browser", "performance"):
            driver.get_log(log)
        self.command("Network.enable")

    def command(self, name: str, **values: Any) -> Any:
        """Send a command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, values)

    def resize(self, width: int, height: int = 900, dark: bool = False) -> None:
        """Be a screen of so many points, as those of phones and desks."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.command("Emulation.setEmulatedMedia", features=[scheme])

    def scripts(self, on: bool) -> None:
        """Let pages run JavaScript, or not."""
        self.command("Emulation.setScriptExecutionDisabled", value=not on)

    def html(self) -> str:
        """The page as it stands now, also where it may run no script."""
        root = self.command("DOM.getDocument", depth=0)["root"]["nodeId"]
        return str(self.command("DOM.getOuterHTML", nodeId=root)["outerHTML"])

    def troubles(self, address: str) -> list[str]:
        """Errors in the console, and requests that failed or went to another host than the address names."""
        found = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] in ("SEVERE", "ERROR")]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            found += _trouble(message["method"], message["params"], address)
        return found


def _trouble(event: str, said: Any, address: str) -> list[str]:
    if event == "Network.requestWillBeSent" and not said["request"]["url"].startswith(
        (address, "data:", "blob:", "about:", "chrome:")
    ):
        return [f"asked another host: {said['request']['url']}"]
    if event == "Network.responseReceived" and said["response"]["status"] >= 400:
        return [f"{said['response']['status']}: {said['response']['url']}"]
    if event == "Network.loadingFailed" and not said.get("canceled"):
        return [f"failed: {said['errorText']} ({said['type']})"]
    return []


@contextmanager
def opened(profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile of its own."""
    options = webdriver.ChromeOptions()
    options.binary_location = next(path for path in map(shutil.which, BROWSERS) if path)
    for switch in (*SWITCHES, f"--user-data-dir={profile}"):
        options.add_argument(switch)
    options.add_experimental_option("perfLoggingPrefs", {"enableNetwork": True, "enablePage": False})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
