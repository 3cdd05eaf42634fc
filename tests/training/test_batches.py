"""The order of the samples: every one once an epoch, by seed and step alone, shared by processes."""

from dataclasses import replace

import pytest

from refseg.errors import RefsegError
from refseg.training.batches import ShuffledBatches
from refseg.training.experiment import OptimConfig

IMAGE_IDS = [image for image in range(11) for _ in range(image % 5 + 1)]  # 1 to 5 samples each, 31 in all


LENGTHS = [1 + (7 * index) % 11 for index in range(len(IMAGE_IDS))]


def batches(first_step=0, rank=0, world=1, image_ids=IMAGE_IDS, lengths=LENGTHS, mirror=False, **optim):
    config = OptimConfig(**{"steps": 23, "batch_size": 6, "expressions_per_image": 3, **optim})
    sampler = ShuffledBatches(image_ids, lengths, config, first_step, rank, world, mirror)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


def test_every_sample_comes_once_an_epoch():
    assert len(IMAGE_IDS) == 31
    stream = [index for batch in batches(steps=31, batch_size=7) for index in batch]  # seven epochs
    epochs = [stream[start : start + 31] for start in range(0, 7 * 31, 31)]
    assert all(sorted(epoch) == list(range(31)) for epoch in epochs)
    assert epochs[0] != epochs[1] and epochs[0] != list(range(31))


def test_a_batch_larger_than_the_data_set():
    (batch,) = batches(steps=1, batch_size=67)
    assert sorted(batch[:31]) == sorted(batch[31:62]) == list(range(31)) and len(batch) == 67


def test_samples_of_an_image_stay_together():
    stream = [index for batch in batches(steps=31, batch_size=7) for index in batch][:31]
    runs = [1]
    for before, index in zip(stream, stream[1:]):
        together = IMAGE_IDS[before] == IMAGE_IDS[index]
        runs[-1:] = [runs[-1] + 1] if together else [runs[-1], 1]
    # Groups of at most three: pictures of 5 samples come as 3 and 2 (side by side only by chance).
    groups = sum((count + 2) // 3 for count in map(IMAGE_IDS.count, range(11)))
    assert groups - 3 <= len(runs) <= groups == 15
    alone = [index for batch in batches(steps=31, batch_size=7, expressions_per_image=1) for index in batch][:31]
    assert sum(IMAGE_IDS[a] == IMAGE_IDS[b] for a, b in zip(alone, alone[1:])) < 31 - len(runs)


def test_the_order_is_a_function_of_seed_and_step():
    assert batches() == batches()
    assert batches() != batches(seed=1)


def test_a_resumed_order_is_the_tail():
    for curriculum_steps in (0, 7, 23, 800):
        for mirror in (False, True):
            options = {"curriculum_steps": curriculum_steps, "mirror": mirror}
            whole = batches(**options)
            for first_step in (0, 1, 5, 7, 8, 22, 23):
                assert batches(first_step, **options) == whole[first_step:], (first_step, options)


def test_half_of_the_images_of_an_epoch_are_mirrored_and_the_order_stays():
    count = len(IMAGE_IDS)
    options = {"steps": 31 * 20, "batch_size": 1, "expressions_per_image": 5}  # 20 epochs, no picture in two groups
    plain, flipped = ([batch[0] for batch in batches(mirror=mirror, **options)] for mirror in (False, True))
    assert [index % count for index in flipped] == plain and max(plain) < count <= max(flipped) < 2 * count
    epochs = [flipped[start : start + count] for start in range(0, len(flipped), count)]
    mirrored = [{(IMAGE_IDS[index % count], index >= count) for index in epoch} for epoch in epochs]
    assert all(len(pictures) == 11 for pictures in mirrored)  # a picture's samples are mirrored together
    assert len({frozenset(pictures) for pictures in mirrored}) == 20  # others every epoch
    shares = [sum(dict(pictures)[image] for pictures in mirrored) / 20 for image in range(11)]
    assert 0.4 < sum(shares) / 11 < 0.6 and 0.1 < min(shares) and max(shares) < 0.9
    assert batches(mirror=True, seed=1) != batches(mirror=True)
    halves = [batches(mirror=True, rank=rank, world=2) for rank in (0, 1)]
    assert [a + b for a, b in zip(*halves)] == batches(mirror=True)


def test_short_expressions_come_first():
    short = {index for index, length in enumerate(LENGTHS) if length <= 4}
    found = batches(curriculum_steps=7)
    assert len(found) == 23 and 5 < len(short) < 31
    first, rest = sum(found[:7], []), sum(found[7:], [])
    assert set(first) == short and sorted(first[: len(short)]) == sorted(short)
    assert sorted(rest[:31]) == list(range(31))


def test_a_curriculum_never_lengthens_a_run():
    assert len(batches(steps=5, curriculum_steps=800)) == 5


def test_no_short_expression_means_no_curriculum():
    assert batches(curriculum_steps=7, curriculum_words=0) == batches()


def test_processes_share_every_batch():
    for world in (2, 3):
        shares = [batches(rank=rank, world=world, curriculum_steps=3) for rank in range(world)]
        for whole, *parts in zip(batches(curriculum_steps=3), *shares):
            assert sum(parts, []) == whole and {len(part) for part in parts} == {6 // world}


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(RefsegError, match="A batch of 7 cannot be shared by 2 processes"):
        batches(batch_size=7, world=2)


def test_a_fraction_of_the_images(tiny_experiment):
    """The first pictures with all their sentences, mirror images still those of the right samples."""
    config = replace(tiny_experiment.optim, steps=40, batch_size=2)
    images, lengths = [3, 3, 5, 7, 7, 7, 9], [4] * 7
    seen = {index for batch in ShuffledBatches(images, lengths, config, fraction=0.5) for index in batch}
    assert seen == {0, 1, 2}
    seen = {index for batch in ShuffledBatches(images, lengths, config, mirror=True, fraction=0.5) for index in batch}
    assert seen == {0, 1, 2, 7, 8, 9}
    with pytest.raises(RefsegError, match="train_fraction is 0.0"):
        replace(tiny_experiment.data, train_fraction=0.0)
