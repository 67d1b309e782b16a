"""Files of the user are opened, written, moved and locked in one place, read from the sources.

So a path may be in a bucket: `paths.of` makes it, its methods read it, `files` and `appended` write
it, `locks` locks it.
"""

import ast
import re

import pytest
from test_layers import PACKAGE

# What implements these, and what never touches a file of the user: code of the package itself,
# the machine's own files, terminals, local caches.
DOOR = {"runtime/paths.py", "runtime/files.py", "runtime/appended.py", "runtime/locks.py",
        "runtime/leases.py", "runtime/buckets.py"}
OWN = {"runtime/console.py", "runtime/compilation_cache.py", "runtime/children.py",
       "config/shipped.py", "config/source.py", "data/workers.py", "report/paper.py",
       "report/provenance.py", "bench/eval.py", "bench/device.py", "bench/pieces.py",
       "bench/prefill.py", "runtime/huge_pages.py",
       "eval/identity.py", "eval/harness/running.py"}
FORBIDDEN_MODULES = {"shutil", "fcntl"}
FORBIDDEN = {"os": {"open", "replace", "rename", "remove", "unlink", "mkdir", "makedirs", "listdir",
                    "scandir", "walk", "stat", "rmdir", "access", "link", "symlink"},
             "os.path": {"exists", "isfile", "isdir", "getsize", "getmtime"},
             "glob": {"glob", "iglob"}, "gzip": set(), "np": {"memmap"}}
METHODS = {"rename", "write_text", "write_bytes", "touch", "symlink_to", "hardlink_to", "rmdir"}
WRITERS = {"partial", "temporary", "copy", "to", "target"}  # names of local paths from `files`


def broken(path, source):
    """One line for each use of a file beside the door; Path(x).name is of a text, not a file."""
    tree = ast.parse(source)
    names = {node.value for node in ast.walk(tree)
             if isinstance(node, ast.Attribute) and node.attr == "name"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in FORBIDDEN_MODULES:
                    yield f"{path}:{node.lineno} imports {alias.name}"
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        module, _, function = name.rpartition(".")
        if name == "open" and not _opens_local(node):
            yield f"{path}:{node.lineno} opens a file"
        if name == "Path" and not _is_own(node) and node not in names:
            yield f"{path}:{node.lineno} makes a Path"
        if function in FORBIDDEN.get(module, ()):
            yield f"{path}:{node.lineno} calls {name}"
        if function in METHODS and module and not _is_local(module):
            yield f"{path}:{node.lineno} calls {name}"
        if name.endswith(".open") and _mode(node) and set(_mode(node)) & set("wax+"):
            if not _is_local(module):
                yield f"{path}:{node.lineno} writes with {name}"


def _opens_local(node):
    return bool(node.args) and _is_local(ast.unparse(node.args[0]))


def _is_local(text):
    """Whether a path comes from `files.replacing` and the like, which yield local ones."""
    return bool(WRITERS.intersection(word.strip("_") for word in re.findall(r"\w+", text)))


def _is_own(node):
    """Path(__file__), and what is made for a moment on a local disk."""
    return bool(node.args) and ("__file__" in ast.unparse(node.args[0])
                                or ast.unparse(node.args[0]).startswith(("tempfile.", "'/proc"))
                                or "temporary" in ast.unparse(node.args[0]))


def _mode(node):
    mode = node.args[0] if node.args else next(
        (keyword.value for keyword in node.keywords if keyword.arg == "mode"), None)
    return mode.value if isinstance(mode, ast.Constant) and isinstance(mode.value, str) else ""


def test_no_file_is_touched_beside_the_door():
    found = [line for path in sorted(PACKAGE.rglob("*.py"))
             if (name := path.relative_to(PACKAGE).as_posix()) not in DOOR | OWN
             for line in broken(name, path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize("source", [
    "open(workdir / 'metrics.jsonl', 'a')", "(workdir / 'a').rename(workdir / 'b')",
    "os.replace(a, b)", "import fcntl", "import shutil", "Path(workdir)", "os.path.exists(a)",
    "path.write_text('a')", "path.open('w')", "path.touch()", "glob.glob('*')", "os.access(a, 1)",
    "history.write_text('a')", "(folder / 'tokenizer.json').write_text('a')"])
def test_a_file_that_is_touched_beside_it_is_seen(source):
    assert list(broken("x.py", source))


@pytest.mark.parametrize("source", [
    "paths.of(workdir)", "Path(text).name", "partial.write_text('a')", "path.open('rb')",
    "Path(__file__).parent", "path.read_text()", "open(partial, 'w')"])
def test_what_is_allowed_is_not_refused(source):
    assert not list(broken("x.py", source))
