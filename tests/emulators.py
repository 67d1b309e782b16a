"""Emulators of Google Cloud Storage and of S3 on loopback, behind a proxy that injects faults."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BUCKET = "a-bucket"


@dataclass
class Emulator:
    """A store with one bucket.

    Attributes:
      scheme: "gs" or "s3".
      url: of its proxy, as http://127.0.0.1:PORT.
      environment: of the processes that are to use it.
    """

    scheme: str
    url: str
    environment: dict[str, str] = field(default_factory=dict)

    def path(self, key: str) -> str:
        return f"{self.scheme}://{BUCKET}/{key}"

    def control(self, command: str, **values) -> dict:
        """Asks the proxy: "faults" (sets them), "counts" (and sets them to 0), "log"."""
        request = urllib.request.Request(f"{self.url}/-/{command}", json.dumps(values).encode(),
                                         method="POST")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())


@contextlib.contextmanager
def started(scheme: str, folder: Path) -> Iterator[Emulator]:
    """Starts the emulator and its proxy; sets the environment of this process for them."""
    store, front = free_port(), free_port()
    log = (folder / f"{scheme}.log").open("w")
    server = ([Path(sys.executable).with_name("gcp-storage-emulator"), "start", "--host=127.0.0.1",
               f"--port={store}", "--in-memory"] if scheme == "gs" else
              [Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", str(store)])
    with contextlib.ExitStack() as stack:
        stack.callback(log.close)
        for arguments in ([*map(str, server)], [
                sys.executable, str(Path(__file__).parent / "tools" / "store_proxy.py"),
                f"--port={front}", f"--to=127.0.0.1:{store}"]):
            process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT,
                                       cwd=folder)
            stack.callback(process.wait)
            stack.callback(process.kill)
        emulator = Emulator(scheme, f"http://127.0.0.1:{front}", environment(scheme, front))
        make_bucket(scheme, store, folder / f"{scheme}.log")
        for _ in range(200):
            with contextlib.suppress(OSError):
                emulator.control("counts")
                break
            time.sleep(0.05)
        old = dict(os.environ)
        os.environ.update(emulator.environment)
        try:
            yield emulator
        finally:
            os.environ.clear()
            os.environ.update(old)


def environment(scheme: str, port: int) -> dict[str, str]:
    url = f"http://127.0.0.1:{port}"
    if scheme == "gs":
        return {"STORAGE_EMULATOR_HOST": url, "TENSORSTORE_GCS_HTTP_URL": url,
                "TENSORSTORE_GCS_HTTP_VERSION": "1.1", "GOOGLE_CLOUD_PROJECT": "a-project",
                "NO_GCE_CHECK": "true"}
    return {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}


def make_bucket(scheme: str, port: int, log: Path) -> None:
    url = f"http://127.0.0.1:{port}/"
    request = (urllib.request.Request(f"{url}storage/v1/b?project=p",
                                      json.dumps({"name": BUCKET}).encode(),
                                      {"Content-Type": "application/json"})
               if scheme == "gs" else urllib.request.Request(url + BUCKET, method="PUT"))
    for _ in range(400):
        try:
            urllib.request.urlopen(request, timeout=30).close()
            return
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"no bucket: {error.read().decode()}") from error
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(log.read_text())


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]
