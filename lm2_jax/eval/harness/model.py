"""The model class of lm-evaluation-harness. This module needs lm_eval."""

import dataclasses
import functools
import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs

from lm2_jax import partition
from lm2_jax.checkpoint import workdir as workdirs
from lm2_jax.checkpoint.workdir import Run
from lm2_jax.config import EvalConfig, MeshConfig
from lm2_jax.errors import UserError
from lm2_jax.eval.harness.generating import Options, generate
from lm2_jax.eval.scoring import Request, Scorer
from lm2_jax.generation.sampling import Sampling
from lm2_jax.generation.text import require_chat_template
from lm2_jax.model.lm import LanguageModel
from lm2_jax.runtime import meshes, paths, processes
from lm2_jax.runtime.console import Console
from lm2_jax.runtime.progress import Bar

AUTO_BATCH_SIZE = 8
_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
MEMORY = ("carried", "reset")


@register_model("lm2_jax")
class LM2(TemplateLM):
    """A trained model, for the tasks of lm-evaluation-harness.

    Prompts may have any length: they are streamed through the memory segment by segment, as in
    training, and are never truncated. Each process of a run of several computes the same results;
    process 0 shows the progress.

    Args:
      workdir: folder of the run, or a run that `lm2_jax.load` returned.
      step: of the checkpoint; None for the newest.
      batch_size: prompts that are read at a time; "auto" for 8. It is rounded up to a multiple of
        the devices.
      memory: "carried", or "reset" to reset the memory at each segment, as a control.
      dtype: the compute dtype, float32 or bfloat16; "" for that of the run.
      max_gen_toks: most tokens of an answer, where a task does not say.
      data, fsdp, tensor, dcn_data, dcn_fsdp, stage: sizes of the mesh axes, as in `MeshConfig`.
      max_batch_size, device: the harness passes them to every model; they have no effect.
    """

    def __init__(self, workdir: str | Path | Run, step: int | None = None,
                 batch_size: int | str = "auto", memory: str = "carried", dtype: str = "",
                 max_gen_toks: int = 256, data: int = -1, fsdp: int = 1, tensor: int = 1,
                 dcn_data: int = -1, dcn_fsdp: int = 1, stage: int = 1,
                 max_batch_size: int | None = None, device: str | None = None):
        super().__init__()
        self.batch_size = _rounded_up(batch_size)
        self.folder = None if isinstance(workdir, Run) else paths.for_checkpoints(workdir)
        if isinstance(workdir, Run):
            self.run, self.mesh = workdir, _mesh_of(workdir)
        else:
            stored = dataclasses.replace(
                workdirs.stored_config(workdir),
                mesh=MeshConfig(data, fsdp, tensor, dcn_data, dcn_fsdp, stage),
                eval=EvalConfig(batch_size=self.batch_size))
            self.mesh = meshes.for_evaluation(stored)
            self.run = workdirs.load(workdir, step, self.mesh)
        if memory not in MEMORY:
            raise UserError(f"memory is {memory!r}, must be one of {', '.join(MEMORY)}")
        self.wipe, self.max_gen_toks = memory == "reset", max_gen_toks
        config = self.run.config.model
        self.model = LanguageModel(dataclasses.replace(config, dtype=dtype or config.dtype))
        self._scorer = Scorer(self.model, self.run.variables, self.mesh,
                              pad_id=self.run.tokenizer.pad_id)

    # Tokens.

    @property
    def eot_token_id(self) -> int:
        tokens = self.run.tokenizer
        return tokens.end_id if tokens.eos_id is None else tokens.eos_id

    @functools.cached_property
    def prefix_token_id(self) -> int:
        """What a text without a context begins with: BOS, or the end of a text if there is none.

        A converted model that puts no BOS before texts may name one all the same, which the
        harness's own models take.
        """
        tokens = self.run.tokenizer
        if not tokens.bos_ids and (named := self._named("bos_token")):
            return tokens.id_of(named)
        return next(iter(tokens.bos_ids), self.eot_token_id)

    def _named(self, key: str) -> str | None:
        """A token that the files of a converted model name."""
        path = self.folder / workdirs.SOURCE / "tokenizer_config.json" if self.folder else None
        named = json.loads(path.read_text("utf-8")).get(key) if path and path.is_file() else None
        return named.get("content") if isinstance(named, dict) else named

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs
                   ) -> list[int]:
        """The ids of a text, after BOS if the model was trained with one.

        Args:
          add_special_tokens: whether BOS is added; None adds it unless the text begins with it.
        """
        tokens = self.run.tokenizer
        if add_special_tokens is None:
            add_special_tokens = not (tokens.bos and string.startswith(tokens.bos))
        return [*(tokens.bos_ids if add_special_tokens else ()), *tokens.encode(string)]

    # Log-likelihoods. `TemplateLM.loglikelihood` splits the text of a request into the tokens of
    # the context and of the continuation, as it does for the harness's own models.

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True
                      ) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _loglikelihood_tokens(
            self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs
            ) -> list[tuple[float, bool]]:
        return self._scores("loglikelihood", [text for text, _, _ in requests],
                            [tokens for _, *tokens in requests])

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True
                              ) -> list[float]:
        """The log-likelihood of each whole text, after `prefix_token_id`.

        The memory is carried from the beginning of a text to its end; there are no windows.
        """
        texts = [request.args for request in requests]
        tokens = [([self.prefix_token_id], self.run.tokenizer.encode(text)) for text, in texts]
        return self._scores("loglikelihood_rolling", texts, tokens)

    def _scores(self, name: str, texts: Sequence[tuple], tokens: Sequence[Sequence[list[int]]]
                ) -> list:
        """The answers to the requests of a method, also given to the harness's cache."""
        requests = [Request(*(np.asarray(part, np.int32) for part in pair)) for pair in tokens]
        found: dict[int, Any] = {}
        with closing(self._bar(name, len(requests))) as bar, jax.set_mesh(self.mesh):
            for number, score in self._scorer.scores(
                    requests, self.batch_size, wipe=self.wipe):
                rolling = name == "loglikelihood_rolling"
                found[number] = score.log_likelihood if rolling else tuple(score)
                self.cache_hook.add_partial(name, texts[number], found[number])
                bar.update(len(found), "")
        return [found[i] for i in range(len(requests))]

    # Texts.

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The text after each context, up to a stop string or the end of a text."""
        found: dict[int, str] = {}
        by_options: dict[Options, list[int]] = {}
        for number, request in enumerate(requests):
            by_options.setdefault(self._options(request.args[1]), []).append(number)
        with closing(self._bar("generate_until", len(requests))) as bar, jax.set_mesh(self.mesh):
            for options, numbers in by_options.items():
                contexts = [np.asarray(self.tok_encode(requests[i].args[0])
                                       or [self.prefix_token_id], np.int32) for i in numbers]
                for place, text in generate(self.model, self.run, contexts, options,
                                            self.batch_size, self.wipe):
                    number = numbers[place]
                    found[number] = text
                    self.cache_hook.add_partial("generate_until", requests[number].args, text)
                    bar.update(len(found), "")
        return [found[i] for i in range(len(requests))]

    def _options(self, given: dict) -> Options:
        """How a task wants its texts generated."""
        values = dict(normalize_gen_kwargs(given, self.max_gen_toks))
        until, most = tuple(filter(None, values.pop("until"))), values.pop("max_gen_toks")
        chosen = {name: values.pop(name) for name in _SAMPLING if name in values}
        if not values.pop("do_sample", False):
            chosen = {"repetition_penalty": chosen.get("repetition_penalty", 1.0)}
        elif "temperature" not in given:
            chosen["temperature"] = 1.0
        if values:
            raise UserError(f"generation_kwargs has {', '.join(values)}, which lm2_jax does not "
                            "know; leave it out")
        return Options(until, most, Sampling(**chosen, vocab_size=self.run.tokenizer.vocab_size))

    # Chats.

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The source of the chat template; None if it is not to be applied."""
        return self._template().source if chat_template else None

    def apply_chat_template(self, chat_history: list[dict[str, str]],
                            add_generation_prompt: bool = True) -> str:
        """The text of a chat, by the template that the model came with.

        Args:
          add_generation_prompt: end with what comes before an answer; otherwise the text ends
            within the last message, which is the beginning of an answer.
        """
        text = self._template().render(chat_history, add_generation_prompt=add_generation_prompt)
        if add_generation_prompt:
            return text
        last = chat_history[-1]["content"]
        begin = text.rindex(last.strip())
        whole = last.lstrip()  # some templates strip the end of a message
        return text[:begin + len(whole if text.startswith(whole, begin) else last.strip())]

    def _template(self):
        if self.folder is None:
            raise UserError("a chat template needs a workdir, which keeps it")
        return require_chat_template(self.folder)

    @property
    def tokenizer_name(self) -> str:
        """Part of the name under which the harness caches requests."""
        return self.run.tokenizer.digest[:16]

    # The harness's bookkeeping.

    def get_model_info(self) -> dict[str, Any]:
        """Facts for the file of results."""
        return {"model_num_parameters": sum(x.size for x in jax.tree.leaves(self.run.variables)),
                "model_dtype": self.model.config.dtype, "model_step": self.run.step,
                "memory": "reset" if self.wipe else "carried"}

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        if jax.process_count() > 1:
            raise UserError("the harness's cache of answers works in one process only, since all "
                            "must have the same answers left to compute; leave --use_cache out")
        super().set_cache_hook(cache_hook)

    def _bar(self, name: str, total: int) -> Bar:
        return Bar(name, total, 0, Console(quiet=not processes.is_primary()), "requests")


def _rounded_up(batch_size: int | str) -> int:
    """Rows of a batch, a multiple of the devices."""
    text, devices = str(batch_size), len(jax.devices())
    if text.startswith("auto"):
        size = AUTO_BATCH_SIZE
    elif text.isdecimal() and int(text) > 0:
        size = int(text)
    else:
        raise UserError(f"batch_size is {text!r}, must be a positive number or auto")
    return -(-size // devices) * devices


def _mesh_of(run: Run) -> Mesh:
    """The mesh over which the variables of a run are laid out; all devices if they have none."""
    sharding = jax.tree.leaves(run.variables)[0].sharding
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return sharding.mesh
    return partition.make_mesh({"data": -1})
