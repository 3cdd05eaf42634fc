"""The contrastive loss: what an instance is, who is compared with whom, and the values by hand."""

import math
from dataclasses import replace

import pytest
import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from refseg.errors import RefsegError
from refseg.objectives import (
    ImageContrastConfig,
    InstanceContrastConfig,
    ObjectiveConfig,
    PixelContrastConfig,
    build_objective,
)
from refseg.objectives.contrastive import (
    LEFT_OUT,
    contrast_in_image,
    core_weights,
    instance_contrast,
    instance_labels,
    instance_means,
    pixel_contrast,
    sample_keys,
)
from refseg.types import Annotations, Prediction, RefBatch

D, H, W = 5, 12, 20  # pixels' grid is 3 x 5 where nothing else is said
ONE = torch.tensor(1.0)


def make_batch(mask, objects=None, pictures=None, expressions=None, pixel_valid=None) -> RefBatch:
    """A batch of masks [B,1,H,W]; nothing else in it matters here."""
    B = len(mask)
    ids = torch.ones(B, 3, dtype=torch.int64)
    names = [str(i) for i in range(B)]
    return RefBatch(
        frames=torch.zeros(B, 1, 3, *mask.shape[-2:]),
        target_frame=torch.zeros(B, dtype=torch.int64),
        token_ids=ids,
        token_valid=ids > 0,
        mask=mask,
        pixel_valid=torch.ones_like(mask) if pixel_valid is None else pixel_valid,
        expressions=expressions or [f"thing {i}" for i in range(B)],
        original_masks=list(mask[:, 0]),
        original_sizes=[tuple(mask.shape[-2:])] * B,
        sample_ids=names,
        image_ids=pictures or names,
        annotations=[Annotations()] * B,
        objects=objects,
    )


def columns(*ranges, B=1, value=True, dtype=torch.bool):
    """Zeros [B,1,H,W], and ``value`` in the given columns."""
    picture = torch.zeros(B, 1, H, W, dtype=dtype)
    for first, last in ranges:
        picture[..., first:last] = value
    return picture


def axes(*names: int) -> torch.Tensor:
    """Unit vectors along the named axes, [B,D]."""
    return torch.eye(D)[list(names)]


def picture_of_axes(*by_column: int) -> torch.Tensor:
    """Pixels [1,D,3,5] whose columns are unit vectors along the named axes."""
    return axes(*by_column).T[None, :, None].repeat(1, 1, 3, 1)


# ---- what an instance is -----------------------------------------------------------------------------------------


def test_the_ring_is_left_out_and_small_things_are_not():
    shares = torch.zeros(1, 4, 5, 7)
    shares[0, 0, 1:4, 1:4] = 1.0  # a block of 3 x 3 has one region inside
    shares[0, 1, 1:3, 4:6] = 0.8  # none is clear, four are mostly its own
    shares[0, 1, 3, 4] = 0.3
    shares[0, 2, 0, 0] = 0.25  # smaller than a region, on two of them
    shares[0, 2, 0, 1] = 0.05
    weights = core_weights(shares)
    assert weights[0, 0].sum() == 1 and weights[0, 0, 2, 2] == 1
    assert weights[0, 1].sum() == 4 and weights[0, 1, 1:3, 4:6].min() == 1
    assert torch.equal(weights[0, 2], shares[0, 2])
    assert weights[0, 3].sum() == 0  # what is not there


def test_the_edge_of_the_picture_is_no_outline():
    shares = torch.zeros(1, 1, 5, 7)
    shares[0, 0, :, :3] = 1.0
    assert core_weights(shares)[0, 0].nonzero().tolist() == [[r, c] for r in range(5) for c in (0, 1)]


