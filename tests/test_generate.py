"""Reading once and asking often: the Python functions, states in files, and the two commands."""

import dataclasses
import functools
import gzip
import io
import json

import hf_folders
import jax
import numpy as np
import pytest

import lm2_jax as lm2
from lm2_jax import partition
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.checkpointer import Checkpointer
from lm2_jax.cli import main
from lm2_jax.config import CheckpointConfig, Config, MemoryConfig, ModelConfig
from lm2_jax.data import tokenizer
from lm2_jax.errors import UserError
from lm2_jax.generation import saved
from lm2_jax.generation.reading import Reading
from lm2_jax.generation.states import ReadState, Source
from lm2_jax.model.state import init_state

pytestmark = pytest.mark.usefixtures("compiled_quickly")

T, NEW = 5, 12  # tokens of a segment; new ones, so that every text crosses two borders
STORY = "John went to the kitchen. Mary went to the garden. It was dark there. "
PROMPTS = ["John", STORY, "Mary went to"]
DRAWN = {"max_new_tokens": NEW, "temperature": 1.0, "stop_ids": ()}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir of a small random model; its texts are the bytes that it happens to draw."""
    folder = tmp_path_factory.mktemp("asked")
    tokens = tokenizer.train([STORY], kind="bpe", vocab_size=290)
    tokens.save(folder / "tokenizer.json")
    config = Config(model=ModelConfig(
        vocab_size=tokens.vocab_size, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1,
        mlp_dim=16, segment_length=T, attention_window=7,
        memory=MemoryConfig(num_slots=3, num_heads=2, num_layers=2)))
    workdirs.store_config(config, folder)
    checkpointer = Checkpointer(folder, CheckpointConfig())
    checkpointer.save(3, hf_folders.variables(config.model), {"step": np.int32(3)}, {})
    checkpointer.wait()
    checkpointer.close()
    return folder


@pytest.fixture(scope="module")
def run(workdir):
    return lm2.load(workdir, mesh=partition.make_mesh({}, jax.devices()[:1]))


@pytest.fixture(scope="module")
def drawn(run):
    """What is drawn for each prompt, all in one batch."""
    return lm2.generate(run, PROMPTS, seed=[1, 2, 3], **DRAWN)


def bits(state):
    """All that a state holds."""
    return [*(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.reading.state)),
            state.reading.tails[0].tobytes(), state.reading.segments]


# Generation.

def test_a_text_depends_on_its_own_prompt_and_seed_alone(run, drawn):
    assert len({text.tokens for text in drawn}) == 3
    for b, prompt in enumerate(PROMPTS):
        alone, = lm2.generate(run, prompt, seed=1 + b, batch_size=3, **DRAWN)
        assert alone.tokens == drawn[b].tokens and alone.reason == "length"
    ids = run.tokenizer.encode(PROMPTS[0])
    assert lm2.generate(run, ids, seed=1, batch_size=3, **DRAWN)[0].tokens == drawn[0].tokens
    assert lm2.generate(run, ids, seed=9, batch_size=3, **DRAWN)[0].tokens != drawn[0].tokens


def test_pieces_are_given_as_they_come(run, drawn):
    pieces = [[], [], []]
    again = lm2.generate(run, PROMPTS, seed=[1, 2, 3], on_text=lambda b, text:
                         pieces[b].append(text), **DRAWN)
    assert [text.text for text in again] == ["".join(parts) for parts in pieces]
    assert [run.tokenizer.decode(text.tokens) for text in drawn] == [text.text for text in again]
    assert min(map(len, pieces)) > 1


def test_a_text_ends_at_a_stop_token_or_before_a_stop_string(run, drawn):
    token, at = drawn[1].tokens[6], drawn[1].tokens.index(drawn[1].tokens[6])
    stopped = lm2.generate(run, PROMPTS, seed=[1, 2, 3], **DRAWN | {"stop_ids": [token]})
    assert stopped[1].tokens == drawn[1].tokens[:at + 1] and stopped[1].reason == "stop"
    assert stopped[1].text == run.tokenizer.decode(drawn[1].tokens[:at])
    text = drawn[1].text
    stop = text[len(text) // 2:][:2]
    stopped = lm2.generate(run, PROMPTS, seed=[1, 2, 3], stop=["never", stop], **DRAWN)
    assert stopped[1].text == text[:text.index(stop)] and stopped[1].reason == "stop"
    for b, found in enumerate(stopped):
        state = lm2.read(run, found.tokens, lm2.read(run, run.tokenizer.encode(PROMPTS[b])))
        assert found.state.reading.tails[0].tolist() == state.reading.tails[0].tolist()
        assert found.state.tokens == state.tokens


def test_a_text_goes_on_from_its_state(run):
    """Whichever row ends first: the text is the one that is generated at once."""
    options = {"stop_ids": ()}
    whole = lm2.generate(run, PROMPTS, max_new_tokens=NEW, **options)
    end = whole[0].tokens[3]
    begun = lm2.generate(run, PROMPTS, max_new_tokens=NEW - 3, stop_ids=[end])
    assert len({len(text.tokens) for text in begun}) > 1
    for b, text in enumerate(begun):
        more, = lm2.generate(run, [[]], max_new_tokens=NEW - len(text.tokens), state=text.state,
                             batch_size=3, **options)
        assert text.tokens + more.tokens == whole[b].tokens


def test_tokens_of_the_prompt_and_of_the_text_are_penalized(run):
    found, = lm2.generate(run, STORY, repetition_penalty=1e9, max_new_tokens=NEW, stop_ids=())
    assert not set(found.tokens) & set(run.tokenizer.encode(STORY))
    assert len(set(found.tokens)) == NEW


def test_a_question_is_asked_as_in_training(run):
    asked = lm2.generate(run, ["John went home. It was dark.", ""], question="Where is John?",
                         max_new_tokens=2, batch_size=3)
    t = run.tokenizer
    for found, text in zip(asked, [" John went home. It was dark.", ""], strict=True):
        ids = [*t.encode(f"{text} Where is John?"), t.answer_id]
        for prompt in (ids, f"{text} Where is John? "):
            same, = lm2.generate(run, prompt, max_new_tokens=2, batch_size=3)
            assert found.tokens == same.tokens


# Reading.

def other_model(run, **changes):
    """The same weights and tokenizer under another config."""
    model = dataclasses.replace(run.config.model, **changes)
    return dataclasses.replace(run, config=dataclasses.replace(run.config, model=model))


def test_reading_in_parts_is_reading_at_once_bit_by_bit(run):
    """Also where the window is longer than what was read before."""
    run = other_model(run, attention_window=64)
    ids = run.tokenizer.encode(STORY)
    whole = lm2.read(run, ids, name="all")
    for cut in (1, T, 2 * T + 1):
        begun = lm2.read(run, ids[:cut], name="A")
        parts = lm2.read(run, ids[cut:], begun, name="B")
        assert bits(parts) == bits(whole) and parts.tokens == whole.tokens == len(ids)
        assert [(s.name, s.tokens) for s in parts.sources] == [("A", cut), ("B", len(ids) - cut)]
    assert bits(lm2.read(run, STORY)) != bits(whole)  # sentence by sentence, as in training


def test_many_questions_to_one_state_or_to_several(run, tmp_path):
    states = [lm2.read(run, STORY, name="A"), lm2.read(run, "It was dark.", name="B")]
    options = {"max_new_tokens": 4, "stop_ids": ()}
    together = lm2.generate(run, PROMPTS, state=states[0], **options)
    mixed = lm2.generate(run, PROMPTS, state=[states[0], states[1], states[0]], **options)
    for b, prompt in enumerate(PROMPTS):
        alone, = lm2.generate(run, prompt, state=states[b % 2], batch_size=3, **options)
        assert mixed[b].tokens == alone.tokens
        assert b % 2 or together[b].tokens == alone.tokens
    assert mixed[1].tokens != together[1].tokens
    assert mixed[1].state.name == "B"
    saved.save(tmp_path / "two", states)
    kept = saved.load(tmp_path / "two", run)
    assert [*kept] == ["A", "B"] and [bits(s) for s in kept.values()] == [*map(bits, states)]
    assert kept["B"].sources == states[1].sources
    with pytest.raises(UserError, match=r"two has 2 texts, so one must be named .*: A, B"):
        lm2.read_state(tmp_path / "two", run)
    with pytest.raises(UserError, match=r"two has no text C .*: A, B"):
        lm2.read_state(tmp_path / "two", run, "C")
    with pytest.raises(UserError, match="two texts are called A"):
        saved.save(tmp_path / "three", [states[0], states[0]])


@pytest.mark.parametrize("changes", [
    {}, {"attention_window": 0}, {"dtype": "bfloat16"}, {"memory": MemoryConfig(num_layers=0)},
    *({"memory": MemoryConfig(kind=kind, num_slots=2, num_heads=2, num_layers=2, key_dim=4)}
      for kind in ("rmt", "armt", "delta"))])
def test_every_kind_of_state_is_kept_as_it_is(run, tmp_path, changes):
    other = other_model(run, **changes)
    model = other.config.model
    rng = np.random.default_rng(0)
    state = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(a.dtype),
                         jax.eval_shape(functools.partial(init_state, model, 1)))
    if state.window:  # which has four tokens
        state.window.valid_BW[:] = np.arange(7) >= 3
        state.window.key_QBWKH[:, :, :3] = state.window.value_QBWKH[:, :, :3] = 0
    reading = Reading(state, (np.arange(3, dtype=np.int32),), (4,), 1)
    kept = ReadState(other, reading, (Source("A", "0" * 64, 23),))
    kept.save(tmp_path / "new" / "A.state")
    again = lm2.read_state(tmp_path / "new" / "A.state", other)
    assert bits(again) == bits(kept) and again.sources == kept.sources
    (tmp_path / "other").touch()
    assert (tmp_path / "new" / "A.state").stat().st_mode == (tmp_path / "other").stat().st_mode
    if changes:
        with pytest.raises(UserError, match="A.state was made with another model: that of "):
            lm2.read_state(tmp_path / "new" / "A.state", run)


def test_a_state_of_another_model_or_tokenizer_is_refused_by_name(run, workdir, tmp_path):
    path = tmp_path / "A.state"
    state = lm2.read(run, "It was dark.")
    state.save(path)
    weights = jax.tree.map(lambda a: a * 1.01, run.variables)
    others = {"model": dataclasses.replace(run, variables=weights, step=4),
              "tokenizer": dataclasses.replace(
                  run, tokenizer=tokenizer.train(PROMPTS, kind="bpe", vocab_size=280))}
    for what, other in others.items():
        said = f"was made with another {what}: that of {workdir} at step 3 .digest "
        for use in (lambda o=other: lm2.read_state(path, o),
                    lambda o=other: lm2.generate(o, "", state=state)):
            with pytest.raises(UserError, match=said) as error:
                use()
            assert "\n" not in str(error.value)
    assert others["model"].digest != run.digest == lm2.load(workdir).digest


@pytest.mark.parametrize(("damage", "said"), [
    (lambda b: b[:-9], "cannot be read as a state"), (lambda b: b"", "cannot be read as a state"),
    (lambda b: b.replace(b"lm2_jax state 1", b"lm2_jax state 9"), "no state of this version"),
    (lambda b: b.replace(b"0/memory", b"0/memorx"), "its arrays are not those of the model")])
def test_a_damaged_state_is_told_in_one_line(run, tmp_path, damage, said):
    path = tmp_path / "A.state"
    lm2.read(run, "It was dark.").save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"A.state .*{said}"):
        lm2.read_state(path, run)


@pytest.mark.parametrize(("options", "said"), [
    ({"max_new_tokens": 0}, "max_new_tokens is 0"), ({"top_p": 2.0}, "top_p is 2.0"),
    ({"stop": [""]}, "a stop string is empty"), ({"seed": [1]}, "there are 1 seeds for 2 prompts"),
    ({"seed": 2**32}, "seed is 4294967296"), ({"prompts": [5], "question": "x?"}, "is token ids"),
    ({"prompts": ""}, "prompt 0 has no tokens"), ({"prompts": []}, "there are no prompts")])
def test_mistakes_are_told(run, options, said):
    with pytest.raises(UserError, match=said):
        lm2.generate(run, **{"prompts": PROMPTS[:2]} | options)


def test_ids_that_only_pad_the_vocabulary_are_never_generated(run):
    """Seven of eight ids are not the tokenizer's; 36 tokens are drawn, nearly all as likely."""
    size = run.tokenizer.vocab_size
    padded = other_model(run, vocab_size=8 * size)
    padded = dataclasses.replace(padded, variables=hf_folders.variables(padded.config.model))
    found = lm2.generate(padded, PROMPTS, seed=[1, 2, 3], **DRAWN | {"temperature": 9.0})
    assert max(token for text in found for token in text.tokens) < size


