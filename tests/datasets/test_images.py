"""Images of every mode come out as RGB; what is no image says so in one sentence."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from refseg.datasets import images
from refseg.datasets.images import read_image
from refseg.errors import RefsegError

RGB = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)


def save(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_rgb_png_comes_out_unchanged(tmp_path):
    image = read_image(save(tmp_path, Image.fromarray(RGB)))
    assert image.dtype == torch.uint8 and image.shape == (3, 5, 7) and image.is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0).numpy(), RGB)


def test_grey_fills_three_channels(tmp_path):
    image = read_image(save(tmp_path, Image.fromarray(RGB[..., 0])))
    assert np.array_equal(image.numpy(), np.stack([RGB[..., 0]] * 3))


def test_one_bit_image_is_black_and_white(tmp_path):
    image = read_image(save(tmp_path, Image.fromarray(np.array([[True, False]]))))
    assert image[:, 0].tolist() == [[255, 0]] * 3


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    grey = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    assert read_image(save(tmp_path, Image.fromarray(grey)))[1].tolist() == [[0, 1, 128, 255]]


def test_transparent_pixels_lie_over_white(tmp_path):
    rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=np.uint8)
    image = read_image(save(tmp_path, Image.fromarray(rgba)))
    assert image[:, 0, 0].tolist() == [10, 20, 30] and image[:, 0, 1].tolist() == [255, 255, 255]


def test_grey_with_alpha_lies_over_white(tmp_path):
    grey = np.array([[[40, 255], [40, 0]]], dtype=np.uint8)
    assert read_image(save(tmp_path, Image.fromarray(grey)))[2].tolist() == [[40, 255]]


@pytest.mark.parametrize("transparent, second", [(None, [0, 0, 9]), (1, [255, 255, 255])])
def test_palette_colours_are_looked_up(tmp_path, transparent, second):
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).convert("P")
    image.putpalette([200, 100, 50, 0, 0, 9])
    options = {} if transparent is None else {"transparency": transparent}
    image = read_image(save(tmp_path, image, **options))
    assert image[:, 0, 0].tolist() == [200, 100, 50] and image[:, 0, 1].tolist() == second


def test_cmyk_jpeg_becomes_rgb(tmp_path):
    red = Image.new("CMYK", (16, 8), (0, 255, 255, 0))
    r, g, b = read_image(save(tmp_path, red, "image.jpg", quality=95)).float().mean(dim=(1, 2)).tolist()
    assert r > 240 and g < 15 and b < 15


def test_exif_turns_a_photo_only_when_asked(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees clockwise
    path = save(tmp_path, Image.fromarray(RGB), exif=exif)
    assert torch.equal(read_image(path), torch.from_numpy(RGB).permute(2, 0, 1))
    assert torch.equal(read_image(path, upright=True), torch.rot90(read_image(path), -1, (1, 2)))


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "nowhere.png", tmp_path):
        with pytest.raises(RefsegError, match=r"no image at .*: check the path"):
            read_image(path)


@pytest.mark.parametrize("ending, format", [("png", "PNG"), ("jpg", "JPEG")])
def test_every_truncation_is_one_sentence(tmp_path, ending, format):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = save(tmp_path, Image.fromarray(noise), f"whole.{ending}", format=format).read_bytes()
    path = tmp_path / f"short.{ending}"
    for length in range(0, len(whole) * 9 // 10, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(RefsegError, match=rf"short.{ending} is not a readable image"):
            read_image(path)


def test_text_is_no_image(tmp_path):
    (tmp_path / "page.jpg").write_text("<html>404 Not Found</html>")
    with pytest.raises(RefsegError, match=r"page.jpg is not a readable image .* download it again"):
        read_image(tmp_path / "page.jpg")


def test_floating_point_image_is_refused(tmp_path):
    path = save(tmp_path, Image.fromarray(np.ones((3, 3), dtype=np.float32)), "heat.tiff")
    with pytest.raises(RefsegError, match="unknown range: save it as an 8-bit PNG"):
        read_image(path)


def png_that_claims(width, height):
    """A few bytes whose header promises an image of that size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in (header, data)
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_absurd_size_is_refused_before_decoding(tmp_path):
    for n, (width, height) in enumerate([(9000, 9000), (10000, 10000), (60000, 60000)]):
        folder = tmp_path / str(n)
        folder.mkdir()
        (folder / "bomb.png").write_bytes(png_that_claims(width, height))
        with pytest.raises(RefsegError, match="more than 80 million pixels: scale it down"):
            read_image(folder / "bomb.png")


def test_the_limit_leaves_room_for_large_photos(tmp_path):
    assert 8000 * 6000 <= images.MAX_PIXELS
    image = read_image(save(tmp_path, Image.new("1", (8000, 6000)), compress_level=1))
    assert image.shape == (3, 6000, 8000)