def test_labels_by_hand():
    objects = columns((0, 8), value=1, dtype=torch.uint8) + columns((12, 16), value=2, dtype=torch.uint8)
    valid = columns((0, 18))
    batch = make_batch(columns((0, 6)), objects, pixel_valid=valid)  # 6 of object 1's 8 columns
    row = instance_labels(batch)[0, 0, 0].tolist()
    assert row == [0] * 6 + [LEFT_OUT] * 2 + [1] * 4 + [3] * 4 + [1] * 2 + [LEFT_OUT] * 2
    # An object that the mask covers less than half of stays one; without objects all else is background.
    batch.mask = columns((0, 3))
    assert instance_labels(batch)[0, 0, 0, :8].tolist() == [0] * 3 + [2] * 5
    assert instance_labels(replace(batch, objects=None))[0, 0, 0].tolist() == [0] * 3 + [1] * 15 + [LEFT_OUT] * 2


def test_means_by_hand_and_what_the_ring_shows_does_not_count():
    labels = columns((0, 8), value=2, dtype=torch.int64) + columns((8, 20), value=1, dtype=torch.int64)
    pixels = picture_of_axes(3, 0, 0, 1, 1)  # columns 1 and 2 are the ring: they show something else altogether
    means, present = instance_means(pixels, labels)
    assert present.tolist() == [[False, True, True]]
    assert torch.equal(means[0, 2], axes(3)[0]) and torch.equal(means[0, 1], axes(1)[0])
    assert means[0, 0].abs().max() == 0


# ---- who is compared with whom -----------------------------------------------------------------------------------


def test_one_sample_by_hand():
    """The centre's two candidates are its referent (similarity 1) and the background (0)."""
    batch = make_batch(columns((0, 8)))
    loss = instance_contrast(axes(3), picture_of_axes(3, 0, 0, 1, 1), batch, ONE)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)) / 2, rel=1e-6)  # finding the centre costs nothing


def test_other_objects_are_negatives():
    batch = make_batch(columns((0, 8)), columns((12, 20), value=1, dtype=torch.uint8))
    pixels = picture_of_axes(3, 0, 2, 0, 3)  # the other object looks like the referent
    loss = instance_contrast(axes(3), pixels, batch, ONE)
    assert loss.item() == pytest.approx(math.log((2 * math.e + 1) / math.e) / 2, rel=1e-6)
    unknown = instance_contrast(axes(3), pixels, replace(batch, objects=None), ONE)
    assert unknown < loss  # it is hidden in the background


def two_samples(**options):
    """Referents on the left, centres along axes 3 and 4; both referents look like the first centre."""
    batch = make_batch(columns((0, 8), B=2), **options)
    return axes(3, 4), picture_of_axes(3, 0, 0, 1, 1).repeat(2, 1, 1, 1), batch


def test_other_samples_are_negatives():
    loss = instance_contrast(*two_samples(), ONE)
    find_instance = (math.log((2 * math.e + 1) / math.e) + math.log(3)) / 2
    find_centre = (math.log((math.e + 1) / math.e) + math.log(math.e + 1)) / 2
    assert loss.item() == pytest.approx((find_instance + find_centre) / 2, rel=1e-6)


@pytest.mark.parametrize(
    "same", [{"pictures": ["a", "a"]}, {"expressions": ["the  Red star", "the red star"]}], ids=str
)
def test_the_same_object_or_expression_is_no_negative(same):
    loss = instance_contrast(*two_samples(**same), ONE)
    find_instance = (math.log((math.e + 1) / math.e) + math.log(2)) / 2
    assert loss.item() == pytest.approx(find_instance / 2, rel=1e-6)


def test_in_its_own_picture_a_centre_has_no_other_rivals():
    """Referents that look like each other's centre cost nothing here; an object of the same picture does."""
    batch = make_batch(columns((0, 8), B=2), columns((12, 20), B=2, value=1, dtype=torch.uint8))
    pixels = picture_of_axes(3, 0, 2, 0, 3).repeat(2, 1, 1, 1)
    loss = contrast_in_image(axes(3, 4), pixels, batch, ONE)
    first, second = math.log((2 * math.e + 1) / math.e), math.log(3)  # the second centre is like none of the three
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)
    batch.mask[1] = False  # an empty mask takes no part
    assert contrast_in_image(axes(3, 4), pixels, batch, ONE).item() == pytest.approx(first, rel=1e-6)