def test_a_model_that_keeps_nothing_reads_nothing(run):
    other = other_model(run, memory=MemoryConfig(num_layers=0), attention_window=0)
    with pytest.raises(UserError, match="neither a memory nor an attention window"):
        lm2.read(other, "It was dark.")


def test_a_model_of_no_questions_is_asked_none(run):
    data = dataclasses.replace(run.config.data, source="corpus", corpora=("shards",))
    other = dataclasses.replace(run, config=dataclasses.replace(run.config, data=data))
    with pytest.raises(UserError, match="not trained on questions"):
        lm2.generate(other, "It was dark.", question="Where is John?")
    with pytest.raises(UserError, match="text has no text to read"):
        lm2.read(run, " \n")


# The commands.

def call(capsys, *arguments):
    status = main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "A.txt").write_text(STORY)
    with gzip.open(tmp_path / "B.txt.gz", "wt") as file:
        file.write("It was dark.")
    return tmp_path


def test_texts_are_read_once_and_asked_by_name(run, workdir, texts, capsys):
    where = f"--workdir={workdir}"
    status, out, _ = call(capsys, "read", where, "A.txt", "B.txt.gz", "--save=S")
    assert status == 0 and "B.txt.gz: 5 tokens" in out and "a second" in out and " MB" in out
    book = lm2.read_state("S", run, "A.txt")
    alone = lm2.read(run, STORY, name="A.txt")  # products of one row may be rounded otherwise
    assert bits(book)[-2:] == bits(alone)[-2:] and book.sources == alone.sources
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6),
                 book.reading.state, alone.reading.state)
    status, out, _ = call(capsys, "read", where, "B.txt.gz", "--state=S", "--document=A.txt",
                          "--save=S2")
    assert status == 0 and "after A.txt" in out
    wanted, = lm2.generate(run, "", question="Where is John?", max_new_tokens=3,
                           state=lm2.read_state("S2", run))
    status, out, err = call(capsys, "generate", where, "--state=S2", "--max-new-tokens=3",
                            "--question=Where is John?")
    assert status == 0 and out == wanted.text + "\n" and "tokens read" in err


