// The maps beside the image: {values, h, w, extent, low, high, unit, title, caption}; `signed` is a difference.
import { decimal, extremes, numbers, quoted } from "./numbers.js";

const WHOLE = { extent: [0, 0, 1, 1], low: 0, high: 1, unit: "plain" };

// The map of the chosen layer.
export function shown(view, slot = 0) {
  const layer = view.layer(slot);
  const level = view.level(slot);
  if (layer === "centre") return centreMap(view, slot);
  if (layer === "mask" || !level) return { ...probability(view.maskOn(slot).prob), title: "Probability of the mask" };
  const part = { ...WHOLE, ...view.grid(slot) };
  if (layer === "memory" || layer === "reset") {
    return { ...part, values: numbers(level[layer]).values, title: view.labels.layers[layer] };
  }
  if (layer === "frames") return framesMap(view, slot, part);
  if (layer === "region") return level.alpha ? regionMap(view, slot, part) : readingMap(view, slot, part);
  return wordMap(view, slot, part);
}

function probability(prob) {
  const { shape, values } = numbers(prob);
  return { ...WHOLE, values, h: shape[0], w: shape[1] };
}

function wordMap(view, slot, part) {
  const word = view.word(slot);
  const name = quoted(view.reading(slot).words[word]);
  const size = part.h * part.w;
  const maps = numbers(view.level(slot).maps).values;
  const own = maps.subarray(word * size, (word + 1) * size);
  if (view.state.normalisation === "positions") {
    const values = own.map((value) => value * size);
    return { ...part, values, high: extremes(values).high, unit: "even", title: `Where ${name} looks` };
  }
  const values = own.map((value, n) => {
    let sum = 0;
    for (let at = n; at < maps.length; at += size) sum += maps[at];
    return sum ? value / sum : 0;
  });
  const { low, high } = extremes(values);
  return { ...part, values, low, high, unit: "share", title: `Share of ${name}` };
}

function regionMap(view, slot, part) {
  const [row, column] = view.cell(slot);
  const size = part.h * part.w;
  const at = (row * part.w + column) * size;
  const weights = numbers(view.level(slot).alpha).values.subarray(at, at + size);
  const values = weights.map((value) => value * size);
  const title = `Where row ${row + 1}, column ${column + 1} looks`;
  return { ...part, values, high: extremes(values).high, unit: "even", title };
}

// Of a network whose regions look at words only.
function readingMap(view, slot, part) {
  const { words } = view.reading(slot);
  const word = view.word(slot);
  const shares = numbers(view.level(slot).beta).values;
  const values = Float32Array.from({ length: part.h * part.w }, (_, n) => shares[n * words.length + word]);
  const { low, high } = extremes(values);
  return { ...part, values, low, high, unit: "share", title: `How much each region reads ${quoted(words[word])}` };
}

function framesMap(view, slot, part) {
  const { looks } = view.reading(slot);
  const { shape, values } = numbers(looks[view.state.level] ?? Object.values(looks)[0]);
  const size = shape[1] * shape[2];
  const at = Math.min(view.state.frame, shape[0] - 1);
  return { ...part, values: values.subarray(at * size, (at + 1) * size), unit: "share", title: `Share of frame ${at + 1}` };
}

function centreMap(view, slot) {
  const { shape, values: all, step } = view.cosines(slot);
  const [S, h, w] = shape;
  const values = all.subarray(step * h * w, (step + 1) * h * w);
  const here = extremes(values);
  const { low, high } = extremes(all);
  const title = `Similarity to the centre, ${step ? `look ${step} of ${S - 1}` : "sentence alone"}`;
  const caption = `${area(view, slot)}Here from ${decimal(here.low)} to ${decimal(here.high)}; one scale for all steps.`;
  return { ...WHOLE, extent: view.frame(slot).centre.extent, values, h, w, low, high, title, caption };
}

// How often a pixel of the referent is nearer to the centre than another pixel, in words; "" without the ground truth.
export function area(view, slot = 0) {
  const { areas, among } = view.frame(slot).centre;
  const { step } = view.cosines(slot);
  if (areas[step] === null) return "";
  const objects = among[step] === null ? "" : `, among objects ${among[step].toFixed(3)}`;
  return `AUC ${areas[step].toFixed(3)}${objects}. `;
}

// Zero in the middle; null where the two maps do not lie on one grid.
function difference(from, minus, title, caption) {
  if (from.h !== minus.h || from.w !== minus.w) return null;
  const values = from.values.map((value, n) => value - minus.values[n]);
  const peaks = extremes(values);
  const reach = Math.max(-peaks.low, peaks.high, 1e-9);
  return { ...from, low: -reach, high: reach, signed: true, peaks, values, title, caption };
}

// All maps beside the image: one; of a comparison two and their difference; with words struck out what that changes.
export function maps(view) {
  const first = shown(view);
  if (view.comparing) return compared(view, first, shown(view, 1));
  if (!view.strike()) return [first];
  const caption = "Mask probability without the words, minus with them. Blue: lost. Brown: gained.";
  const [without, whole] = [view.maskOn(0).prob, view.frame().prob].map(probability);
  return [first, difference(without, whole, "What striking out changes", caption)];
}

// Maps of different kinds have no common scale and no difference.
function compared(view, first, second) {
  const alike = first.unit === second.unit && view.layer(0) === view.layer(1);
  const high = Math.max(first.high, second.high);
  const low = Math.min(first.low, second.low);
  const scale = alike ? { low, high } : {};
  const both = [
    { ...first, ...scale, title: `A: ${first.title}` },
    { ...second, ...scale, title: `B: ${second.title}`, slot: 1 },
  ];
  const gap = alike && difference(first, second, "Difference, A minus B", "Brown: more in A. Blue: more in B.");
  return gap ? [...both, gap] : both;
}