def test_keys_tell_objects_and_expressions_apart():
    masks = columns((0, 8), B=3)
    masks[2] = columns((0, 7))[0]
    keys = sample_keys(make_batch(masks, pictures=["a", "a", "a"], expressions=["x y", "X  y", "z"]))
    assert keys[0] == keys[1] and keys[0][0] != keys[2][0] and keys[0][1] != keys[2][1]
    other = sample_keys(make_batch(masks, pictures=["a", "b", "a/mirrored"]))
    assert len({referent for referent, _ in other}) == 3


def test_an_empty_mask_takes_no_part():
    centres, pixels, batch = two_samples()
    batch.mask = batch.mask.clone()
    batch.mask[1] = False
    alone = instance_contrast(centres[:1], pixels[:1], make_batch(columns((0, 8))), ONE)
    assert torch.allclose(instance_contrast(centres, pixels, batch, ONE), alone)
    batch.mask[:] = False
    centres.requires_grad_()
    loss = instance_contrast(centres, pixels, batch, ONE)
    loss.backward()
    assert loss.item() == 0 and centres.grad.abs().max() == 0


def test_a_referent_of_one_pixel_counts():
    mask = torch.zeros(1, 1, H, W, dtype=torch.bool)
    mask[0, 0, 5, 6] = True
    near = instance_contrast(axes(3), picture_of_axes(1, 3, 1, 1, 1), make_batch(mask), ONE)
    far = instance_contrast(axes(3), picture_of_axes(1, 1, 3, 1, 1), make_batch(mask), ONE)
    assert near < far


def test_a_referent_that_fills_the_picture_leaves_no_negative():
    loss = instance_contrast(axes(3), picture_of_axes(3, 3, 3, 3, 3), make_batch(columns((0, W))), ONE)
    assert loss.item() == 0


