"""Runs the scripts of launch/ as users do, with stand-ins for what this machine does not have."""

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
STANDIN = """#!/bin/bash
printf '%s\\0' "${0##*/}" "$@" >> "$CALLS"
printf '\\036\\0' >> "$CALLS"
"""


def tool(name):
    """A linter beside this Python, or on the path; None if there is none."""
    return shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


class Machine:
    """A machine on which some commands only note how they were called.

    Attributes:
      environment: of what `run` and `start` run; the caller may add to it.
    """

    def __init__(self, folder, **standins):
        self._calls, self._bin = folder / "calls", folder / "stand-ins"
        self._bin.mkdir()
        self._calls.touch()
        for name, rest in standins.items():
            path = self._bin / name
            path.write_text(STANDIN + rest, encoding="utf-8")
            path.chmod(0o755)
        keep = {"HOME", "LANG", "TMPDIR", "USER"} & os.environ.keys()
        self.environment = {name: os.environ[name] for name in keep} | {
            "PATH": f"{self._bin}:{os.environ['PATH']}", "CALLS": str(self._calls),
            "FOLDER": str(folder)}

    def start(self, *command, **environment):
        return subprocess.Popen(
            [str(word) for word in command], env=self.environment | environment, cwd=ROOT,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, *command, **environment):
        """The exit status, and what came on stdout and stderr."""
        process = self.start(*command, **environment)
        out, err = process.communicate(timeout=20)
        return process.returncode, out, err

    def calls(self):
        """What the stand-ins were called with, each a list of words."""
        calls, words = [], self._calls.read_text(encoding="utf-8").split("\0")[:-1]
        while words:
            end = words.index("\036")
            calls.append(words[:end])
            words = words[end + 1:]
        self._calls.write_text("", encoding="utf-8")
        return calls


def commands(printed):
    """Lines of a dry run, each as a shell would split it."""
    return [shlex.split(line) for line in printed.splitlines()]


def wait_for(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "did not happen"
        time.sleep(0.02)
