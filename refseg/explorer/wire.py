"""Tensors and pictures as short text, so that one and the same JSON serves the widget, a page and a file.

Attention spans many powers of ten: most of a map's weight may lie in one region, and what tells words apart lies in the
rest. Maps are therefore sent on a logarithmic scale; with ``bits=16`` a value is off by less than 0.1 %, with 8 by less
than 4 %.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SMALLEST = 1e-7  # of a map's largest value; what is below is sent as zero
JPEG_FROM = 160 * 160  # pixels; smaller pictures stay as they are, pixel by pixel


def pack(values: Tensor, bits: int = 8, log: bool = False) -> dict[str, Any]:
    """A tensor that is not negative as whole numbers of 8 or 16 bits and a scale.

    Number 0 means zero. With ``log`` number n of the largest N means exp(low + (n-1)/(N-1) * (high-low)), else
    n/N * high.
    """
    array = values.detach().cpu().double().clamp(min=0).numpy()
    top, largest = 2**bits - 1, float(array.max(initial=0.0))
    packed = {"shape": list(array.shape), "bits": bits, "low": None, "high": largest}
    if log and largest > 0:
        floor = max(float(array[array > 0].min()), SMALLEST * largest)
        low, high = math.log(floor), math.log(largest)
        steps = 1 + (np.log(np.maximum(array, floor)) - low) / max(high - low, 1e-12) * (top - 1)
        numbers = np.where(array >= floor, steps.round(), 0)
        packed |= {"low": low, "high": high}
    else:
        numbers = (array / (largest or 1.0) * top).round()
    return packed | {"data": _base64(numbers.astype("<u1" if bits == 8 else "<u2").tobytes())}


def unpack(packed: dict[str, Any]) -> Tensor:
    """What ``pack`` was given, as float32 and rounded."""
    kind = "<u1" if packed["bits"] == 8 else "<u2"
    numbers = np.frombuffer(base64.b64decode(packed["data"]), kind).astype(np.float64).reshape(packed["shape"])
    top = 2 ** packed["bits"] - 1
    if packed["low"] is None:
        return torch.from_numpy(numbers / top * packed["high"]).float()
    span = packed["high"] - packed["low"]
    values = np.exp(packed["low"] + (numbers - 1) / (top - 1) * span)
    return torch.from_numpy(np.where(numbers > 0, values, 0.0)).float()


def pack_mask(mask: Tensor) -> dict[str, Any]:
    """A bool tensor, eight pixels in a byte."""
    return {"shape": list(mask.shape), "data": _base64(np.packbits(mask.cpu().numpy()).tobytes())}


def unpack_mask(packed: dict[str, Any]) -> Tensor:
    """What ``pack_mask`` was given."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["data"]), np.uint8), count=math.prod(packed["shape"]))
    return torch.from_numpy(bits.reshape(packed["shape"]).astype(bool))


def picture_uri(image: Tensor) -> str:
    """[3,H,W] uint8 as the address of an <img>: PNG if it is small, else JPEG."""
    picture, buffer = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), io.BytesIO()
    if picture.width * picture.height < JPEG_FROM:
        picture.save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{_base64(buffer.getvalue())}"
    picture.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{_base64(buffer.getvalue())}"


def picture_from_uri(uri: str) -> Tensor:
    """The picture of ``picture_uri``, [3,H,W] uint8."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])), formats=["PNG", "JPEG"]) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
