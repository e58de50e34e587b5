"""A headless Chromium that opens pages of this machine, driven through the DevTools protocol."""

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
NO_GL = ("--disable-gpu", "--disable-3d-apis")
_SLOW = 120  # seconds that anything may take on a machine with much else to do
_KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "Enter": 13, "Escape": 27}


class Tab:
    """One page.

    Attributes:
        console: Errors and warnings of the console, and uncaught exceptions.
        requests: Addresses that the page asked for.
    """

    def __init__(self, socket):
        self._socket, self._numbers = socket, itertools.count(1)
        self.console, self.requests, self._loaded = [], [], 0

    def call(self, method, **parameters):
        """Call a method of the protocol and return its result."""
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=_SLOW))
            self._notice(message)
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                return message["result"]

    def _notice(self, message):
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.console.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.console.append(" ".join(str(each.get("value", each)) for each in parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.console.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

    def open(self, path, width=1280, height=900):
        """Open a file without a network, in a window of `width` times `height` pixels, and wait until it is loaded."""
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self.call("Network.emulateNetworkConditions", **offline)
        self.resize(width, height)
        before = self._loaded
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        while self._loaded == before:
            self._notice(json.loads(self._socket.recv(timeout=_SLOW)))

    def resize(self, width, height=900):
        """Give the window another size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def run(self, script):
        """Return the value of a script; a promise is waited for."""
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def wait(self, script, seconds=_SLOW):
        """Wait until a script gives something true, and return that."""
        end = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < end, f"{script} stays {value!r}; {self.console}"
            time.sleep(0.05)
        return value

    def press(self, *keys):
        """Press keys, one after the other."""
        for key in keys:
            code = {"windowsVirtualKeyCode": _KEYS.get(key, ord(key.upper()) if len(key) == 1 else 0)}
            text = {"text": key} if len(key) == 1 else {}
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **code, **text)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **code)

    def choose_files(self, selector, paths):
        """Choose files in a file input."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def screenshot(self, path, whole=False):
        """Save what the window shows, or the whole page, as a PNG file."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser(*options):
    """Start Chromium and give a `Tab`; it ends with the block."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [CHROMIUM, "--headless", "--no-sandbox", "--hide-scrollbars", "--remote-debugging-port=0"]
        command += [f"--user-data-dir={profile}", "--no-first-run", *options, "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(_address(Path(profile)), max_size=None, proxy=None) as socket:
                    yield Tab(socket)
            finally:
                process.terminate()


def _address(profile, seconds=_SLOW):
    """The address of the first page of the Chromium that uses a profile."""
    import urllib.request

    port, end = profile / "DevToolsActivePort", time.monotonic() + seconds
    while not (port.is_file() and port.read_text().count("\n")):
        assert time.monotonic() < end, "Chromium does not start"
        time.sleep(0.05)
    local = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with local.open(f"http://127.0.0.1:{port.read_text().split()[0]}/json/list") as answer:
        return next(each["webSocketDebuggerUrl"] for each in json.load(answer) if each["type"] == "page")
