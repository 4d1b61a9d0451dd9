"""The settings, as frozen dataclasses. config/config.yaml has the same settings, each with a line that explains it.

There are no defaults here: they are in config.yaml alone. A value that its type allows but that makes no sense (a share
above 1, or two settings that contradict each other) is refused in `__post_init__`.
"""

from dataclasses import asdict, dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

from config.errors import UserError as UserError
from config.errors import require as require
from config.serve_schema import ServeConfig as ServeConfig

RENAMED = {  # former name of a setting: its name now, in the same section
    "train.relatives": "subword_features",
    "train.unseen_rate": "unk_replacement",
}
REMOVED = {  # a setting that no longer exists: why it was removed
    "distill.cross_fit": "teachers that each leave out a part of the tweets made worse students",
}
TEACHERS = ("auto", "ensemble", "chain", "ngram")  # names in distill.teacher that are not files or pretrained models


def is_date(text: str) -> bool:
    """Whether `text` is a date such as 2023-01-31."""
    try:
        return len(text) == 10 and date.fromisoformat(text) is not None
    except ValueError:
        return False


@dataclass(frozen=True, kw_only=True)
class PathsConfig:
    """Where a run reads and writes. All its files are under `root`."""

    root: str
    checkpoint: str | None

    @property
    def data(self) -> Path:
        """Folder of the raw and the processed tweets."""
        return Path(self.root) / "data"

    @property
    def processed_txt(self) -> Path:
        """One cleaned tweet a line."""
        return self.data / "processed.txt"

    @property
    def processed_json(self) -> Path:
        """The effect of each cleaning rule, and which lines of processed.txt are validation tweets."""
        return self.data / "processed.json"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return Path(self.root) / "checkpoints"

    @property
    def best_model(self) -> Path:
        """The checkpoint to use: `paths.checkpoint` if set, else the best one of this root."""
        return Path(self.checkpoint) if self.checkpoint else self.checkpoints / "best_model.pth"

    @property
    def last_model(self) -> Path:
        """The checkpoint from which a run is resumed."""
        return self.checkpoints / "last_model.pth"

    @property
    def results(self) -> Path:
        """Folder of plots, samples, reports and metrics.jsonl."""
        return Path(self.root) / "results"

    @property
    def metrics(self) -> Path:
        """The run's measurements, one JSON object a line."""
        return self.results / "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """What the run may use of this machine."""

    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int
    precision: Literal["auto", "f32", "bf16"]
    compile: bool

    def __post_init__(self) -> None:
        require(self.threads >= 0, "machine.threads", self.threads, "give 0 (all cores) or a positive number")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where tweets come from, how they are cleaned and how they are split."""

    path: str | list[str] | None
    column: str | None
    encoding: str | None
    separator: Literal["auto", "line", "blank"]
    replies: bool
    min_likes: int
    since: str | None
    until: str | None
    languages: list[str] | None
    mask_private: bool | None
    decode_entities: bool
    fix_mojibake: bool
    drop_retweets: bool
    drop_links: bool
    drop_mentions: bool
    fold_typography: bool
    hashtags: Literal["keep", "strip", "drop"]
    trim_cutoff: bool
    punctuate: bool
    min_chars: int
    split: Literal["random", "time"]
    split_seed: int
    val_fraction: float
    near_duplicate_words: int
    show_dropped: int

    def __post_init__(self) -> None:
        require(0.0 < self.val_fraction < 0.5, "data.val_fraction", self.val_fraction, "give a share between 0 and 0.5")
        require(self.min_likes >= 0, "data.min_likes", self.min_likes, "give 0 (all) or more likes")
        require(self.show_dropped >= 0, "data.show_dropped", self.show_dropped, "give 0 (none) or more examples")
        for name in ("since", "until"):
            value = getattr(self, name)
            require(value is None or is_date(value), f"data.{name}", value, "give a date such as 2023-01-31")
        if self.since and self.until:
            require(self.since < self.until, "data.until", self.until, f"give a day after data.since ({self.since})")
        require(self.min_chars >= 1, "data.min_chars", self.min_chars, "give 1 or more characters")
        require(
            self.near_duplicate_words >= 3,
            "data.near_duplicate_words",
            self.near_duplicate_words,
            "give 3 or more words: fewer would chain unrelated tweets together",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The transformer's shape and its vocabulary."""

    tokenizer: str
    vocabulary: Literal["full", "corpus"]
    min_count: int
    n_layer: int
    n_head: int
    n_embd: int
    block_size: int
    dropout: float
    activation: Literal["gelu", "relu"]
    output_bias: bool
    init_from: str | None

    def __post_init__(self) -> None:
        for name in ("min_count", "n_layer", "n_head", "n_embd"):
            require(getattr(self, name) >= 1, f"model.{name}", getattr(self, name), "give 1 or more")
        require(self.block_size >= 2, "model.block_size", self.block_size, "give 2 or more tokens")
        require(
            self.n_embd % self.n_head == 0,
            "model.n_embd",
            self.n_embd,
            f"give a multiple of model.n_head ({self.n_head}): the heads share the width equally",
        )
        require(0.0 <= self.dropout < 1.0, "model.dropout", self.dropout, "give a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training recipe."""

    seed: int
    epochs: int
    batch_size: int
    accumulate: int
    learning_rate: float
    final_lr_fraction: float
    warmup_fraction: float
    weight_decay: float
    muon: float
    beta1: float
    beta2: float
    grad_clip: float
    output_dropout: float
    subword_features: bool
    calibrate: bool
    unk_replacement: float
    ngram_weight: float
    patience: int
    sample_every: int
    save_minutes: float
    resume: bool

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate", "patience"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), "give 1 or more")
        fits = self.accumulate <= self.batch_size
        require(fits, "train.accumulate", self.accumulate, f"give at most train.batch_size ({self.batch_size})")
        require(self.learning_rate > 0, "train.learning_rate", self.learning_rate, "give a positive rate")
        require(self.grad_clip > 0, "train.grad_clip", self.grad_clip, "give a positive norm")
        for name in ("weight_decay", "muon"):
            require(getattr(self, name) >= 0, f"train.{name}", getattr(self, name), "give 0 or more")
        for name in ("final_lr_fraction", "warmup_fraction", "unk_replacement", "ngram_weight"):
            value = getattr(self, name)
            require(0.0 <= value <= 1.0, f"train.{name}", value, "give a share from 0 to 1")
        for name in ("beta1", "beta2", "output_dropout"):
            require(0.0 <= getattr(self, name) < 1.0, f"train.{name}", getattr(self, name), "give 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """How new tweets are sampled."""

    num_samples: int
    best_of: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    max_new_tokens: int
    seed: int

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_new_tokens"):
            require(getattr(self, name) >= 1, f"generate.{name}", getattr(self, name), "give 1 or more")
        require(1 <= self.best_of <= 20, "generate.best_of", self.best_of, "give 1 (no choice) to 20")
        require(self.temperature >= 0, "generate.temperature", self.temperature, "give 0 (the likeliest) or more")
        require(self.top_k >= 0, "generate.top_k", self.top_k, "give 0 (off) or more")
        require(0.0 < self.top_p <= 1.0, "generate.top_p", self.top_p, "give a share above 0, up to 1 (off)")
        require(0.0 <= self.min_p < 1.0, "generate.min_p", self.min_p, "give a share from 0 (off) to below 1")
        require(
            self.repetition_penalty > 0,
            "generate.repetition_penalty",
            self.repetition_penalty,
            "give a positive factor; 1 is off",
        )

    def unshaped(self) -> "GenerateConfig":
        """The same, but sampling from the model's own distribution: temperature 1, nothing cut off or penalised."""
        return replace(self, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Which models are evaluated, and with how many samples."""

    model: str | None
    against: str | None
    samples: int
    judge: str | None
    other_writer: str | None
    outside_text: str | None

    def __post_init__(self) -> None:
        require(self.samples >= 0, "evaluate.samples", self.samples, "give 0 (none) or more; 1000 is a good number")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """The format and the file of an exported model."""

    to: Literal["hf", "gguf", "space"]
    output: str | None
    vocabulary: Literal["full", "rows"]
    quantize: Literal["f32", "f16", "q8_0"]

    def __post_init__(self) -> None:
        if self.to != "gguf":
            require(self.quantize == "f32", "export.quantize", self.quantize, "only --export.to gguf is quantized")
        if self.to == "space":
            require(self.vocabulary == "full", "export.vocabulary", self.vocabulary, "a space takes the model as it is")


@dataclass(frozen=True, kw_only=True)
class AttentionConfig:
    """What `python main.py attention` shows."""

    against: str | None


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """The teachers and the student of `python main.py distill`."""

    teacher: list[str] | str
    weights: list[float] | None
    members: int
    member_epochs: int
    workers: int
    epochs: int
    batch_size: int | None
    muon: float | None
    generations: int
    finetune_epochs: int | None
    finetune_learning_rate: float
    sampled: float
    sampled_soft: bool
    weight: float
    temperature: float
    dropout: float

    @property
    def teachers(self) -> list[str]:
        """The names in `teacher`."""
        return [self.teacher] if isinstance(self.teacher, str) else self.teacher

    @property
    def pretrained(self) -> str | None:
        """The pretrained model among `teachers`, if there is one: a folder, a name on the hub, or smollm2."""
        named = (name for name in self.teachers if name not in TEACHERS and not name.endswith((".pth", ".pt")))
        return next(named, None)

    @property
    def student_batch_size(self) -> int:
        """`batch_size`, or what suits the teacher."""
        return self.batch_size or (32 if self.pretrained else 16)

    @property
    def student_muon(self) -> float:
        """`muon`, or what suits the teacher: a few passes over much text are too short for AdamW."""
        if self.muon is not None:
            return self.muon
        return 4.0 if self.pretrained else 0.0

    def __post_init__(self) -> None:
        once = len(set(self.teachers)) == len(self.teachers) > 0 and all(self.teachers)
        kinds = "give auto, a pretrained model, or a list of ensemble, chain, ngram and checkpoints (.pth), each once"
        require(once, "distill.teacher", self.teacher, kinds)
        for name in filter(None, ("auto" if "auto" in self.teachers else None, self.pretrained)):
            alone = f"give {name} alone: it teaches without others"
            require(len(self.teachers) == 1, "distill.teacher", self.teacher, alone)
        if self.weights is not None:
            fits = len(self.weights) == len(self.teachers) and all(weight > 0 for weight in self.weights)
            require(fits, "distill.weights", self.weights, "give one positive number for each of distill.teacher")
        for name in ("members", "member_epochs", "epochs", "generations"):
            require(getattr(self, name) >= 1, f"distill.{name}", getattr(self, name), "give 1 or more")
        for name in ("batch_size", "finetune_epochs"):
            given = getattr(self, name)
            require(given is None or given >= 1, f"distill.{name}", given, "give 1 or more, or null")
        require(self.muon is None or self.muon >= 0, "distill.muon", self.muon, "give 0 or more, or null")
        require(self.workers >= 0, "distill.workers", self.workers, "give 0 (as many as fit), or 1 or more")
        fits = self.generations == 1 or "chain" in self.teachers
        require(fits, "distill.generations", self.generations, "give 1, or chain among --distill.teacher")
        rate = self.finetune_learning_rate
        require(0 < rate < 1, "distill.finetune_learning_rate", rate, "give a number above 0, such as 0.0002")
        require(0.0 <= self.sampled <= 100, "distill.sampled", self.sampled, "give 0 (none) to 100 for each real tweet")
        require(0.0 <= self.weight <= 1.0, "distill.weight", self.weight, "give a share from 0 to 1")
        require(self.temperature > 0, "distill.temperature", self.temperature, "give a positive number; 1 is as it is")
        require(0.0 <= self.dropout < 1.0, "distill.dropout", self.dropout, "give a share from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings, one field a section of config.yaml."""

    paths: PathsConfig
    machine: MachineConfig
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    generate: GenerateConfig
    evaluate: EvaluateConfig
    attention: AttentionConfig
    export: ExportConfig
    distill: DistillConfig
    serve: ServeConfig

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain nested dicts, for JSON and for checkpoints; without the server's key, which is a secret."""
        values = asdict(self)
        values["serve"]["api_key"] = None
        return values


SECTIONS: dict[str, type] = {field.name: field.type for field in fields(Config)}  # type: ignore[misc]