def test_single_pixels_by_hand():
    """Two of five columns are the referent's; at a similarity of 0 every pixel costs log 2."""
    batch = make_batch(columns((0, 8)))
    assert pixel_contrast(axes(4), picture_of_axes(3, 3, 0, 1, 1), batch, ONE).item() == pytest.approx(math.log(2))
    same_size = picture_of_axes(3, 3, 0, 1, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    loss = pixel_contrast(axes(3), same_size, batch, torch.tensor(0.5))
    assert loss.item() == pytest.approx(0.4 * math.log(1 + math.exp(-2)) + 0.6 * math.log(2), rel=1e-6)


# ---- several processes -------------------------------------------------------------------------------------------


def example_of_four():
    generator = torch.Generator().manual_seed(1)
    masks = torch.rand(4, 1, H, W, generator=generator) < 0.3
    objects = torch.randint(0, 4, (4, 1, H, W), generator=generator, dtype=torch.uint8)
    centres, pixels = torch.randn(4, D, generator=generator), torch.randn(4, D, 3, 5, generator=generator)
    return centres, pixels, masks, objects


def loss_and_gradient(rows):
    centres, pixels, masks, objects = (x[rows].clone() for x in example_of_four())
    names = [["a", "b", "c", "d"][i] for i in rows]
    expressions = [["same", "other", "same", "third"][i] for i in rows]
    centres.requires_grad_()
    loss = instance_contrast(centres, pixels, make_batch(masks, objects, names, expressions), torch.tensor(0.5))
    loss.backward()
    return loss.detach(), centres.grad


def one_process(rank, address, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    torch.save(loss_and_gradient([2 * rank, 2 * rank + 1]), out / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.timeout(300)
def test_two_processes_see_the_samples_of_both(tmp_path):
    arguments, method = (f"file://{tmp_path}/meet", tmp_path), "spawn" if torch.cuda.is_available() else "fork"
    multiprocessing.start_processes(one_process, arguments, nprocs=2, start_method=method)  # CUDA does not fork
    (one, one_gradient), (two, two_gradient) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    loss, gradient = loss_and_gradient([0, 1, 2, 3])
    assert torch.allclose((one + two) / 2, loss, atol=1e-6)
    # Each process has the gradient of the sum; training takes the mean over processes.
    assert torch.allclose(torch.cat([one_gradient, two_gradient]) / 2, gradient, atol=1e-6)
    assert not torch.allclose(loss_and_gradient([0, 1])[0], one, atol=1e-3)  # alone it would miss half of them


# ---- the objective -----------------------------------------------------------------------------------------------


class Pixels(nn.Module):
    """Its trace has pixels, a sentence and perhaps a centre."""

    visual_channels: dict = {}

    def __init__(self, centre: bool = True):
        super().__init__()
        self.pixels = nn.Parameter(torch.randn(2, D, 3, 5))
        self.vector = nn.Parameter(torch.randn(2, D if centre else 7))
        self.trace_channels = {"pixels": D, "sentence": 7} | ({"centre": D} if centre else {})

    def forward(self, batch):
        trace = {"pixels": self.pixels, "centre" if "centre" in self.trace_channels else "sentence": self.vector}
        return Prediction(torch.zeros(2, 1, 3, 5), trace)


def left_and_right():
    return make_batch(torch.cat([columns((0, 8)), columns((8, 20))]))


INSTANCES = InstanceContrastConfig()


def contrast(model, config=INSTANCES):
    return build_objective(ObjectiveConfig((config,)), model)


def test_contrast_reaches_pixels_centre_and_temperature():
    model = Pixels()
    objective = contrast(model, InstanceContrastConfig(weight=0.25))
    assert objective.weights["contrast"] == 0.25
    assert [name for name, _ in objective.named_parameters()] == ["terms.0.log_temperature"]
    assert objective.terms[0].log_temperature.exp().item() == pytest.approx(0.07)
    objective(model, left_and_right())[1]["contrast"].backward()
    for parameter in (model.pixels, model.vector, objective.terms[0].log_temperature):
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 0


def test_scale_of_centre_and_pixels_does_not_matter():
    model = Pixels()
    objective = contrast(model)
    before = objective(model, left_and_right())[1]["contrast"].item()
    with torch.no_grad():
        model.pixels *= 7
        model.vector *= 0.1
    assert objective(model, left_and_right())[1]["contrast"].item() == pytest.approx(before, rel=1e-5)


def test_the_temperature_has_a_lower_bound():
    model = Pixels()
    objective = contrast(model)
    losses = []
    for temperature in (0.01, 1e-6):
        nn.init.constant_(objective.terms[0].log_temperature, math.log(temperature))
        losses.append(objective(model, left_and_right())[1]["contrast"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_loss_gathers_pixels_around_their_centre():
    for config in (InstanceContrastConfig(), ImageContrastConfig(), PixelContrastConfig()):
        model = Pixels()
        objective = contrast(model, config)
        optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=0.05)
        for _ in range(60):
            optimizer.zero_grad()
            objective(model, left_and_right())[1]["contrast"].backward()
            optimizer.step()
        similarity = torch.cosine_similarity(model.pixels, model.vector[..., None, None], dim=1)
        assert similarity[0, :, 0].mean() > similarity[0, :, 3:].mean() + 0.3, config  # the regions off the ring
        assert similarity[1, :, 3:].mean() > similarity[1, :, 0].mean() + 0.3, config


def test_a_model_without_a_centre_has_its_sentence_mapped():
    model = Pixels(centre=False)
    objective = contrast(model)
    assert objective.terms[0].project.weight.shape == (D, 7)
    objective(model, left_and_right())[1]["contrast"].backward()
    assert objective.terms[0].project.weight.grad.abs().max() > 0 and model.vector.grad.abs().max() > 0


def test_half_precision_is_compared_in_full():
    model = Pixels()
    objective, batch = contrast(model), left_and_right()
    full = objective(model, batch)[1]["contrast"]
    with torch.autocast("cpu", torch.bfloat16):
        half = objective(model, batch)[1]["contrast"]
    assert half.dtype == torch.float32 and torch.equal(half, full)


def test_it_says_what_it_lacks():
    with pytest.raises(RefsegError, match="InstanceContrastConfig needs a model whose trace has sentence, pixels"):
        contrast(None)
