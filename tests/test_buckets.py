"""Files in buckets of emulated stores: paths, files, lines, leases, checkpoints."""

import gzip
import importlib.util
import itertools
import json
import threading
import time

import emulators
import pytest
from states import MESHES, abstract, bits, random_bits

from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer, SaveError
from lm2_jax.cli import main
from lm2_jax.config import CheckpointConfig, Config
from lm2_jax.data.text import documents
from lm2_jax.data.tokenizer import load as load_tokenizer
from lm2_jax.errors import UserError, UserFileNotFoundError
from lm2_jax.runtime import appended, clients, files, held, leases, locks, paths
from lm2_jax.training.writers import JsonLines, MetricsWriter, read_lines

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None
        for name in ("gcsfs", "s3fs", "moto", "gcp_storage_emulator")),
    reason="the libraries of buckets are not installed")


@pytest.fixture(scope="module", params=["gs", pytest.param("s3", marks=pytest.mark.slow)])
def store(request, tmp_path_factory):
    for cached in (clients.store, clients.configure):
        cached.cache_clear()
    with emulators.started(request.param, tmp_path_factory.mktemp("store")) as emulator:
        yield emulator


@pytest.fixture
def folder(store, request):
    yield paths.of(store.path(f"a folder/é~/{abs(hash(request.node.name))}"))
    store.control("faults")


# Paths.

def test_the_methods_of_a_path(folder):
    path = folder / "a" / "b [1].txt"
    assert not path.exists() and not folder.is_dir() and list(folder.rglob("*")) == []
    path.write_text("one\r\ntwo\n")
    assert path.is_file() and not path.is_dir() and folder.is_dir() and not folder.is_file()
    assert path.read_text() == "one\ntwo\n" and path.stat().st_size == 9
    assert abs(path.stat().st_mtime - time.time()) < 60
    assert list(folder.iterdir()) == [folder / "a"] == list(folder.glob("*"))
    assert list(folder.rglob("*.txt")) == [path] == list(folder.glob("*/*.txt"))
    with path.open() as file:
        assert file.read() == "one\ntwo\n"
    for wrong in (path.read_bytes, path.stat, path.unlink):
        path.unlink(missing_ok=True)
        if wrong != path.unlink or str(path).startswith("gs"):  # S3 does not tell
            with pytest.raises(FileNotFoundError, match="b .1..txt"):
                wrong()


