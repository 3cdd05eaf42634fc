// The image with its masks, and the maps beside it.
import { drawHeat, outline } from "./drawing.js";
import { make } from "./elements.js";
import { maps } from "./maps.js";
import { decimal, quoted, UNITS } from "./numbers.js";
import { verdict } from "./texts.js";
import { regionAt } from "./view.js";

const SHARP = 560; // pixels of a canvas' longest side

export function figures(panel) {
  panel.stages = []; // the image's first
  const photo = photoFigure(panel);
  panel.maps = maps(panel.view).map((shown) => mapFigure(panel, shown));
  return make("div", { className: "rx-figures" }, photo, ...panel.maps.map(({ figure }) => figure));
}

// The maps of the chosen region again, after it moved.
export function redrawRegion(panel) {
  const { view } = panel;
  if (view.state.layer !== "region" || !view.slots.some((slot) => view.level(slot)?.alpha)) return;
  const moved = maps(view);
  panel.maps.slice(0, view.comparing ? moved.length : 1).forEach(({ fill }, n) => fill(moved[n]));
}

// The box around the chosen region, on every canvas.
export function drawCell(panel) {
  const { view } = panel;
  const { h, w, extent } = view.grid();
  const [row, column] = view.cell();
  const [x0, y0, x1, y1] = extent;
  for (const { box } of panel.stages) {
    box.hidden = !view.level();
    box.style.left = `${100 * (x0 + (column / w) * (x1 - x0))}%`;
    box.style.top = `${100 * (y0 + (row / h) * (y1 - y0))}%`;
    box.style.width = `${(100 * (x1 - x0)) / w}%`;
    box.style.height = `${(100 * (y1 - y0)) / h}%`;
    box.classList.toggle("rx-locked", view.state.locked);
  }
}

// A canvas that answers the pointer.
function stage(panel, role) {
  const { view } = panel;
  const [height, width] = view.scene.size;
  const scale = SHARP / Math.max(height, width);
  const canvas = make("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  canvas.setAttribute("aria-hidden", "true");
  const box = make("div", { className: "rx-cell", "aria-hidden": "true" });
  const element = make("div", { className: "rx-stage" }, canvas, box);
  element.style.aspectRatio = `${width} / ${height}`;
  element.setAttribute("role", role);
  const find = (event) => {
    const { left, top, width: across, height: down } = element.getBoundingClientRect();
    return regionAt(view.grid(), [(event.clientX - left) / across, (event.clientY - top) / down]);
  };
  element.addEventListener("pointermove", (event) => panel.point(...find(event)));
  element.addEventListener("click", (event) => panel.hold(find(event)));
  panel.stages.push({ box });
  return { element, context: canvas.getContext("2d") };
}

function photoFigure(panel) {
  const { view } = panel;
  const { element, context } = stage(panel, "application");
  const keys = "Arrow keys move from region to region, Enter holds one.";
  element.setAttribute("aria-label", `Image with the mask of ${quoted(view.state.expression)}. ${keys}`);
  element.tabIndex = 0;
  element.dataset.key = "stage";
  const { frames } = view.scene;
  drawPhoto(panel, context, frames[Math.min(view.state.frame, frames.length - 1)]);
  return make("figure", {}, element, make("figcaption", {}, make("strong", {}, verdict(view)), legend(view)));
}

function drawPhoto(panel, context, uri) {
  const { view, images } = panel;
  if (!images.has(uri)) images.set(uri, make("img", { src: uri }));
  const image = images.get(uri);
  if (!image.complete) {
    image.addEventListener("load", () => drawPhoto(panel, context, uri), { once: true });
    return;
  }
  const { width, height } = context.canvas;
  const { prediction, second, truth, dark } = view.palette;
  context.imageSmoothingQuality = "high";
  if (image.naturalWidth) context.drawImage(image, 0, 0, width, height);
  if (view.comparing) outline(context, view.maskOn(1).mask, { colour: second, dark, style: "dotted" });
  if (view.strike()) outline(context, view.frame().mask, { colour: second, dark, style: "dotted" });
  outline(context, view.maskOn(0).mask, { colour: prediction, dark });
  if (view.truth()) outline(context, view.truth(), { colour: truth, dark, style: "dashed", thick: 2.5 });
}

function legend(view) {
  const { prediction, second, truth } = view.palette;
  const item = (style, colour, text) => {
    const line = make("i", { className: `rx-line rx-${style}` });
    line.style.borderColor = colour;
    return make("span", {}, line, text);
  };
  const items = [item("solid", prediction, view.comparing ? "mask of A" : view.strike() ? "mask without" : "mask")];
  if (view.comparing) items.push(item("dotted", second, "mask of B"));
  if (view.strike()) items.push(item("dotted", second, "mask before"));
  if (view.truth()) items.push(item("dashed", truth, "ground truth"));
  return make("span", { className: "rx-legend" }, ...items);
}

// A map with its scale: {figure, fill}; `fill` draws another one of the same kind in its place.
function mapFigure(panel, first) {
  const { view } = panel;
  const { element, context } = stage(panel, "img");
  const title = make("strong", {});
  const bar = make("span", { className: "rx-scale" });
  bar.style.background = `linear-gradient(to right, ${view.content.colours[first.signed ? "diverging" : "cividis"]})`;
  const ends = make("span", { className: "rx-ends" });
  const more = make("span", {}, first.caption ?? "");
  const fill = (shown) => {
    drawHeat(context, shown, view.palette);
    if (!shown.signed) {
      const mask = view.maskOn(shown.slot ?? 0).mask;
      outline(context, mask, { colour: "#ffffff", dark: view.palette.dark, thick: 2 });
    }
    const say = shown.signed ? decimal : UNITS[shown.unit];
    const { low, high } = shown.signed ? shown.peaks : shown;
    const label = `${shown.title}: from ${say(low)} to ${say(high)}. ${shown.caption ?? ""}`.trim();
    element.setAttribute("aria-label", label);
    title.textContent = shown.title;
    const zero = [`−${decimal(shown.high)}`, "0", `+${decimal(shown.high)}`];
    const texts = shown.signed ? zero : [say(low), say(high)];
    ends.replaceChildren(...texts.map((text) => make("span", {}, text)));
  };
  fill(first);
  const caption = make("figcaption", {}, title, bar, ends, first.caption ? more : null);
  return { figure: make("figure", {}, element, caption), fill };
}
