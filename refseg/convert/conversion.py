"""What the converters of the authors' checkpoints share."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from refseg.errors import RefsegError

MOST_NAMES = 8  # in one message


@dataclass
class Conversion:
    """What became of a checkpoint."""

    converted: int  # tensors that the network took
    unused: list[str]  # names of the others, without what only training needs


def unused_names(
    path: Path, network: str, wanted: Collection[str], stored: Collection[str], needless: Callable[[str], object]
) -> list[str]:
    """The names in a checkpoint that the network does not need.

    Args:
        path: of the checkpoint, for the message.
        network: that it must be of, for the message.
        wanted: the names that the network needs.
        stored: the names in the checkpoint.
        needless: whether a name is known to be of no use.

    Raises:
        RefsegError: a wanted name is missing.
    """
    unused = [name for name in stored if name not in wanted and not needless(name)]
    if missing := [name for name in wanted if name not in stored]:
        instead = f"; what it has instead is {_listed(unused)}" if unused else ""
        raise RefsegError(
            f"{path} is not a checkpoint of the {network} release: it lacks {_listed(missing)}{instead}; name another."
        )
    return unused


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more
