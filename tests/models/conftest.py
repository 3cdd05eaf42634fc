"""A batch out of nothing: random pictures and words, padding where the test wants it."""

import pytest
import torch

from refseg.types import Annotations, RefBatch


def random_batch(words_per_sample, height=40, width=56, vocabulary_size=11, dtype=torch.float32):
    B, L = len(words_per_sample), max(words_per_sample)
    token_valid = torch.arange(L) < torch.tensor(words_per_sample)[:, None]
    return RefBatch(
        frames=torch.randn(B, 1, 3, height, width, dtype=dtype),
        target_frame=torch.zeros(B, dtype=torch.long),
        token_ids=torch.randint(2, vocabulary_size, (B, L)) * token_valid,
        token_valid=token_valid,
        mask=torch.rand(B, 1, height, width) < 0.2,
        pixel_valid=torch.ones(B, 1, height, width, dtype=torch.bool),
        expressions=["a thing"] * B,
        original_masks=[torch.zeros(height, width, dtype=torch.bool)] * B,
        original_sizes=[(height, width)] * B,
        sample_ids=[str(index) for index in range(B)],
        image_ids=[str(index) for index in range(B)],
        annotations=[Annotations()] * B,
    )


@pytest.fixture
def make_batch():
    return random_batch
