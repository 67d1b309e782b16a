"""Tokenizers of other models: their own special tokens, and ours on their reserved ids."""

import json

import numpy as np
import pytest
import runs
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from lm2_jax.checkpoint import workdir
from lm2_jax.cli import main
from lm2_jax.config import Config, DataConfig, EvalConfig, files, with_vocab_size
from lm2_jax.data import tokenizer
from lm2_jax.data.babilong import batches, corpus, prompting
from lm2_jax.data.babilong.samples import draw

LLAMA3 = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 4: "<|finetune_right_pad_id|>",
          6: "<|start_header_id|>", 7: "<|end_header_id|>", 8: "<|eom_id|>", 9: "<|eot_id|>",
          10: "<|python_tag|>"}
LLAMA3_RESERVED = [2, 3, 5, *range(11, 256)]
SMOLLM2 = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>", "<reponame>", "<file_sep>",
           "<filename>", "<gh_stars>", "<issue_start>", "<issue_comment>", "<issue_closed>",
           "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>",
           "<jupyter_script>", "<empty_output>"]


def byte_level(vocab):
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def llama3(folder, size=128_000, pad=True, config=None):
    """A byte-level BPE of `size` tokens and 256 added ones, as Llama 3's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = byte_level({name: i for i, name in enumerate(
        [*alphabet, *(f"word{i}" for i in range(size - len(alphabet)))])})
    names = dict(LLAMA3) if pad else {i: n for i, n in LLAMA3.items() if i != 4}
    reserved = (f"<|reserved_special_token_{number}|>" for number in range(256))
    made.add_special_tokens([AddedToken(names.get(i) or next(reserved), special=True)
                             for i in range(256)])
    template = processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                             special_tokens=[("<|begin_of_text|>", size)])
    made.post_processor = processors.Sequence([processors.ByteLevel(), template])
    return written(made, folder, config)


def smollm2(folder, config=None):
    """Special tokens first, in the vocabulary too, and none of them reserved or put before."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = byte_level({name: i for i, name in enumerate([*SMOLLM2, *alphabet])})
    made.add_special_tokens([AddedToken(name, special=True) for name in SMOLLM2])
    return written(made, folder, config)


def written(made, folder, config):
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder / "tokenizer.json"


def test_ours_take_the_place_of_reserved_tokens(tmp_path):
    """The documented command of configs/lm2_1b7.py: 128,256 ids before and after."""
    path = llama3(tmp_path)
    loaded = tokenizer.load(path)
    assert loaded.vocab_size == 128_256
    assert (loaded.answer_id, loaded.end_id) == (128_002, 128_003)
    assert (loaded.pad, loaded.pad_id) == ("<|finetune_right_pad_id|>", 128_004)
    assert loaded.bos_ids == (128_000,) and loaded.unk_id is None
    assert loaded.stop_ids == {128_003, 128_001, 128_008, 128_009}
    plain = tokenizers.Tokenizer.from_file(str(path))
    for text in ("Mary, the é\n", " word1 ", "<|eot_id|>", "<|reserved_special_token_99|>"):
        assert loaded.encode(text) == plain.encode(text, add_special_tokens=False).ids
    assert loaded.decode([128_000, *loaded.encode("Mary"), 128_002, 128_003, 128_004]) == "Mary"
    config = files.load_config(str(runs.ROOT / "configs" / "lm2_1b7.py"))
    assert with_vocab_size(config, loaded.vocab_size) == config
    loaded.save(tmp_path / "again" / "tokenizer.json")
    again = tokenizer.load(tmp_path / "again")
    for name in ("digest", "bos_ids", "stop_ids", "pad_id", "answer_id", "end_id", "vocab_size"):
        assert getattr(again, name) == getattr(loaded, name), name


def test_a_reserved_token_pads_where_there_is_no_padding_token(tmp_path):
    loaded = tokenizer.load(llama3(tmp_path, 300, pad=False))
    assert (loaded.pad_id, loaded.answer_id, loaded.end_id) == (302, 303, 304)
    assert loaded.vocab_size == 556 and loaded.pad == "<pad>"


@pytest.mark.parametrize("eos", ["<|im_end|>", {"content": "<|im_end|>", "lstrip": False}])
def test_without_reserved_tokens_ours_are_appended(tmp_path, eos):
    names = {"bos_token": "<|im_start|>", "eos_token": eos, "pad_token": "<|im_end|>"}
    loaded = tokenizer.load(smollm2(tmp_path, names))
    assert (loaded.answer_id, loaded.end_id, loaded.vocab_size) == (273, 274, 275)
    assert loaded.pad_id == 2 and loaded.stop_ids == {274, 0, 2}
    assert loaded.bos_ids == ()  # named, but put before no text
    names["add_bos_token"] = True
    assert tokenizer.load(smollm2(tmp_path, names)).bos_ids == (1,)


