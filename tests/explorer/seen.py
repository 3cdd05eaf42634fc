"""What a person sees of an explorer in a browser: pixels of its canvases, its numbers, milliseconds."""

from __future__ import annotations

import os

import matplotlib
import numpy as np

CIVIDIS = matplotlib.colormaps["cividis"]
LIGHTEST = CIVIDIS(255, bytes=True)[:3]
NOTHING = (0xF6, 0xF4, 0xEF)  # zero in a map of differences
FRAME = 1 / 60 * 1000  # ms


def slowed() -> float:
    """How many programs share a core at the moment: limits of time are for a machine with nothing else to do."""
    return max(1.0, os.getloadavg()[0] / os.cpu_count())


_STEPS = """stage => { const box = stage.getBoundingClientRect(); const times = [];
    for (let n = 0; n < 60; n++) {
        const [x, y] = [((n * 37) % 100) / 100, ((n * 53) % 100) / 100];
        const place = { clientX: box.left + x * box.width, clientY: box.top + y * box.height };
        const start = performance.now();
        stage.dispatchEvent(new PointerEvent("pointermove", place));
        document.body.offsetHeight;
        times.push(performance.now() - start);
    }
    return times; }"""


def stages(shown):
    """The pictures and maps, the picture first."""
    return shown.locator(".rx-stage")


def pixel(place, x: float, y: float) -> tuple[int, ...]:
    """What the canvas shows at a place given in parts of its sides."""
    code = """(stage, [x, y]) => { const canvas = stage.querySelector("canvas");
        const at = [x * canvas.width, y * canvas.height].map(Math.floor);
        return [...canvas.getContext("2d").getImageData(...at, 1, 1).data]; }"""
    return tuple(place.evaluate(code, [x, y])[:3])


def drawing(place) -> str:
    """All pixels of a canvas, to be compared."""
    return place.evaluate("stage => stage.querySelector('canvas').toDataURL()")


def yellowest(place) -> tuple[float, float]:
    """Where a map in cividis is largest, x and y in parts of its sides; lines over it are white or dark."""
    code = """stage => { const canvas = stage.querySelector("canvas"); const { width, height } = canvas;
        const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
        let [best, at] = [-Infinity, 0];
        for (let n = 0; n < width * height; n++) {
            const much = data[4 * n] - data[4 * n + 2];
            if (much > best) [best, at] = [much, n];
        }
        return [((at % width) + 0.5) / width, (Math.floor(at / width) + 0.5) / height]; }"""
    return tuple(place.evaluate(code))


def is_lightest(colour: tuple[int, ...]) -> bool:
    """The largest value of a map."""
    return np.abs(np.subtract(colour, LIGHTEST)).max() <= 8


def is_nothing(colour: tuple[int, ...]) -> bool:
    """Zero in a map of differences."""
    return np.abs(np.subtract(colour, NOTHING)).max() <= 2


def hover(place, x: float, y: float) -> None:
    """The mouse goes to a place given in parts of the sides."""
    box = place.bounding_box()
    place.hover(position={"x": x * box["width"], "y": y * box["height"]})


def click(place, x: float, y: float) -> None:
    """The mouse is pressed and let go there."""
    box = place.bounding_box()
    place.click(position={"x": x * box["width"], "y": y * box["height"]})


def choose(shown, name: str) -> None:
    """Choose a switch or a word by its name; its radio button lies under what is seen."""
    shown.get_by_role("radio", name=name, exact=True).check(force=True)


def values(shown) -> list[str]:
    """The numbers beside the words."""
    return shown.locator(".rx-value").all_inner_texts()


def verdict(shown) -> str:
    """What stands below the picture."""
    return shown.locator("figcaption strong").first.inner_text()


def even(value: float) -> str:
    """A number as the explorer writes it."""
    if 0 < value < 0.005:
        return "<0.01"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def hover_times(place) -> np.ndarray:
    """Milliseconds that 60 steps of the pointer take, layout and drawing included, measured in the browser."""
    return np.array(place.evaluate(_STEPS.replace("\n", " ")))


def minus(value: float) -> str:
    """The same for a number that may be negative and is small."""
    if 0 < abs(value) < 0.005:
        return "<0.01" if value > 0 else ">−0.01"
    return f"{value:.2f}".replace("-", "−")


def line(shown) -> str:
    """The line that reads the chosen region."""
    return shown.locator(".rx-reading").inner_text()


def heard(shown) -> str:
    """What a screen reader was last given to read."""
    return shown.locator("[aria-live=polite]").inner_text()


def title(shown, number: int) -> str:
    """What stands below the image (0) or a map."""
    return shown.locator("figcaption strong").nth(number).inner_text()
