"""A real Chromium for the tests of the page: the few commands of WebDriver that they need, over chromedriver.

Source: W3C WebDriver, https://www.w3.org/TR/webdriver2/
"""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the key of an element's reference, fixed by the standard
PATIENCE_S = 30.0
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "Left": "\ue012", "Right": "\ue014"}


def find_chromium() -> tuple[str, str] | None:
    """Paths of Chromium and chromedriver, None unless both are here."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    return (chromium, driver) if chromium and driver else None


class Browser:
    """A session of a browser that is open."""

    def __init__(self, address: str, capabilities: dict[str, Any]) -> None:
        self.address = address
        session = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        self.address += f"/session/{session['sessionId']}"

    def open(self, url: str) -> None:
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """The value of a function's body in the page; a promise is awaited."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def wait(self, expression: str, *arguments: Any) -> Any:
        """The value of an expression as soon as it is true."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not (value := self.run(f"return {expression}", *arguments)):
            if time.monotonic() > deadline_s:
                shown = self.run("return document.body.innerText")
                raise TimeoutError(f"never true in {PATIENCE_S:g} s: {expression}; the page shows {shown!r}")
            time.sleep(0.02)
        return value

    def text(self, selector: str) -> str:
        return str(self._ask("GET", f"/element/{self._find(selector)}/text"))

    def click(self, selector: str) -> None:
        """As a mouse does: refused if something lies over it or it cannot be seen."""
        self._ask("POST", f"/element/{self._find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Into an element; a path, into a file input."""
        self._ask("POST", f"/element/{self._find(selector)}/value", {"text": text})

    def press(self, *names: str) -> None:
        """Keys, by names in KEYS, to whatever has the focus."""
        keys = [{"type": kind, "value": KEYS[name]} for name in names for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def devtools(self, command: str, **parameters: Any) -> Any:
        return self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def log(self, kind: str) -> list[dict[str, Any]]:
        """Entries since the last call: "browser" for the console."""
        return list(self._ask("POST", "/se/log", {"type": kind}))

    def close(self) -> None:
        self._ask("DELETE", "")

    def _find(self, selector: str) -> str:
        found = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        return str(found[ELEMENT])

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=4 * PATIENCE_S) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(json.load(error)["value"]["message"]) from None


@contextmanager
def driver() -> Iterator[Callable[..., Browser]]:
    """Start chromedriver; what comes opens a headless browser with the arguments it is given."""
    found = find_chromium()
    if found is None:
        raise FileNotFoundError("no chromium and chromedriver on the path; apt-get install chromium-driver")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profiles:  # Chromium leaves some behind
        environment = {**os.environ, "TMPDIR": profiles}
        process = subprocess.Popen([found[1], "--port=0"], stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout
            line = next(line for line in process.stdout if "started successfully on port" in line)
            address = f"http://127.0.0.1:{int(line.rstrip().rstrip('.').rsplit(' ', 1)[1])}"

            def browser(arguments: Sequence[str] = ()) -> Browser:
                # No sandbox, as tests run as root in containers; nothing is fetched for the browser itself.
                always = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
                always += ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
                options = {"binary": found[0], "args": [*always, *arguments]}
                return Browser(
                    address, {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
                )

            yield browser
        finally:
            process.terminate()
            process.wait()