@pytest.mark.parametrize("way", ["argument", "file", "pipe"])
def test_a_prompt_comes_from_an_argument_a_file_or_a_pipe(run, workdir, texts, capsys, way,
                                                          monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(STORY + "\n"))
    given = {"argument": [STORY], "file": ["--file=A.txt"], "pipe": []}[way]
    status, out, err = call(capsys, "generate", f"--workdir={workdir}", *given, "--greedy",
                            "--max-new-tokens=12")
    wanted, = lm2.generate(run, STORY, max_new_tokens=12)
    assert (status, out.rstrip("\n")) == (0, wanted.text.rstrip("\n"))
    assert f"({len(run.tokenizer.encode(STORY))} tokens read, " in err


def test_json_lines_in_and_out(run, workdir, texts, capsys):
    where = f"--workdir={workdir}"
    call(capsys, "read", where, "A.txt", "B.txt.gz", "--save=S")
    rows = [{"prompt": "John", "id": 7}, {"prompt": "", "question": "Where is John?", "b": "é"},
            {"prompt": "Mary", "document": "B.txt.gz"}]
    rows.append(rows[0] | {"id": 8})
    (texts / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--state=S", "--document=A.txt", "--max-new-tokens=4", "--batch-size=3"]
    status, out, _ = call(capsys, "generate", where, "--jsonl=in.jsonl", "--out=out.jsonl",
                          *options)
    assert (status, out) == (0, "")
    written = (texts / "out.jsonl").read_text("utf-8")
    found = [json.loads(line) for line in written.splitlines()]
    for row, line in zip(rows, found, strict=True):
        state = lm2.read_state("S", run, row.get("document", "A.txt"))
        wanted, = lm2.generate(run, row["prompt"], question=row.get("question", ""), state=state,
                               max_new_tokens=4, batch_size=3)
        assert line == row | {"text": wanted.text, "reason": wanted.reason}
    assert call(capsys, "generate", where, "--jsonl=in.jsonl", *options)[1] == written


def test_a_conversation_in_a_pipe(run, workdir, texts, capsys, monkeypatch):
    """Of facts and questions, where the model has no chat template; then in its template."""
    facts = "John went home.\n\nWhere is John?\nIt was dark.\nWhere is John?\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(facts))
    chat = ["generate", f"--workdir={workdir}", "--chat", "--max-new-tokens=2"]
    status, out, err = call(capsys, *chat)
    t = run.tokenizer
    question = [*t.encode(" Where is John?"), t.answer_id]
    first, = lm2.generate(run, [*t.encode(" John went home."), *question], max_new_tokens=2)
    new = [*([] if first.tokens[-1] == t.end_id else [t.end_id]), *t.encode(" It was dark.")]
    second, = lm2.generate(run, [*new, *question], state=first.state, max_new_tokens=2)
    assert status == 0 and out == f"{first.text}\n{second.text}\n".replace("\n\n", "\n")
    assert err.count(f"({len(question)} tokens read") == 2
    (workdir / "hf").mkdir()
    (workdir / "hf/chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.content }}|{% endfor %}")
    try:
        monkeypatch.setattr("sys.stdin", io.StringIO("John\n"))
        status, out, _ = call(capsys, *chat, "--system=Mary")
        wanted, = lm2.generate(run, t.encode("Mary|John|"), max_new_tokens=2)
        assert (status, out.rstrip("\n")) == (0, wanted.text.rstrip("\n"))
        row = {"messages": [{"role": "user", "content": "Mary"}, {"role": "user",
                                                                  "content": "John"}]}
        (texts / "in.jsonl").write_text(json.dumps(row))
        _, out, _ = call(capsys, *chat[:2], "--jsonl=in.jsonl", "--max-new-tokens=2")
        assert json.loads(out) == row | {"text": wanted.text, "reason": wanted.reason}
    finally:
        (workdir / "hf/chat_template.jinja").unlink()


@pytest.mark.parametrize(("arguments", "said"), [
    (["generate", "x", "--file=A.txt"], "PROMPT and --file: give one of them"),
    (["generate", "x", "--system=y"], "--system does not go with PROMPT"),
    (["generate", "--chat", "--question=y"], "--question does not go with --chat"),
    (["generate", "x", "--out=y"], "--out does not go with PROMPT"),
    (["generate", "x", "--document=y"], "--document is a text of --state"),
    (["generate", "x", "--state=none"], "no state at none; lm2 read --save=none writes one"),
    (["generate", "x", "--state=A.txt"], "A.txt cannot be read as a state"),
    (["generate", "x", "--top-p=0"], "top_p is 0.0; it must be"),
    (["generate", "x", "--seed=-1"], "seed is -1"), (["generate", ""], "prompt 0 has no tokens"),
    (["generate", "--jsonl=none"], "no file none"), (["generate", "--jsonl=A.txt"], "A.txt:1"),
    (["generate", "--jsonl=bad.jsonl"], 'bad.jsonl:1: expected an object with either "prompt"'),
    (["generate", "--chat", "--system=y"], "takes no system message"),
    (["read", "A.txt", "A.txt", "--save=S"], "A.txt is named twice"),
    (["read", "none.txt", "--save=S"], "no file none.txt"),
    (["read", "A.txt", "--save=no/S"], "there is no such folder"),
    (["read", "A.txt", "--save=S", "--batch-size=0"], "--batch-size is 0")])
def test_mistakes_are_one_line(workdir, texts, capsys, arguments, said, monkeypatch):
    (texts / "bad.jsonl").write_text('{"text": "x"}\n')
    status, out, err = call(capsys, *arguments, f"--workdir={workdir}")
    assert status == 2 and not out and said in err and err.count("\n") == 1
