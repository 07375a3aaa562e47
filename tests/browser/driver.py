"""Headless Chromium, driven over WebDriver: what a person does with a page, and what is then on it."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
MISSING = None if DRIVER and BROWSER else "needs a browser: apt-get install chromium chromium-driver"
KEYS = {"Escape": "\ue00c", "Enter": "\ue007", "Tab": "\ue004", "ArrowLeft": "\ue012", "ArrowUp": "\ue013",
        "ArrowRight": "\ue014", "ArrowDown": "\ue015", "End": "\ue010", "Control": "\ue009"}  # fmt: skip
ARGUMENTS = [
    "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars", "--force-device-scale-factor=1",
    "--use-angle=swiftshader", "--enable-unsafe-swiftshader",  # draws without a GPU
    "--proxy-server=127.0.0.1:9", "--disable-background-networking", "--disable-component-update", "--no-first-run",
]  # fmt: skip


class Browser:
    """A browser without a network. Use it as a context manager."""

    def __init__(self, downloads: Path, width: int = 1280, height: int = 800, *arguments: str) -> None:
        self.downloads = downloads
        self.process = subprocess.Popen(
            [str(DRIVER), "--port=0"], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self.process.stdout is not None
        port = next(found[1] for line in self.process.stdout if (found := re.search(r"on port (\d+)\.$", line.strip())))
        self.url = f"http://127.0.0.1:{port}"
        options = {
            "binary": BROWSER, "args": [*ARGUMENTS, f"--window-size={width},{height}", *arguments],
            "prefs": {"download.default_directory": str(downloads)},
            "perfLoggingPrefs": {"enableNetwork": True, "enablePage": False},
        }  # fmt: skip
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            "unhandledPromptBehavior": "ignore",
        }
        answer = self.ask("POST", "/session", capabilities={"alwaysMatch": wanted})
        self.url += f"/session/{answer['sessionId']}"
        self.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(downloads))

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.ask("DELETE", "")
        finally:
            os.killpg(self.process.pid, signal.SIGKILL)  # also a browser that does not answer
            self.process.wait()

    def ask(self, method: str, path: str, **content: Any) -> Any:
        body = json.dumps(content).encode() if method == "POST" else None
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)["value"]["message"]) from None

    def cdp(self, command: str, **params: Any) -> Any:
        return self.ask("POST", "/goog/cdp/execute", cmd=command, params=params)

    # --- pages ---

    def open(self, page: Path, fragment: str = "") -> None:
        """Open a file anew, and wait until it is ready."""
        self.ask("POST", "/url", url="about:blank")
        self.logs()
        self.ask("POST", "/url", url=f"{page.resolve().as_uri()}{fragment}")
        self.wait("document.documentElement.dataset.recalled !== undefined", 60)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns; ``arguments`` within it are the others."""
        return self.ask("POST", "/execute/sync", script=script, args=arguments)

    def value(self, expression: str, *arguments: Any) -> Any:
        return self.run(f"return {expression}", *arguments)

    def wait(self, expression: str, seconds: float = 30) -> Any:
        """The value of an expression once it is true."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < deadline, f"{expression} did not come true; the page says {self.logs()}"
            time.sleep(0.03)
        return found

    def logs(self) -> tuple[list[str], list[str]]:
        """Since the last call: what the console got, and the addresses that were asked for."""
        console = [entry["message"] for entry in self.ask("POST", "/se/log", type="browser")]
        events = [json.loads(entry["message"])["message"] for entry in self.ask("POST", "/se/log", type="performance")]
        asked = [
            event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
        ]
        return console, asked

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))

    def resize(self, width: int, height: int) -> None:
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    # --- what a person does ---

    def text(self, selector: str) -> str:
        return str(self.value("document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def texts(self, selector: str) -> list[str]:
        return list(self.value("[...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector))

    def click(self, selector: str, containing: str = "") -> None:
        """Click the first element of a selector whose text holds some words."""
        script = """const all = [...document.querySelectorAll(arguments[0])];
            const found = all.find((e) => e.innerText.includes(arguments[1]));
            if (!found) return null;
            found.scrollIntoView({block: "nearest"});
            const box = found.getBoundingClientRect();
            return [box.left + box.width / 2, box.top + box.height / 2]"""
        place: Any = ()
        while place != (place := self.run(script, selector, containing)):  # until the page moves it no more
            assert place, f"no {selector} with {containing!r} among {self.texts(selector)}"
        self.mouse([place])

    def mouse(self, path: list[Any], press: bool = True, pause_ms: int = 15) -> None:
        """Move the mouse along places of the page; press at the first one and release at the last."""

        def to(place: Any) -> dict[str, Any]:
            return {"type": "pointerMove", "duration": pause_ms, "x": round(place[0]), "y": round(place[1])}

        actions = [to(path[0])]
        if press:
            actions += [{"type": "pointerDown", "button": 0}, *map(to, path[1:]), {"type": "pointerUp", "button": 0}]
        else:
            actions += map(to, path[1:])
        mouse = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions}
        self.ask("POST", "/actions", actions=[mouse])

    def keys(self, *names: str) -> None:
        actions = [{"type": kind, "value": KEYS.get(name, name)} for name in names for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", actions=[{"type": "key", "id": "keys", "actions": actions}])

    def type(self, selector: str, text: str) -> None:
        """Replace what a field holds."""
        self.run("const e = document.querySelector(arguments[0]); e.focus(); e.select?.()", selector)
        self.keys(*text)
