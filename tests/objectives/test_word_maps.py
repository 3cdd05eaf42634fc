"""Word maps can be supervised: the truth by hand, and maps that follow it."""

import pytest
import torch

from refseg.datasets import Collate, build_dataset, build_transform
from refseg.errors import RefsegError
from refseg.models import build_model
from refseg.objectives import ObjectiveConfig, SupervisedWordMapsConfig, build_objective
from refseg.objectives.word_maps import true_regions
from refseg.tokenizer import WordVocabulary
from refseg_course.word_measures import pointing_scores


@pytest.fixture
def dataset(tiny_refshapes):
    return build_dataset("refshapes", "train", build_transform(32), objects=True)


@pytest.fixture
def tokenizer(dataset):
    return WordVocabulary.build(dataset.expressions, 1, 20)


def test_the_truth_is_what_the_data_set_says(dataset, tokenizer):
    batch = Collate(tokenizer)([dataset[i] for i in range(7)])
    true = true_regions(batch, (4, 4))
    assert true.shape == (*batch.token_ids.shape, 4, 4)
    at_centres = batch.objects[:, 0, 4::8, 4::8]
    asked = 0
    for b, known in enumerate(batch.annotations):
        for position, word in enumerate(tokenizer.split(batch.expressions[b])):
            if word in ("the", "of", "thing"):
                assert not true[b, position].any()
            elif known.word_objects[position]:
                asked += 1
                for row in range(4):
                    for column in range(4):
                        number = int(at_centres[b, row, column])
                        named = number > 0 and known.object_ids[number - 1] in known.word_objects[position]
                        assert bool(true[b, position, row, column]) == named
    assert asked > 7
    assert not true[~batch.token_valid].any()


def test_supervised_maps_move_onto_their_objects(tiny_experiment, dataset, tokenizer):
    """By heart, on one batch: the share of weight on the true objects grows, and only attention weights learn."""
    model = build_model(tiny_experiment.model, len(tokenizer))
    batch = Collate(tokenizer)([dataset[i] for i in range(5)])
    objective = build_objective(ObjectiveConfig((SupervisedWordMapsConfig(),)), model)
    assert objective.weights == {"maps": 0.5}
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    found = []
    for _ in range(60):
        _, losses = objective(model, batch)
        optimizer.zero_grad()
        losses["maps"].backward()
        optimizer.step()
        found.append(losses["maps"].item())
    assert found[-1] < 0.6 * found[0]
    assert model.head.logits.weight.grad is None
    subset = torch.utils.data.Subset(dataset, range(5))
    scores = pointing_scores(model, subset, tokenizer, progress=False)
    assert all(scores[level]["all"]["mass"] > 2 * scores[level]["all"]["chance"] for level in ("c3", "c4", "c5"))


def test_a_batch_without_that_truth_is_refused(tiny_refshapes, tokenizer):
    plain = build_dataset("refshapes", "train", build_transform(32))
    with pytest.raises(RefsegError, match="does not say what its words are true of"):
        true_regions(Collate(tokenizer)([plain[0]]), (4, 4))
