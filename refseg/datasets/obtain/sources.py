"""Where the pieces of the published data sets come from, with what is known of their licences.

Addresses, their state and licences are what public pages and issue threads last said (December 2025); nothing was
probed. UNC's own host, from which the annotations in the REFER layout came, has been dead since September 2022.
"""

from __future__ import annotations

from refseg.datasets.base import Piece

# train2017 holds the images of train2014 under shorter names.
_COCO_PARENTS = ("images/mscoco/images/", "mscoco/images/", "images/", "", "coco/", "coco/images/")
COCO_FOLDERS = (*(parent + leaf for parent in _COCO_PARENTS for leaf in ("train2014", "train2017")), "images", ".")
_SAIAPR = ("saiapr_tc-12", "saiaprtc12", "saiapr_tc12")  # REFER's code, its README, and what others made of the two
SAIAPR_FOLDERS = (*("images/" + leaf for leaf in _SAIAPR), *_SAIAPR, "images", ".")

_UNC = "bvisionweb1.cs.unc.edu/licheng/referit/data"
_REFER = "the zip states none; REFER's code is Apache-2.0, the annotations of COCO are CC BY 4.0"
_GOOGLE = "Google's expressions are CC BY 4.0; the zip states none; the annotations of COCO are CC BY 4.0"
_KAGGLE = "Kaggle lhhhhl/refcoco-and-refcoco"
_RESEARCH = "for research; we saw no text of a licence"
_AUTHORS = "none stated; the authors' own page"
_PAGE = "https://kgavrilyuk.github.io/publication/actor_action/"
_TEXTS = "https://raw.githubusercontent.com/kgavrilyuk/kgavrilyuk.github.io/HEAD/actor_action"
_JHMDB = "http://jhmdb.is.tue.mpg.de (some users report its links dead)"
MTTR_LIST = "jhmdb_sentences_samples_metadata.json"


def _refer(stem: str, stamp: str, licence: str, by_hand: str = "") -> Piece:
    """UNC's archive: the web archive's copy, then the original host."""
    original = f"https://{_UNC}/{stem}.zip"
    urls = (f"https://web.archive.org/web/{stamp}/{original}", original)
    return Piece("annotations", stem, licence, stem, ("instances.json",), urls, by_hand)


def _parquet(repository: str) -> str:
    return f"or as parquet files: hf download jxu124/{repository} --repo-type dataset --local-dir F, then --parquet F"


def _text(
    what: str, place: str, url: str, size: int, sha256: str, by_hand: str = _PAGE, licence: str = _AUTHORS
) -> Piece:
    """A single small file, known to the byte."""
    name = place.rpartition("/")[2]
    return Piece(what, place, licence, name, urls=(f"{url}/{name}",), by_hand=by_hand, size=size, sha256=sha256)


_COCO = Piece(
    "images, 13 GB",
    "images/mscoco/images/train2014",
    "each photo has its own Flickr licence, which instances.json names",
    "train2014",
    ("COCO_train2014_*.jpg", "[0-9]" * 12 + ".jpg"),
    ("http://images.cocodataset.org/zips/train2014.zip",),
    elsewhere=tuple(folder for folder in COCO_FOLDERS if folder != "."),
    is_images=True,
)
REFCOCO = (_refer("refcoco", "20220413011718", _REFER, f"{_KAGGLE}; {_parquet('refcoco')}"), _COCO)
REFCOCO_PLUS = (_refer("refcoco+", "20220413011656", _REFER, f"{_KAGGLE}; {_parquet('refcocoplus')}"), _COCO)
REFCOCOG = (_refer("refcocog", "20220413012904", _GOOGLE, _parquet("refcocog")), _COCO)
REFERIT = (
    _refer("refclef", "20220413011817", "the zip states none; REFER's code is Apache-2.0"),
    Piece(
        "images",
        "images/saiapr_tc-12",
        "IAPR TC-12 is said to be free of copyright restrictions; we have not seen the text",
        "saiapr_tc-12",
        ("*/images/*.jpg", "[0-9]*.jpg"),
        (f"https://web.archive.org/web/20220515000000/http://{_UNC}/images/saiapr_tc-12.zip",),  # slow
        "Google Drive 1R6Tm7tQTHCil6A_eOhjudK3rgaBxkD2t (named by SeqTR), or ImageCLEF's page of SIAPR TC-12",
        tuple(folder for folder in SAIAPR_FOLDERS if folder not in (".", "images")),
        is_images=True,
    ),
)
A2D = (
    _text(
        "sentences",
        "a2d_sentences/text_annotations/a2d_annotation.txt",
        _TEXTS,
        324464,
        "cd7fe76bfded69e90a25cf06b1213dc39bb4262d74048a10e9d38d45db8d5e81",
    ),
    _text(
        "list of videos without sentences",
        "a2d_sentences/text_annotations/a2d_missed_videos.txt",
        _TEXTS,
        335,
        "f2549383d07cfe7af64d31462a5dc4b9952bca8ec7e17e54956434887f6e17d1",
    ),
    Piece(
        "masks of the instances",
        "a2d_sentences/text_annotations/a2d_annotation_with_instances",
        _RESEARCH,
        "a2d_annotation_with_instances",
        ("*/*.h5",),
        by_hand=f"Google Drive 14DNamenZsvZnb32NFBNkZCGene5D2oaE, linked on {_PAGE}",
    ),
    Piece(
        "videos",
        "a2d_sentences/Release",
        _RESEARCH,
        "A2D_main_1_0",
        ("videoset.csv",),
        ("https://web.eecs.umich.edu/~jjcorso/bigshare/A2D_main_1_0.tar.bz",),
        "https://web.eecs.umich.edu/~jjcorso/r/a2d",
        is_images=True,
    ),
)
JHMDB = (
    _text(
        "sentences",
        "jhmdb_sentences/jhmdb_annotation.txt",
        _TEXTS,
        76238,
        "e7e5e8625b826d7823c90e8ea0297dbe8342a567e6c9c4529b8d0a9c18580999",
    ),
    _text(
        "MTTR's list of frames",
        f"jhmdb_sentences/{MTTR_LIST}",
        "https://raw.githubusercontent.com/mttr2021/MTTR/HEAD/datasets/jhmdb_sentences",
        847857,
        "7a4744a30ca20b432b9ba629f95965d7c64e84b54f438031c9916718199f2fd5",
        by_hand=f"github.com/mttr2021/MTTR, datasets/jhmdb_sentences/{MTTR_LIST}",
        licence="Apache-2.0",
    ),
    Piece(
        "masks of the person",
        "jhmdb_sentences/puppet_mask",
        _RESEARCH,
        "puppet_mask",
        ("*/*/puppet_mask.mat",),
        by_hand=_JHMDB,
    ),
    Piece(
        "frames",
        "jhmdb_sentences/Rename_Images",
        _RESEARCH,
        "Rename_Images",
        ("*/*/*.png",),
        by_hand=_JHMDB,
        is_images=True,
    ),
)
