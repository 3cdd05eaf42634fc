"""What text encoders share. In four stages, words can look at the image between them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from refseg.models.serialise import Config

STAGES = 4


@dataclass(frozen=True)
class TextConfig(Config):
    """Base of the text encoders' configs."""

    def build(self, vocabulary_size: int) -> TextEncoder:
        """The text encoder for ``vocabulary_size`` token ids."""
        raise NotImplementedError


class TextEncoder(nn.Module):
    """Base of the text encoders: token ids in, words of ``channels`` out."""

    channels: int

    def forward(self, token_ids: Tensor, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B,L], valid [B,L] -> words [B,L',C], zero where padded, and which are real [B,L']."""
        raise NotImplementedError


@dataclass(frozen=True)
class StagedTextConfig(TextConfig):
    """Base of the configs of text encoders in four stages."""

    def build(self, vocabulary_size: int) -> StagedText:
        """The text encoder for ``vocabulary_size`` token ids."""
        raise NotImplementedError


class StagedText(TextEncoder):
    """Base of the text encoders in four ``stages``, each ``(words [B,L,C], token_valid) -> words``."""

    stages: nn.ModuleList

    def embed(self, token_ids: Tensor) -> Tensor:
        """ids [B,L] -> what the first stage reads, [B,L,C].

        Raises:
            RefsegError: more token positions than the encoder knows.
        """
        raise NotImplementedError

    def forward(self, token_ids: Tensor, token_valid: Tensor) -> tuple[Tensor, Tensor]:
        """ids [B,L], valid [B,L] -> words [B,L,C], zero where padded, valid [B,L]."""
        words = self.embed(token_ids)
        for stage in self.stages:
            words = stage(words, token_valid)
        return words * token_valid[..., None], token_valid