def test_files_are_written_as_a_whole_or_not_at_all(folder, tmp_path):
    path = folder / "a.txt"
    with pytest.raises(ZeroDivisionError), files.replacing(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert not path.exists()
    with files.replacing(path) as partial:
        partial.write_text("whole")
    assert path.read_text() == "whole"
    with files.new_folder(folder / "new") as partial:
        (partial / "in").mkdir()
        (partial / "in" / "b").write_text("b")
        (partial / "a").write_text("a")
    assert sorted(p.name for p in (folder / "new").rglob("*")) == ["a", "b"]
    with pytest.raises(UserError, match="is not empty"), files.new_folder(folder / "new"):
        pass
    with files.reading(folder / "new") as local:
        assert (local / "in" / "b").read_text() == "b"
    files.rename_folder(folder / "new", folder / "renamed", "a")
    assert not (folder / "new").exists() and (folder / "renamed" / "in" / "b").is_file()
    files.remove_folder(folder / "renamed")
    assert not (folder / "renamed").exists()


def test_a_copy_is_made_once_for_each_version(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("LM2_CACHE", str(tmp_path))
    path = folder / "a.bin"
    path.write_bytes(b"1")
    first = files.cached(path, "1")
    path.write_bytes(b"2")
    assert files.cached(path, "1") == first and first.read_bytes() == b"1"
    assert files.cached(path, "2").read_bytes() == b"2"
    copies = files.cached_folder(folder, ["*.bin"])
    assert (copies / "a.bin").read_bytes() == b"2"
    with pytest.raises(UserFileNotFoundError, match=r"holds none of \*.json"):
        files.cached_folder(folder, ["*.json"])


def test_texts_of_every_kind_are_read(folder):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    row = {"text": "from é"}
    (folder / "a.txt").write_text("\ufefffrom é")
    (folder / "b.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    (folder / "d.jsonl.zst").write_bytes(pyarrow.compress(
        json.dumps(row).encode(), codec="zstd", asbytes=True))
    with files.replacing(folder / "e.parquet") as partial:
        parquet.write_table(pyarrow.table({"text": [row["text"]]}), partial)
    with files.replacing(folder / "f.arrow") as partial:
        table = pyarrow.table({"text": [row["text"]]})
        with pyarrow.ipc.new_stream(str(partial), table.schema) as out:
            out.write_table(table)
    found = documents.find([str(folder)])
    assert len(found) == 6 == len(documents.find([f"{folder}/*"]))
    assert [[document.text for document in documents.read(path)] for path in found] == 6 * [
        ["from é"]]
    with pytest.raises(UserFileNotFoundError, match="no tokenizer at"):
        load_tokenizer(str(folder))


# Lines.

def test_lines_are_in_parts_and_then_in_one_object(folder, monkeypatch):
    monkeypatch.setattr(appended, "PART_BYTES", 100)
    path = folder / "metrics.jsonl"
    lines = JsonLines(path, 0)
    for step in range(1, 21):
        lines.write({"step": step, "loss": 1.0})
        if step % 7 == 0:
            lines.flush()
            assert [line["step"] for line in read_lines(path)] == list(range(1, step + 1))
    assert len(list(folder.glob("metrics.jsonl.part-*"))) > 1
    lines.close()
    assert [path.name for path in folder.iterdir()] == ["metrics.jsonl"]
    assert path.read_bytes().count(b"\n") == 20
    JsonLines(path, 5).close()
    assert [line["step"] for line in read_lines(path)] == [1, 2, 3, 4, 5]


def test_lines_that_cannot_be_written_are_kept(store, folder, capsys, monkeypatch):
    path = folder / "metrics.jsonl"
    lines = JsonLines(path, 0)
    lines.write({"step": 1})
    lines.flush()
    store.control("faults", faults=[{"method": "POST|PUT", "kind": "403"}])
    lines.write({"step": 2})
    lines.flush()
    lines.flush()
    line, = capsys.readouterr().err.splitlines()
    assert line == (f"{path} cannot be written: these credentials do not have the right (403); its "
                    "lines are kept in memory until it can")
    store.control("faults")
    lines.close()
    assert [line["step"] for line in read_lines(path)] == [1, 2]


def test_events_are_copied(folder):
    writer = MetricsWriter(folder, 0)
    writer.write(1, {"loss": 2.5})
    writer.close()
    events, = (folder / "tensorboard").iterdir()
    assert events.name.startswith("events.out.tfevents") and b"loss" in events.read_bytes()


# Leases.

def test_a_second_run_is_told_of_the_first(folder):
    with locks.locked(folder, "lm2 train"):
        assert locks.holder(folder).startswith("lm2 train on ")
        (folder / "metrics.jsonl").write_text("")
        with (pytest.raises(UserError, match="is in use by lm2 train on .*, pid"),
              locks.locked(folder, "lm2 train")):
            pass
    assert locks.holder(folder) == "" and not (folder / ".lock").exists()


def test_of_many_one_gets_the_lease(folder, monkeypatch):
    monkeypatch.setattr(leases, "_is_alive", lambda process: True)
    got, barrier = [], threading.Barrier(4)

    def acquire(number):
        barrier.wait()
        try:
            got.append((number, leases.Lease(folder, str(number), "--workdir", print)))
        except UserError as error:
            got.append((number, error))

    threads = [threading.Thread(target=acquire, args=[number]) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [(number, lease) for number, lease in got if isinstance(lease, leases.Lease)]
    (number, lease), = held
    assert leases.read(folder / ".lock")["holder"] == str(number) and len(got) == 4
    lease.release()


@pytest.fixture
def elsewhere(monkeypatch):
    """Holders seem to be on other machines."""
    monkeypatch.setattr(leases, "_is_alive", lambda process: None)
    monkeypatch.setattr(leases, "POLL_SECONDS", 0.2)


def test_an_expired_lease_is_taken_over_and_its_holder_ends(folder, elsewhere, monkeypatch,
                                                            capsys):
    monkeypatch.setattr(leases, "SECONDS", 2.0)
    lost = []
    monkeypatch.setattr(leases.Lease, "_keep", lambda self: None)  # as a process that is stopped
    first = leases.Lease(folder, "the first", "--workdir", lost.append)
    held.remove(str(folder))  # as a process that is another one
    began = time.monotonic()
    second = leases.Lease(folder, "the second", "--workdir", print)
    assert 0.5 < time.monotonic() - began < 10
    assert "was in use by the first; if that does not renew its lease" in capsys.readouterr().err
    with pytest.raises(PermissionError, match="another run has the lease"):
        first.confirm()
    assert "was taken over by the second, since this run did not renew" in lost[0]
    first.release()
    assert leases.holder(folder) == "the second"
    second.release()


def test_nothing_is_written_once_the_lease_may_be_lost(store, folder, elsewhere, monkeypatch):
    """Lines are kept, a save fails, nothing is deleted; with the lease all of them go on."""
    monkeypatch.setattr(leases, "SECONDS", 2.0)
    monkeypatch.setattr(leases.Lease, "_keep", lambda self: None)
    lease = leases.Lease(folder, "the first", "--workdir", print)
    old, lines = folder / "old.txt", appended.Appended(folder / "metrics.jsonl", b"")
    old.write_text("1")
    checkpointer = Checkpointer(folder, CheckpointConfig(), log=print)
    state = random_bits(1, MESHES[0])
    lease._renewed -= 1.1
    store.control("faults", faults=[{"method": "POST|PUT", "match": "lock", "kind": "403"}])
    lines.write(b"{}\n")
    assert not lines.sync() and appended.read(folder / "metrics.jsonl") == b""
    for change in (old.unlink, folder.remove_below, lambda: old.write_text("2"),
                   lambda: files.copy(old, folder / "new.txt")):
        with pytest.raises(PermissionError):
            change()
    with pytest.raises(SaveError, match="could not be saved: these credentials do not have"):
        checkpointer.save(1, *state, {})
    assert old.read_text() == "1" and not (folder / "new.txt").exists()
    assert not list((folder / "checkpoints").rglob("*"))
    store.control("faults")
    assert lines.sync() and appended.read(folder / "metrics.jsonl") == b"{}\n"
    checkpointer.save(2, *state, {})
    checkpointer.close()
    assert checkpointer.steps() == [2]
    lines.close()
    lease.release()


def test_a_save_that_began_with_the_lease_is_not_completed_without_it(store, folder, elsewhere,
                                                                      monkeypatch):
    monkeypatch.setattr(leases.Lease, "_keep", lambda self: None)
    lost = []
    lease = leases.Lease(folder, "the first", "--workdir", lost.append)
    checkpointer = Checkpointer(folder, CheckpointConfig(), log=print)
    verify = checkpointer._verify

    def lose_and_verify():
        (folder / ".lock").write_text(json.dumps({"holder": "the second"}))
        lease._renewed -= leases.SECONDS
        verify()

    monkeypatch.setattr(checkpointer, "_verify", lose_and_verify)
    with pytest.raises(SaveError, match="could not be saved"):
        checkpointer.save(1, *random_bits(1, MESHES[0]), {})
        checkpointer.wait()
    assert "was taken over by the second" in lost[0] and checkpointer.steps() == []
    assert list((folder / "checkpoints" / "1").rglob("*"))  # arrays that nobody chooses
    lease.release()
    assert (folder / ".lock").exists()


def test_a_lease_that_is_renewed_is_not_taken_over(folder, elsewhere, monkeypatch):
    monkeypatch.setattr(leases, "SECONDS", 3.0)
    lease = leases.Lease(folder, "the first", "--workdir", print)
    with pytest.raises(UserError, match="is in use by the first"):
        leases.Lease(folder, "the second", "--workdir", print)
    lease.release()


def test_the_lease_of_a_process_that_ended_here_is_taken_over_at_once(folder, monkeypatch):
    gone = leases._this_process() | {"pid": 2**22 + 1}
    with monkeypatch.context() as patched:
        patched.setattr(leases, "_this_process", lambda: gone)
        patched.setattr(leases.Lease, "_keep", lambda self: None)
        leases.Lease(folder, "the first", "--workdir", print)
    assert locks.holder(folder) == ""
    with locks.locked(folder, "lm2 train"):
        pass


@pytest.mark.parametrize("method,kind,wanted", [
    ("POST|PUT", "403", "objects cannot be written: these credentials do not have the right"),
    ("POST|PUT", "401", "objects cannot be written: the store does not accept the credentials"),
    ("DELETE", "403", "objects cannot be deleted, which old checkpoints need: these credentials")])
def test_a_right_that_is_missing_is_named_at_the_start(store, folder, method, kind, wanted):
    store.control("faults", faults=[{"method": method, "kind": kind}])
    with pytest.raises(UserError, match=wanted):
        locks.require_writable(folder)


def test_a_bucket_that_is_not_there_is_named(store):
    with pytest.raises(UserError, match="there is no bucket another-bucket"):
        locks.require_writable(paths.of(f"{store.scheme}://another-bucket/run"))


# Checkpoints.

def saved(folder, steps, keep=2):
    checkpointer = Checkpointer(folder, CheckpointConfig(keep=keep))
    for step in steps:
        checkpointer.save(step, *random_bits(step, MESHES[0]), {"next_step": step})
        checkpointer.wait()
    checkpointer.close()
    return checkpointer


def test_checkpoints_and_what_is_left_of_unfinished_ones(store, folder):
    checkpoints = saved(folder, [1, 2, 3]).directory
    reading = Checkpointer(folder)
    assert reading.steps() == [2, 3] and reading.meta(3) == {"next_step": 3}
    assert bits(reading.restore(3, *abstract(random_bits(0, MESHES[0])))) == bits(
        random_bits(3, MESHES[0]))
    # A save that was interrupted has all but the marker, and is no checkpoint.
    (checkpoints / "3" / "commit_success.txt").unlink()
    assert reading.newest_valid_step() == (2, [])
    # So is a step that was half deleted, marker first.
    saved(folder, [4])
    assert reading.steps() == [2, 4] and not (checkpoints / "3").exists()
    # A changed object is seen by the checksums that the store keeps.
    changed = next(path for path in (checkpoints / "4" / "params" / "d").iterdir())
    content = bytearray(changed.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(bytes(content))
    step, lines = reading.newest_valid_step()
    assert step == 2 and "has changed bytes; using step 2 instead" in lines[0]
    store.control("counts")
    assert reading.newest_valid_step(step=2) == (2, [])
    assert store.control("counts").get("read", 0) <= 1  # a check reads no arrays
    reading.rename_steps_after(2)
    assert reading.all_steps() == [2] and (checkpoints / "4.damaged").is_dir()


def test_status_and_checkpoints_of_a_run_in_a_bucket(folder, capsys):
    workdirs.store_config(Config(checkpoint=CheckpointConfig(keep_best=1)), folder)
    saved(folder, [2, 4, 6], keep=3)
    lines = JsonLines(folder / "metrics.jsonl", 0)
    lines.write({"step": 6, "loss": 2.5, "time": time.time()})
    lines.close()
    with locks.locked(folder, "lm2 train"):
        assert main(["status", "--json", str(folder)]) == 0
        assert main(["checkpoints", str(folder), "--delete=2"]) == 2
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["step"], found["loss"], found["saved_step"]) == (6, 2.5, 6)
    assert "lm2 train on " in found["used_by"] and "in use by lm2 train" in err
    assert main(["checkpoints", str(folder), "--delete=4", "--verify"]) == 0
    assert Checkpointer(folder).all_steps() == [2, 6]
    assert not list((folder / "checkpoints" / "4").rglob("*"))


@pytest.mark.parametrize("kind,wanted", [
    ("401", "the store does not accept the credentials, or these have expired (401)"),
    pytest.param("403", "these credentials do not have the right (403)", marks=pytest.mark.slow)])
def test_a_save_that_is_refused_is_one_line(store, folder, kind, wanted):
    saved(folder, [1])
    store.control("faults", faults=[
        {"method": "POST|PUT", "match": "checkpoints/2/params", "kind": kind, "after": 2}])
    with pytest.raises(SaveError) as failure:
        saved(folder, [2])
    assert str(failure.value) == (
        f"checkpoint of step 2 could not be saved: {wanted} ({folder}/checkpoints); the newest "
        "checkpoint is of step 1")
    store.control("faults")
    assert Checkpointer(folder).newest_valid_step() == (1, [])
    saved(folder, [2])
    assert Checkpointer(folder).newest_valid_step() == (2, [])


@pytest.mark.parametrize("kind", ["cut", *(pytest.param(kind, marks=pytest.mark.slow)
                                          for kind in ("503", "429", "silent"))])
def test_a_request_that_fails_for_a_moment_is_repeated(store, folder, kind):
    store.control("faults", faults=[
        {"method": "POST|PUT", "match": "checkpoints/1/.*/d/", "kind": kind, "times": 1}])
    saved(folder, [1])
    assert Checkpointer(folder).newest_valid_step() == (1, [])


@pytest.mark.slow
@pytest.mark.parametrize("kind,wanted", [
    ("503", "the store answers 503; gave up after 6 attempts"),
    ("500", "the store answers 500; gave up after 6 attempts"),
    ("429", "the store asks for fewer requests (429); gave up after 6 attempts"),
    ("cut", "the store cannot be reached; gave up after 6 attempts")])
def test_a_store_that_fails_for_long_is_given_up(store, folder, kind, wanted):
    saved(folder, [1])
    store.control("faults", faults=[{"method": "POST" if store.scheme == "gs" else "PUT",
                                     "match": "checkpoints/2/params", "kind": kind, "after": 2}])
    began = time.monotonic()
    with pytest.raises(SaveError) as failure:
        saved(folder, [2])
    assert wanted in str(failure.value) and time.monotonic() - began < 120
    store.control("faults")
    assert Checkpointer(folder).newest_valid_step() == (1, [])


@pytest.mark.slow
def test_old_checkpoints_that_cannot_be_deleted_are_named(store, folder):
    saved(folder, [1, 2])
    store.control("faults", faults=[
        {"method": "DELETE", "match": "checkpoints/1/", "kind": "403"},
        {"method": "POST", "match": r"\?delete", "kind": "403"}])
    with pytest.raises(SaveError, match="step 3 was saved, but older ones could not be removed: "
                                        "these credentials do not have the right"):
        saved(folder, [3])
    store.control("faults")
    assert Checkpointer(folder).newest_valid_step() == (3, [])


# Kills, at every write: in a store in memory, with one write after the other.

class Killed(BaseException):
    pass


@pytest.fixture
def memory(monkeypatch):
    """A store in memory that kills the process before or after a write of a given number."""
    import fsspec

    class Memory:
        def __init__(self):
            self._fs, self.left, self.after = fsspec.filesystem("memory"), 10**9, False
            self._fs.store.clear()

        def __getattr__(self, name):
            function = getattr(self._fs, name)
            if name not in ("pipe_file", "put_file", "rm_file", "rm"):
                return function

            def counted(*args):
                self.left -= 1
                if self.left == 0 and not self.after:
                    raise Killed
                if self.left < 0:
                    raise Killed
                function(*args)
                if self.left == 0:
                    raise Killed
            return counted

    found = Memory()
    monkeypatch.setattr(clients, "store", lambda scheme: found)
    monkeypatch.setattr(appended.Appended, "_upload_now_and_then", lambda self: None)
    return found


@pytest.mark.parametrize("after", [False, True])
def test_each_line_is_there_once_whichever_write_was_the_last(memory, after, monkeypatch):
    monkeypatch.setattr(appended, "PART_BYTES", 60)
    path, every = paths.of("gs://a-bucket/run/metrics.jsonl"), 3

    def run(first, last):
        """Trains; a step counts as saved when its lines are."""
        nonlocal saved_step
        lines = JsonLines(path, first)
        for step in range(first + 1, last + 1):
            lines.write({"step": step, "loss": step * 1.0}, {"step": step, "held_out": 1})
            if step % 2 == 0 or step == last:
                lines.flush()
            if step % every == 0 or step == last:
                lines.flush()
                saved_step = step
        lines.close()

    for kill, second in itertools.product(range(1, 14), range(1, 6)):
        memory._fs.store.clear()
        memory.after, saved_step = after, 0
        for moment in (kill, second, 10**9):
            memory.left = moment
            try:
                run(saved_step, 10)
            except Killed:
                pass
            found = [line["step"] for line in read_lines(path)]
            assert found[:2 * saved_step] == sorted(2 * list(range(1, saved_step + 1))), kill
        assert found == sorted(2 * list(range(1, 11))), (kill, second)
        assert len(list(paths.of("gs://a-bucket/run").iterdir())) == 1


