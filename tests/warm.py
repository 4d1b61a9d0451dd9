"""Imported once by the server that tests fork processes from: what takes each of them seconds to load."""

import torch

import tests.conftest  # noqa: F401
from model.tokenizer import load_tokenizer

load_tokenizer("gpt2").encode_batch(["a"])
torch.optim.AdamW([torch.zeros(1, requires_grad=True)], fused=True)
