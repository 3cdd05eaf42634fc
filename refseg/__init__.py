"""refseg: learn, explore and reproduce referring segmentation.

Given a picture or a clip and a sentence ("the woman left of the red car"), find the pixels it means.
The map of the package is in README.md; every module defines and never acts at import.
"""

__version__ = "0.1.0"