@pytest.mark.parametrize("config", ["[1]", "{"])
def test_a_broken_tokenizer_config_is_named(tmp_path, config):
    path = smollm2(tmp_path, {})
    path.with_name("tokenizer_config.json").write_text(config)
    with pytest.raises(ValueError, match=r"tokenizer_config.json is not (JSON|a JSON object)"):
        tokenizer.load(path)


def test_a_workdir_written_before_keeps_its_ids_and_its_digest(tmp_path):
    """Earlier versions appended four tokens to every tokenizer and used none of its own."""
    path = llama3(tmp_path, 300)
    before = tokenizers.Tokenizer.from_file(str(path))
    before.add_special_tokens([AddedToken(name, special=True)
                               for name in ("<pad>", "<answer>", "<end>", "<unk>")])
    path.write_text(before.to_str())
    loaded = tokenizer.load(path)
    assert (loaded.pad_id, loaded.answer_id, loaded.end_id, loaded.unk_id) == (556, 557, 558, 559)
    assert loaded.bos_ids == () and loaded.vocab_size == 560
    assert loaded.digest == tokenizer.Tokenizer(before).digest
    loaded.save(path)
    assert path.read_text() == before.to_str()


def test_what_lies_beside_an_older_tokenizer_goes(tmp_path):
    tokenizer.load(llama3(tmp_path, 300)).save(tmp_path / "run" / "tokenizer.json")
    assert (tmp_path / "run" / "tokenizer_config.json").exists()
    tokenizer.train(["Mary is here."], vocab_size=20).save(tmp_path / "run" / "tokenizer.json")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize("kind", ["llama3", "smollm2"])
def test_a_run_pads_the_vocabulary_and_resumes_with_it(tmp_path, kind):
    path = llama3(tmp_path / "a", 300) if kind == "llama3" else smollm2(tmp_path / "a")
    config = Config(data=DataConfig(tokenizer=str(path)))
    tokens, sized, _ = workdir.prepare(config, tmp_path / "run")
    assert sized.model.vocab_size == {"llama3": 640, "smollm2": 384}[kind]
    workdir.store_config(sized, tmp_path / "run")
    again, resumed, changes = workdir.prepare(config, tmp_path / "run")
    assert (again.digest, resumed, changes) == (tokens.digest, sized, [])
    before = with_vocab_size(config, tokens.vocab_size)  # as earlier versions had it
    workdir.store_config(before, tmp_path / "run")
    assert workdir.prepare(config, tmp_path / "run")[1] == before
    workdir.store_config(sized, tmp_path / "run")
    copied, new, _ = workdir.prepare(Config(), tmp_path / "new",
                                     tokenizer=tmp_path / "run" / "tokenizer.json")
    assert (copied.digest, new.model) == (tokens.digest, sized.model)


@pytest.mark.parametrize("data", [{}, {"deferred": True, "questions_per_point": 2},
                                  {"dense": False, "bare_fraction": 0.5}])
def test_samples_and_prompts_begin_with_its_bos(tmp_path, data):
    path = llama3(tmp_path, 300)
    config = DataConfig(tokenizer=str(path), background_sentences=300, vary_length=False,
                        curriculum=((0, 4),), **data)
    drawn_from = corpus.training(Config(data=config), tokenizer.load(path))
    maker = batches.SampleMaker(config, drawn_from, 512)
    for seed in range(20):
        sample = maker.draw(4, np.random.default_rng(seed))
        assert sample.tokens[0] == 300 and 300 not in sample.tokens[1:]
        assert len(sample.tokens) == 4 * 512 or config.bare_fraction
    for style in ("fine_tuned", "instruct"):
        e = EvalConfig(prompt_style=style)
        way = prompting.make(e, drawn_from.encoder)
        prompt = draw(drawn_from.sources[0], "2k", 0, e, way, drawn_from.background, 512)
        tokens = prompt.tokens[:].tolist()
        assert tokens[0] == 300 and 300 not in tokens[1:]
        if style == "fine_tuned":
            answer = drawn_from.encoder.text(prompt.target)
            assert len(tokens) + len(answer) + 1 == 2048


@pytest.mark.parametrize("kind", ["llama3", "smollm2"])
def test_lm2_data_shows_the_documented_run(tmp_path, capsys, kind):
    path = llama3(tmp_path) if kind == "llama3" else smollm2(tmp_path)
    assert main(["data", f"--config={runs.ROOT / 'configs' / 'lm2_1b7.py'}", "--rows=1",
                 f"--config.data.tokenizer={path}", "--config.data.background_sentences=2000",
                 "--config.data.curriculum=((0,1,2),)"]) == 0
    assert "step 0: 2 rows of 1 x 2048 tokens" in capsys.readouterr().out
