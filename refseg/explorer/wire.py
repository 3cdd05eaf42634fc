"""Readings as short text, so that the same JSON serves the widget, a page and a file.

Attention spans many powers of ten: most of a map's weight may lie in one region, and what distinguishes words lies in
the rest. Maps are therefore sent on a logarithmic scale; with ``bits=16`` a value is off by less than 0.1 %, with 8 by
less than 4 %.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SMALLEST = 1e-7  # of a map's largest value; smaller values are sent as zero
JPEG_FROM = 160 * 160  # pixels; smaller images stay as they are, pixel by pixel


# ---- tensors and images ----------------------------------------------------------------------------------------


def pack(values: Tensor, bits: int = 8, log: bool = False) -> dict[str, Any]:
    """A tensor as whole numbers of 8 or 16 bits and a scale.

    Number n of the largest N means low + n/N * (high-low). With ``log``, for values that are not negative, 0 means zero
    and another n means exp(low + (n-1)/(N-1) * (high-low)).
    """
    array = values.detach().cpu().double().numpy()
    top = 2**bits - 1
    low, high = min(0.0, float(array.min(initial=0.0))), float(array.max(initial=0.0))
    if log and high > 0:
        floor = max(float(array[array > 0].min()), SMALLEST * high)
        low, high = math.log(floor), math.log(high)
        steps = 1 + (np.log(np.maximum(array, floor)) - low) / max(high - low, 1e-12) * (top - 1)
        numbers = np.where(array >= floor, steps.round(), 0)
    else:
        log, numbers = False, ((array - low) / ((high - low) or 1.0) * top).round()
    data = _base64(numbers.astype(f"<u{bits // 8}").tobytes())
    return {"shape": list(array.shape), "bits": bits, "log": log, "low": low, "high": high, "data": data}


def unpack(packed: dict[str, Any]) -> Tensor:
    """What ``pack`` was given, as float32 and rounded."""
    raw = np.frombuffer(base64.b64decode(packed["data"]), f"<u{packed['bits'] // 8}")
    numbers, top = raw.astype(np.float64).reshape(packed["shape"]), 2 ** packed["bits"] - 1
    low, span = packed["low"], packed["high"] - packed["low"]
    if packed["log"]:
        return torch.from_numpy(np.where(numbers > 0, np.exp(low + (numbers - 1) / (top - 1) * span), 0.0)).float()
    return torch.from_numpy(low + numbers / top * span).float()


def pack_mask(mask: Tensor) -> dict[str, Any]:
    """A bool tensor, eight pixels in a byte."""
    return {"shape": list(mask.shape), "data": _base64(np.packbits(mask.cpu().numpy()).tobytes())}


def unpack_mask(packed: dict[str, Any]) -> Tensor:
    """What ``pack_mask`` was given."""
    bits = np.unpackbits(np.frombuffer(base64.b64decode(packed["data"]), np.uint8), count=math.prod(packed["shape"]))
    return torch.from_numpy(bits.reshape(packed["shape"]).astype(bool))


def image_uri(image: Tensor) -> str:
    """[3,H,W] uint8 as the address of an <img>: PNG if it is small, else JPEG."""
    picture, buffer = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()), io.BytesIO()
    if picture.width * picture.height < JPEG_FROM:
        picture.save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{_base64(buffer.getvalue())}"
    picture.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{_base64(buffer.getvalue())}"


def image_from_uri(uri: str) -> Tensor:
    """The image of ``image_uri``, [3,H,W] uint8."""
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])), formats=["PNG", "JPEG"]) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


# ---- readings --------------------------------------------------------------------------------------------------


def to_wire(value: Any, how: Mapping[str, Any] | None = None) -> Any:
    """JSON-able: dataclasses become dicts, tensors text; ``how`` one is packed stands beside its field."""
    if isinstance(value, Tensor):
        return pack_mask(value) if value.dtype == torch.bool else pack(value, **(how or {}))
    if is_dataclass(value):
        return {one.name: to_wire(getattr(value, one.name), one.metadata or how) for one in fields(value)}
    if isinstance(value, dict):
        return {_text(key): to_wire(item, how) for key, item in value.items()}
    return [to_wire(item, how) for item in value] if isinstance(value, list | tuple) else value


def _text(key: str | int | tuple[int, ...]) -> str:
    return ",".join(map(str, key)) if isinstance(key, tuple) else str(key)


def from_wire(kind: Any, wire: Any) -> Any:
    """The way back to a type such as ``Reading`` or ``dict[str, Tensor]``; numbers are rounded, see ``pack``."""
    if kind is Tensor:
        return unpack(wire) if "bits" in wire else unpack_mask(wire)
    if isinstance(kind, type) and is_dataclass(kind):
        kinds = get_type_hints(kind)
        return kind(**{one.name: from_wire(kinds[one.name], wire[one.name]) for one in fields(kind)})
    inner, origin = get_args(kind), get_origin(kind)
    if origin is UnionType:  # with None
        return None if wire is None else from_wire(inner[0], wire)
    if origin is dict:
        return {_key(inner[0], key): from_wire(inner[1], item) for key, item in wire.items()}
    if origin is list:
        return [from_wire(inner[0], item) for item in wire]
    return tuple(wire) if origin is tuple else wire


def _key(kind: Any, text: str) -> Any:
    return tuple(map(int, text.split(","))) if get_origin(kind) is tuple else kind(text)
