"""The training data: tasks or tokenized corpora, tokenizer and curriculum."""

import itertools
from dataclasses import dataclass

from lm2_jax.config.checks import at_least, one_of, require

SOURCES = ("babilong", "corpus")


@dataclass(frozen=True)
class DataConfig:
    """Training samples: facts and questions of bAbI tasks scattered in background text, or the
    documents of tokenized corpora."""

    source: str = "babilong"
    """What rows hold: `babilong` is samples of data.tasks, `corpus` the documents of data.corpora.
    Documents have loss weight 1, prompts data.loss_on_all, and the keys of tasks are not used."""
    corpora: tuple[str, ...] = ()
    """Folders that `lm2 data tokenize` made, where data.source is corpus."""
    corpus_weights: tuple[float, ...] = ()
    """Share of the rows of each of data.corpora, relative to each other; empty takes them by their
    sizes."""
    tasks: tuple[str, ...] = ("qa1",)
    """Tasks to train on, such as qa1,qa2: those of bAbI, and kv, key-value recall."""
    task_weights: tuple[float, ...] = ()
    """Relative frequency of each of data.tasks; empty draws all equally often."""
    babi: str = ""
    """Folder of bAbI files whose training split is used; empty uses the built-in simulator."""
    background: str = "generated"
    """Folder of books (.txt, .jsonl, .parquet) for background text, or `generated`."""
    background_sentences: int = 20_000
    """Number of sentences of generated background text."""
    tokenizer: str = "word"
    """`word` or `bpe` trains a tokenizer on the data, or takes that of data.corpora; otherwise the
    path of a tokenizer.json."""
    tokenizer_vocab_size: int = 4096
    """Largest vocabulary of a trained tokenizer."""
    persons: int = 0
    """Simulator: the number of persons in a story; 0 takes all of the task's."""
    turns_up_to: int = 0
    """Simulator: in samples of up to this many segments nobody moves twice before all
    other persons have moved."""
    points_per_segment: float = 0.0
    """Simulator: places with questions per segment; 0 makes stories as long as those of bAbI."""
    max_points: int = 0
    """Simulator: most of these places in a sample where data.points_per_segment is set, which makes
    facts rare in long ones; 0 does not limit them. A story of bAbI's qa1 has at most 10."""
    max_points_per_segment: int = 2
    """Most of these places in one segment, where data.deferred is set."""
    questions_per_point: int = 1
    """Simulator: questions at each of these places, where data.deferred is set."""
    dense: bool = True
    """Whether a sample asks all questions of its story; if not, it asks one, at its end."""
    deferred: bool = False
    """Whether questions come in a later segment than the facts that answer them, in samples of two
    segments or more."""
    deferred_fraction: float = 1.0
    """Fraction of the samples of two segments or more that are so, where data.deferred is set."""
    bare_fraction: float = 0.0
    """Fraction of samples without background text, among those whose questions are not deferred."""
    loss_on_all: float = 0.0
    """Loss weight of tokens that are not answers; answers have weight 1."""
    vary_length: bool = True
    """Whether rows of n segments are split so that samples of 1 to n segments are equally
    frequent; otherwise each sample fills its row."""
    sample_segments: int = 0
    """Segments of a sample; longer rows hold several samples. 0 lets a sample fill its row."""
    passed_states: float = 0.0
    """Fraction of the samples after the first of a row that begin with the state that the sample
    before them left, in place of the initial one. With train.bptt_segments = data.sample_segments
    no gradient flows between samples of that length."""
    curriculum: tuple[tuple[int, ...], ...] = ((0, 1),)
    """Stages (first step, segments per row[, rows per batch]); rows default to train.batch_size."""
    num_workers: int = 0
    """Worker processes that prepare batches ahead of training; 0 uses one thread."""

    def __post_init__(self):
        one_of(self, "data", "source", SOURCES)
        require(bool(self.corpora) or self.source != "corpus", "data.corpora", self.corpora,
                "a folder or more where data.source is corpus")
        require(len(self.corpus_weights) in (0, len(self.corpora))
                and all(weight > 0 for weight in self.corpus_weights), "data.corpus_weights",
                self.corpus_weights, "a number above 0 for each of data.corpora, or ()")
        require(len(self.tasks) > 0, "data.tasks", self.tasks, "at least one task")
        require(len(self.task_weights) in (0, len(self.tasks))
                and all(weight > 0 for weight in self.task_weights), "data.task_weights",
                self.task_weights, "a number above 0 for each of data.tasks, or ()")
        at_least(self, "data", 0, "persons", "points_per_segment", "loss_on_all",
                 "num_workers", "turns_up_to", "max_points")
        at_least(self, "data", 1, "questions_per_point", "max_points_per_segment",
                 "background_sentences")
        at_least(self, "data", 8, "tokenizer_vocab_size")
        at_least(self, "data", 0, "sample_segments")
        require(not self.sample_segments or not self.vary_length, "data.sample_segments",
                self.sample_segments, "0 where data.vary_length is set")
        for name in ("deferred_fraction", "bare_fraction", "passed_states"):
            require(0 <= getattr(self, name) <= 1, f"data.{name}", getattr(self, name), "in [0, 1]")
        require(all(len(stage) in (2, 3) and min(stage[1:]) >= 1 for stage in self.curriculum)
                and [s[0] for s in self.curriculum[:1]] == [0]
                and all(a[0] < b[0] for a, b in itertools.pairwise(self.curriculum)),
                "data.curriculum", self.curriculum,
                "(first step, segments) or (first step, segments, rows) a stage, the steps "
                "rising from 0, the others >= 1")

    def segments_at(self, step: int) -> int:
        """Segments of a row at this step."""
        return self._stage_at(step)[1]

    def rows_at(self, step: int, batch_size: int) -> int:
        """Rows of the batch at this step, where `batch_size` is train.batch_size."""
        return (*self._stage_at(step), batch_size)[2]

    def _stage_at(self, step: int) -> tuple[int, ...]:
        return [stage for stage in self.curriculum if stage[0] <= step][-1]
