"""Teacher vectors: during training, part of a token's embedding is computed from a pretrained teacher's embeddings.

The teacher has read far more text. Tokens that are used alike have similar vectors in it: " rocket" and " spacecraft",
" Monday" and " Friday". So the student's embedding of a token is a vector of its own plus a linear map of the teacher's
vector. The map is trained, and is the same for all tokens: what is learned of one token is learned of those like it.
After training both are added, and the saved model has a plain embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from model.fast import Trainable
from trainer.subword_embedding import STD

SCALE = 0.15  # standard deviation of the vectors: with smaller ones the map is learned more slowly


class TeacherVectors(nn.Module):
    """Adds a linear map of the teacher's vectors to the vector of each id, (V, C).

    Args:
        vectors: (V, D) of the teacher, the most important dimensions first; zeros for an id that it does not know.
        width: C.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, width: int) -> None:
        super().__init__()
        self.register_buffer("vectors", SCALE * vectors)  # kept with a run: their signs are arbitrary
        self.projection = nn.Parameter(STD / SCALE * torch.eye(vectors.shape[1], width))  # (D, C)

    def forward(self, own: Tensor) -> Tensor:
        return own + self.vectors @ self.projection


def add_teacher_vectors(model: Trainable, vectors: Tensor) -> None:
    """Make the embedding of an untrained model a sum of its own and the teacher's vectors; see `TeacherVectors`."""
    parametrize.register_parametrization(model.wte, "weight", TeacherVectors(vectors, model.config.n_embd))


def principal_components(matrices: list[Tensor], known: Tensor, *, most: int) -> Tensor:
    """The first principal components of several vectors of each id, side by side, as (V, K) with K at most `most`.

    Each matrix counts the same. The components of all known ids together have mean 0 and standard deviation 1.

    Args:
        matrices: (V, D) each.
        known: (V,) whether an id has vectors; the others get zeros.
    """
    parts = [matrix[known].float() for matrix in matrices]
    centred = [part - part.mean(0) for part in parts]
    joined = torch.cat([part / part.std().clamp(min=1e-6) for part in centred], 1)
    _, directions = torch.linalg.eigh(joined.T @ joined)  # in ascending order
    found = torch.zeros(len(known), min(most, joined.shape[1]))
    found[known] = joined @ directions.flip(-1)[:, : found.shape[1]]
    return found / found[known].std()
