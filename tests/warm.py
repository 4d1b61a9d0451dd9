"""Imported once by multiprocessing's fork server, so that no process which a test starts has to load torch again."""

import torch

import tests.conftest  # noqa: F401
from model.tokenizer import load_tokenizer

load_tokenizer("gpt2").encode_batch(["a"])
torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
