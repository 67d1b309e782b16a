"""The documentation of the config: every key is explained, once, in the source."""

import dataclasses
import re

import pytest
from config_keys import FOLDER, KEYS, TINY

from lm2_jax.cli import main
from lm2_jax.config import RopeScaling, files, reference, source
from lm2_jax.config.files import flat, load_config

ROPE_SCALING = "model.rope_scaling"  # None by default, so no group of keys in KEYS

DOCUMENTED = [key for section in reference.sections() for key in section.keys]


def test_every_key_is_documented_in_one_sentence():
    names = [key.name for key in DOCUMENTED if not key.name.startswith(ROPE_SCALING)]
    assert sorted([*names, ROPE_SCALING]) == sorted(KEYS)
    assert len(DOCUMENTED) - len(names) == len(dataclasses.fields(RopeScaling))
    for key in DOCUMENTED:
        assert key.help[0].isupper() or key.help.split(" ")[0] in ("bAbI", "instruct:", "`word`")
        assert key.help.endswith(".") and "\n" not in key.help


def test_no_two_keys_of_a_section_have_the_same_documentation():
    for section in reference.sections():
        assert len({key.help for key in section.keys}) == len(section.keys)
        assert section.help.endswith(".")


class Undocumented:
    """Has one key that is explained and one that is not."""

    documented: int = 1
    """A sentence over
    two lines."""
    other: int = 2


def test_a_key_without_documentation_is_found():
    assert reference.attribute_docs(Undocumented) == {"documented": "A sentence over two lines."}


def test_help_names_type_default_and_meaning():
    text = reference.help_text()
    assert ("  --config.train.num_steps (int, default 1000)\n      Number of optimizer steps.\n"
            in text)
    assert "--config.data.tasks (tuple of str, default ('qa1',))" in text
    assert all(f"--config.{key} (" in text for key in KEYS if key != ROPE_SCALING)


def test_the_page_of_all_configs_is_up_to_date():
    assert (FOLDER / "README.md").read_text("utf-8") == reference.page(), (
        "run: python -m lm2_jax.config.reference > configs/README.md")


def test_configs_lists_every_config_of_the_package(capsys):
    assert main(["configs"]) == 0
    listed = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert listed >= {path.stem for path in FOLDER.glob("*.py")}


def test_every_key_is_set_by_a_config_or_has_a_documented_use():
    names = [name for name, _ in files.shipped()]
    names += [f"rivals:{model}" for model in ("rmt", "armt", "delta", "full", "rag")]
    names += ["ablations:segment_48"]
    known = {key for name in names for key in set_keys(source.read(*source.find(name)))}
    known |= {one.partition("=")[0] for _, overrides in reference.USES for one in overrides.split()}
    assert sorted(key.name for key in DOCUMENTED if key.name not in known) == []


def set_keys(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from set_keys(value, f"{prefix}{key}.")
        else:
            yield prefix + key


@pytest.mark.parametrize("purpose,overrides", reference.USES)
def test_a_documented_use_is_accepted_and_changes_what_it_names(purpose, overrides):
    given = dict(one.split("=") for one in overrides.split())
    needed = {"model.memory.num_slots": "16", "eval.lengths": "1k"}
    before, after = (flat(load_config(TINY, needed | keys)) for keys in ({}, given))
    assert purpose and all(after[key] != before[key] for key in given)


def test_the_example_of_the_page_is_a_config(tmp_path):
    example, = re.findall(r"```python\n(.*?)```", reference.page(), flags=re.DOTALL)
    path = tmp_path / "example.py"
    path.write_text(example)
    config = load_config(path)
    assert (config.model.embed_dim, config.model.memory.num_layers) == (256, 3)
