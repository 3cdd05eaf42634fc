"""Ready-made experiments by name. A preset is a frozen value; ``variant`` makes another one of it:

>>> from refseg.training.experiment import variant
>>> mine = variant(refseg.PRESETS["cmsa_refshapes"], optim={"steps": 10}, data={"hide_expressions": True})
>>> mine.optim.steps, mine.model == refseg.PRESETS["cmsa_refshapes"].model
(10, True)

Presets of paper size are written for RefCOCO; ``on_benchmark`` puts them on another data set. None of them has been
run to its end by us, and papers do not say everything, so rates and batch sizes there are partly our choice.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from refseg.errors import RefsegError
from refseg.models.alignformer import AlignFormerConfig
from refseg.models.backbones import SmallBackboneConfig
from refseg.models.blocks.cfsa import CFSAConfig, FrameMeanConfig
from refseg.models.blocks.cross_modal import ConcatenationMeanConfig
from refseg.models.blocks.mask_head import SkipMaskHeadConfig
from refseg.models.cmsa_net import CMSANetConfig
from refseg.models.fusion import (
    ConvLSTMFusionConfig,
    DeconvFusionConfig,
    PPMFusionConfig,
    ReleaseGMLFConfig,
    SumFusionConfig,
)
from refseg.models.magnet import MagNetConfig
from refseg.models.text import SentenceVectorConfig
from refseg.objectives import (
    ImageContrastConfig,
    InstanceContrastConfig,
    MaskGroundingConfig,
    MaskLossConfig,
    ObjectiveConfig,
    PixelAlignmentConfig,
    PixelContrastConfig,
    SemanticsConfig,
    SupervisedWordMapsConfig,
)
from refseg.training.experiment import DataConfig, Experiment, OptimConfig, variant

FROZEN = SmallBackboneConfig(frozen=True)
MASKS = ObjectiveConfig((MaskLossConfig(),))
# Where the backbone begins at random, the loss "semantics" takes the place of pretrained weights. Decoders that give a
# mask after each of their steps are trained on all of them.
MASKS_AND_SEMANTICS = MASKS.adding(SemanticsConfig())
ALL_STEPS = MASKS_AND_SEMANTICS.changed(MaskLossConfig, deep_supervision=True)
FULL_WEIGHT = "Control: the hidden words weigh as much as the masks."


def variants(name: str, base: Experiment, **rows: tuple[str, dict[str, Any]]) -> dict[str, Experiment]:
    """Presets ``name_suffix``, each from what it is and what it changes."""
    return {f"{name}_{suffix}": variant(base, about, **changes) for suffix, (about, changes) in rows.items()}


# ---- lesson size -----------------------------------------------------------------------------------------------

LESSON = CMSANetConfig.lesson()
CMSA = Experiment(
    LESSON,
    MASKS_AND_SEMANTICS,
    optim=OptimConfig(learning_rate=3e-3, warmup_steps=100, curriculum_steps=400),
    about="CMSA at lesson size on RefShapes, from scratch on two CPU cores: the shipped network.",
)
MEAN, NEAR = ConcatenationMeanConfig(), SkipMaskHeadConfig(dilations=())
ON_SHIPPED = variant(  # a short training on the features of the shipped network's backbone, which stays fixed
    CMSA,
    model={"backbone": FROZEN},
    data={"cache_features": True},
    optim={"steps": 1000, "eval_every": 500},
    init_from="cmsa_refshapes",
)
FUSION = variant(
    ON_SHIPPED,
    "The paper's gates (Eq. 5-6), trained like the other fusions: on the shipped network's backbone, fixed.",
    objective=MASKS,
    init_parts=("backbone",),
)
WIDTH = LESSON.fusion.dim
VIDEO = Experiment(
    replace(LESSON, backbone=FROZEN, temporal=CFSAConfig()),
    MASKS_AND_SEMANTICS.changed(SemanticsConfig, weight=2.0),
    DataConfig("refshapes_video", image_size=64, num_frames=3, frame_stride=2, cache_features=True),
    OptimConfig(steps=2000, batch_size=48, learning_rate=3e-3, warmup_steps=100, eval_every=500),
    init_from="cmsa_refshapes",
    about="Video: CFSA on CMSA features (our reconstruction), on clips where only motion decides.",
)
VISUAL = CFSAConfig(before_cmsa=True)
# In half of the samples two words in five are hidden: enough of them in every batch.
GROUNDING = ALL_STEPS.adding(MaskGroundingConfig(weight=0.1, hidden=0.4, samples=0.5, dim=64, heads=4))
ALIGNMENT = PixelAlignmentConfig(referent_pixels=64, other_pixels=256)
MAGNET = Experiment(
    MagNetConfig.lesson(),
    GROUNDING.changed(MaskGroundingConfig, pixels="backbone/c3").adding(ALIGNMENT),
    optim=OptimConfig(curriculum_steps=400),
    about="MagNet at lesson size, with Mask Grounding and the alignment loss (both our reconstruction).",
)
ASKING = MAGNET.objective.changed(MaskGroundingConfig, weight=1.0)
ALIGNFORMER = Experiment(
    AlignFormerConfig.lesson(),
    ALL_STEPS.adding(InstanceContrastConfig(weight=0.1)),
    optim=OptimConfig(curriculum_steps=400),
    about="AlignFormer at lesson size, with the instance contrastive loss (our reconstruction).",
)

# ---- paper size ------------------------------------------------------------------------------------------------

# CMSA's backbone begins with ImageNet's weights and is tuned. The release's were trained on masks of COCO and stay
# fixed, but they have seen the test images.
RESNET = replace(CMSANetConfig.paper("IMAGENET1K_V2").backbone, frozen=False)
RARELY = {"mixed_precision": True, "eval_every": 5000, "save_every": 1000}
CMSA_REFCOCO = Experiment(
    replace(CMSANetConfig.paper(), backbone=RESNET),
    MASKS.changed(MaskLossConfig, dice=0.0),
    DataConfig("refcoco", image_size=320, min_word_count=2, val_samples=2000, workers=8),
    OptimConfig(200_000, 16, learning_rate=2.5e-4, backbone_rate=0.1, warmup_steps=2000, weight_decay=5e-4, **RARELY),
    about="CMSA in the paper's form on RefCOCO: 320 px, 20 words, ResNet-101. Rates, batch and first weights are ours.",
)
PRETRAINED = {"swin_weights": "swin_base_patch4_window12_384.ms_in22k", "bert_weights": "bert-base-uncased"}
DEEP = MaskLossConfig(bce=5.0, dice=5.0, deep_supervision=True)
# Learning rate and weight decay are the defaults of the release's argument parser; the words' side is corrected.
MAGNET_REFCOCO = Experiment(
    MagNetConfig.paper(**PRETRAINED),
    ObjectiveConfig((DEEP, MaskGroundingConfig(pixels="fused/c5"), PixelAlignmentConfig())),
    DataConfig("refcoco", image_size=480, pretrained_tokenizer="bert-base-uncased", val_samples=2000, workers=8),
    OptimConfig(150_000, learning_rate=5e-5, warmup_steps=1000, **RARELY),
    about="MagNet at paper size on RefCOCO: 480 px, Swin-B, BERT, 20 word pieces.",
)

PRESETS: dict[str, Experiment] = {
    "cmsa_refshapes": CMSA,
    **variants(
        "cmsa_refshapes",
        CMSA,
        blank=("Control: the expression is hidden.", {"data": {"hide_expressions": True}}),
        no_attention=("Control: concatenation and the mean over words.", {"model": {"cross_modal": MEAN}}),
        sentence=(
            "Control: one sentence vector instead of the words (the paper's CMSA-S).",
            {"model": {"text": SentenceVectorConfig(LESSON.text)}},
        ),
        near_head=("Control: the head does not look across the image.", {"model": {"head": NEAR}}),
        near_head_no_attention=("Control: both of these.", {"model": {"head": NEAR, "cross_modal": MEAN}}),
        mask_grounding=("The lesson's CMSA with Mask Grounding.", {"objective": GROUNDING}),
        full_grounding=(f"{FULL_WEIGHT} CMSA.", {"objective": GROUNDING.changed(MaskGroundingConfig, weight=1.0)}),
    ),
    "cmsa_refshapes_taught_maps": variant(
        ON_SHIPPED,
        "The shipped network trains on, and every word is shown where it should look; the backbone is fixed.",
        objective=MASKS.adding(SupervisedWordMapsConfig()),
        optim=OptimConfig(steps=1000, warmup_steps=50, eval_every=500),
    ),
    "cmsa_release_refshapes": variant(
        CMSA, "Attention and fusion as the authors' release computes them.", model=CMSANetConfig.release_lesson()
    ),
    "cmsa_refshapes_fusion_gmlf": FUSION,
    **variants(
        "cmsa_refshapes_fusion",
        FUSION,
        sum=("Control: the levels are added up.", {"model": {"fusion": SumFusionConfig(dim=WIDTH)}}),
        ppm=("Control: pyramid pooling, no gates.", {"model": {"fusion": PPMFusionConfig(dim=WIDTH)}}),
        deconv=("Control: deconvolutions from level to level.", {"model": {"fusion": DeconvFusionConfig(dim=WIDTH)}}),
        convlstm=("Control: a ConvLSTM over the levels.", {"model": {"fusion": ConvLSTMFusionConfig(dim=WIDTH)}}),
        release=("The gates of the release, one per channel.", {"model": {"fusion": ReleaseGMLFConfig(dim=WIDTH)}}),
    ),
    "cmsa_refshapes_video": VIDEO,
    **variants(
        "cmsa_refshapes_video",
        VIDEO,
        visual=("Frames are compared before the words come in.", {"model": {"temporal": VISUAL}}),
        no_offsets=(
            "Control: the plain operator, which cannot tell before from after.",
            {"model": {"temporal": replace(VISUAL, offsets=False)}},
        ),
        mean=("Control: the mean over the frames.", {"model": {"temporal": FrameMeanConfig(before_cmsa=True)}}),
        centre=(  # nothing is left that could learn what is where
            "Control: the centre frame only.",
            {"model": {"temporal": None}, "objective": MASKS, "data": {"num_frames": 1}},
        ),
    ),
    "magnet_refshapes": MAGNET,
    **variants(
        "magnet_refshapes",
        MAGNET,
        short=(
            "Full weight on the hidden words, fewer steps: the shipped checkpoint, made for guessing words.",
            {"objective": ASKING, "optim": {"steps": 2500, "warmup_steps": 100}},
        ),
        full_grounding=(FULL_WEIGHT, {"objective": ASKING}),
        no_cam=(
            "Control: words go into pixels at one scale and one way only, as in LAVT; no pixels into words.",
            {"model": {"alignment": {"pool_sizes": (), "pixels_to_words": False}}},
        ),
        no_mask_grounding=("Control: no hidden words.", {"objective": ALL_STEPS.adding(ALIGNMENT)}),
        no_alignment=("Control: no alignment loss.", {"objective": MAGNET.objective.without(PixelAlignmentConfig)}),
    ),
    "alignformer_refshapes": ALIGNFORMER,
    **variants(
        "alignformer_refshapes",
        ALIGNFORMER,
        short=("Fewer steps: the shipped checkpoint.", {"optim": {"steps": 4000, "warmup_steps": 100}}),
        words_to_pixels=("Control: no word looks at the image.", {"model": {"vlba": {"pixels_to_words": False}}}),
        no_vlba=(
            "Control: words and pixels do not meet in the backbone; the decoder still looks at the words.",
            {"model": {"vlba": {"words_to_pixels": False, "pixels_to_words": False}}},
        ),
        no_contrast=("Control: masks only.", {"objective": ALL_STEPS}),
        contrast_in_picture=(
            "Control: a centre is compared with the instances of its own image only, not with other samples.",
            {"objective": ALL_STEPS.adding(ImageContrastConfig(weight=0.1))},
        ),
        pixel_contrast=(
            "Control: every pixel is contrasted, not instances.",
            {"objective": ALL_STEPS.adding(PixelContrastConfig(weight=0.1))},
        ),
    ),
    "cmsa_refcoco": CMSA_REFCOCO,
    "cmsa_release_refcoco": variant(
        CMSA_REFCOCO,
        "CMSA as the authors' release computes it, on RefCOCO; training as in cmsa_refcoco.",
        model=replace(CMSANetConfig.release(), backbone=RESNET),
    ),
    "cmsa_a2d": variant(
        CMSA_REFCOCO,
        "CMSA with CFSA (our reconstruction) at paper size on A2D-Sentences, five frames.",
        model={"temporal": CFSAConfig(dim=512, heads=8)},
        data={"name": "a2d", "val_split": "test", "num_frames": 5, "frame_stride": 2},
        optim={"batch_size": 8},
    ),
    "magnet_refcoco": MAGNET_REFCOCO,
    # Batch, rates and about 40 epochs are those of the released code of the later version, which has BCE alone.
    "alignformer_refcoco": variant(
        MAGNET_REFCOCO,
        "AlignFormer at paper size on RefCOCO: 480 px, Swin-B, BERT, 20 word pieces.",
        model=AlignFormerConfig.paper(**PRETRAINED),
        objective=ObjectiveConfig((MaskLossConfig(dice=0.0, deep_supervision=True), InstanceContrastConfig())),
    ),
}


def on_benchmark(experiment: Experiment, name: str, split_by: str | None = None) -> Experiment:
    """The same training on another data set. Of ReferIt it takes trainval, as papers do.

    Validation is "val" there too, a part of trainval: ``best`` then says nothing, so test ``last``.
    """
    train_split = "trainval" if name == "referit" else "train"
    return variant(experiment, data={"name": name, "split_by": split_by, "train_split": train_split})


# Presets once had a twin per benchmark, whose names still work: the preset, the data set, the owner of its split.
METHODS = ("cmsa", "cmsa_release", "magnet", "alignformer")
OLD_NAMES = {
    **{f"{m}_{d}": (f"{m}_refcoco", d, None) for m in METHODS for d in ("refcoco+", "referit")},
    **{f"{m}_refcocog": (f"{m}_refcoco", "refcocog", "google") for m in METHODS[:2]},  # the papers' G-Ref
    **{f"{m}_refcocog": (f"{m}_refcoco", "refcocog", "umd") for m in METHODS[2:]},
    **{f"{m}_refcocog_google": (f"{m}_refcoco", "refcocog", "google") for m in METHODS[2:]},
}


def find_preset(name: str) -> Experiment:
    """The preset of that name, an old name included, about which it warns on stderr.

    Raises:
        RefsegError: there is none.
    """
    if name in OLD_NAMES:
        preset, data, split_by = OLD_NAMES[name]
        options = f"--preset {preset} --data {data}" + (f" --split-by {split_by}" if split_by else "")
        print(f"refseg: the preset {name} is now called: {options}", file=sys.stderr)
        return on_benchmark(PRESETS[preset], data, split_by)
    if name not in PRESETS:
        raise RefsegError(f"There is no preset {name!r}: choose one of {', '.join(PRESETS)}.")
    return PRESETS[name]
