// Heat maps and outlines on a canvas.
import { maskOf, once } from "./numbers.js";

const DASHES = { solid: [], dashed: [11, 7], dotted: [3, 6] };
const FINE = 8; // points of an enlarged map per region

// The colours that Python sent; the scales, lists of stops, become tables of 256 colours.
export function paletteOf(colours) {
  return once(colours, () => ({
    ...colours,
    cividis: colourTable(colours.cividis),
    diverging: colourTable(colours.diverging),
  }));
}

function colourTable(hexes) {
  const stops = hexes.flatMap((hex) => hex.match(/[0-9a-f]{2}/g).map((pair) => parseInt(pair, 16)));
  const count = hexes.length - 1;
  return Uint8Array.from({ length: 768 }, (_, n) => {
    const at = (Math.floor(n / 3) / 255) * count;
    const stop = Math.min(Math.floor(at), count - 1);
    const [from, to] = [stops[3 * stop + (n % 3)], stops[3 * stop + 3 + (n % 3)]];
    return Math.round(from + (at - stop) * (to - from));
  });
}

// Of a side of `count` regions: for every fine point the region before it and how far it is to the next.
function between(count) {
  const place = (n) => Math.min(Math.max((n + 0.5) / FINE - 0.5, 0), count - 1);
  const points = Array.from({ length: count * FINE }, (_, n) => place(n));
  const before = points.map((point) => Math.min(Math.floor(point), Math.max(count - 2, 0)));
  return points.map((point, n) => [before[n], point - before[n]]);
}

// Bilinear between the middles of the regions, as the pointing game enlarges maps.
export function enlarged({ values, h, w }) {
  const [rows, columns] = [between(h), between(w)];
  const [down, right] = [h > 1 ? w : 0, w > 1 ? 1 : 0];
  const out = new Float32Array(rows.length * columns.length);
  let n = 0;
  for (const [top, v] of rows) {
    for (const [left, u] of columns) {
      const at = top * w + left;
      const upper = values[at] + u * (values[at + right] - values[at]);
      const lower = values[at + down] + u * (values[at + down + right] - values[at + down]);
      out[n++] = upper + v * (lower - upper);
    }
  }
  return { values: out, h: rows.length, w: columns.length };
}

function heatCanvas(fine, low, high, colours) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [fine.w, fine.h];
  const pixels = new ImageData(fine.w, fine.h);
  const scale = 255 / (high - low || 1);
  for (let n = 0; n < fine.values.length; n++) {
    const at = 3 * Math.min(255, Math.max(0, Math.round(scale * (fine.values[n] - low))));
    for (let channel = 0; channel < 3; channel++) pixels.data[4 * n + channel] = colours[at + channel];
    pixels.data[4 * n + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return canvas;
}

// Closed lines around where `values` are above `level`, as lists of [x, y] in cells: marching squares, zeros outside.
export function contours({ values, h, w }, level) {
  const at = (y, x) => (y < 0 || x < 0 || y >= h || x >= w ? -1e-9 : values[y * w + x]);
  const next = new Map(); // from an edge to the next along the line
  const points = new Map();
  const edge = (y, x, down) => {
    const key = 2 * ((y + 1) * (w + 2) + x + 1) + down;
    if (!points.has(key)) {
      const [a, b] = [at(y, x), down ? at(y + 1, x) : at(y, x + 1)];
      const part = a === b ? 0.5 : Math.min(1, Math.max(0, (level - a) / (b - a)));
      points.set(key, down ? [x + 0.5, y + 0.5 + part] : [x + 0.5 + part, y + 0.5]);
    }
    return key;
  };
  for (let y = -1; y < h; y++) {
    for (let x = -1; x < w; x++) {
      const first = at(y, x) > level; // most cells are all above or all below: these cost nothing more
      const same = (value) => value > level === first;
      if (same(at(y, x + 1)) && same(at(y + 1, x + 1)) && same(at(y + 1, x))) continue;
      const above = [at(y, x), at(y, x + 1), at(y + 1, x + 1), at(y + 1, x)].map((value) => value > level);
      const edges = [() => edge(y, x, 0), () => edge(y, x + 1, 1), () => edge(y + 1, x, 0), () => edge(y, x, 1)];
      for (let side = 0; side < 4; side++) {
        // Clockwise, the corners go below the level at one side and above it at another; the line joins these two. A
        // line enters the next cell where it leaves this one, so the pieces chain into closed lines.
        if (!above[side] || above[(side + 1) % 4]) continue;
        let up = (side + 1) % 4;
        while (above[up] || !above[(up + 1) % 4]) up = (up + 1) % 4;
        next.set(edges[up](), edges[side]());
      }
    }
  }
  return chained(next, points);
}

function chained(next, points) {
  const lines = [];
  while (next.size) {
    const [first] = next.keys();
    const line = [];
    for (let key = first; next.has(key); ) {
      line.push(points.get(key));
      const following = next.get(key);
      next.delete(key);
      key = following;
    }
    lines.push(line);
  }
  return lines;
}

function trace(context, lines, scaleX, scaleY, shiftX = 0, shiftY = 0) {
  context.beginPath();
  for (const line of lines) {
    line.forEach(([x, y], n) => context[n ? "lineTo" : "moveTo"](shiftX + x * scaleX, shiftY + y * scaleY));
    context.closePath();
  }
}

// The border of a packed mask, with a dark edge so that it shows on every colour.
export function outline(context, packed, { colour, dark, style = "solid", thick = 3.5 }) {
  const mask = maskOf(packed);
  const lines = once(mask, () => contours(mask, 0.5));
  trace(context, lines, context.canvas.width / mask.w, context.canvas.height / mask.h);
  context.setLineDash([]);
  [context.strokeStyle, context.lineWidth] = [dark, thick + 2.5];
  context.stroke();
  context.setLineDash(DASHES[style]);
  [context.strokeStyle, context.lineWidth] = [colour, thick];
  context.stroke();
  context.setLineDash([]);
}

// A map over the part of the image that it covers; one that is not a difference has contour lines at quarters.
export function drawHeat(context, shown, palette) {
  const { width, height } = context.canvas;
  const [x0, y0, x1, y1] = shown.extent;
  const box = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height];
  const fine = enlarged(shown);
  context.imageSmoothingQuality = "high";
  context.drawImage(heatCanvas(fine, shown.low, shown.high, palette[shown.signed ? "diverging" : "cividis"]), ...box);
  if (shown.high <= shown.low || shown.signed) return;
  [context.lineWidth, context.strokeStyle] = [1.4, "rgba(255,255,255,.75)"];
  for (const part of [0.25, 0.5, 0.75]) {
    const level = shown.low + part * (shown.high - shown.low);
    trace(context, contours(fine, level), box[2] / fine.w, box[3] / fine.h, box[0], box[1]);
    context.stroke();
  }
}
