// What is on show: the state, what Python sent, and the numbers that follow from the two. Nothing here draws.
// `state` has the fields of ExplorerState in state.py; place or slot 1 is the second reading of a comparison.
import { paletteOf } from "./drawing.js";
import { clamp, numbers } from "./numbers.js";

// Where a place of the image, in parts of its sides, lies on a grid: [row, column].
export function regionAt({ extent: [x0, y0, x1, y1], h, w }, [u, v]) {
  return [clamp(Math.floor(((v - y0) / (y1 - y0)) * h), h), clamp(Math.floor(((u - x0) / (x1 - x0)) * w), w)];
}

// The middle of a region in parts of the image's sides: [x, y].
export function placeOf({ extent: [x0, y0, x1, y1], h, w }, [row, column]) {
  return [x0 + ((column + 0.5) / w) * (x1 - x0), y0 + ((row + 0.5) / h) * (y1 - y0)];
}

// The first word that is true of something, else the first.
export function scoredWord(reading) {
  const [scores] = Object.values(reading.points);
  return Math.max(0, scores ? scores.positions.findIndex(Boolean) : 0);
}

export class View {
  constructor(model) {
    this.model = model;
    this.state = { ...model.get("view") };
    this.strikes = new Map(); // the kernel's answers
  }

  get content() {
    return this.model.get("content");
  }

  get labels() {
    return this.content.labels;
  }

  get palette() {
    return paletteOf(this.content.colours);
  }

  get scene() {
    return this.content.scenes[this.state.scene];
  }

  readings() {
    const typed = (this.model.get("fresh") ?? []).filter((reading) => reading.scene === this.state.scene);
    return [...this.scene.readings, ...typed];
  }

  find(expression, model) {
    return this.readings().find((reading) => reading.expression === expression && reading.model === model);
  }

  // Expression and network that are asked for in a slot.
  asked(slot) {
    const { expression, model, second_expression, second_model } = this.state;
    return slot ? { expression: second_expression, model: second_model } : { expression, model };
  }

  // The reading on show in a slot; undefined while it is not there.
  reading(slot = 0) {
    const { expression, model } = this.asked(slot);
    return this.find(expression, model);
  }

  get comparing() {
    return Boolean(this.state.second_expression && this.reading(1));
  }

  get slots() {
    return this.comparing ? [0, 1] : [0];
  }

  frame(slot = 0) {
    const { frames } = this.reading(slot);
    return frames[Math.min(this.state.frame, frames.length - 1)];
  }

  level(slot = 0) {
    const { levels } = this.frame(slot);
    return levels[this.state.level] ?? Object.values(levels)[0];
  }

  // The regions: how many, and which part of the image they cover.
  grid(slot = 0) {
    const level = this.level(slot);
    if (!level) return { h: 1, w: 1, extent: [0, 0, 1, 1] };
    const [, h, w] = level.maps.shape;
    return { h, w, extent: level.extent };
  }

  // The layers that the network has, with their names.
  layers(slot = 0) {
    const level = this.level(slot);
    const there = {
      word: level,
      region: level?.beta,
      mask: true,
      centre: this.frame(slot).centre,
      memory: level?.memory,
      reset: level?.reset,
      frames: Object.keys(this.reading(slot).looks).length,
    };
    return Object.fromEntries(Object.entries(this.labels.layers).filter(([name]) => there[name]));
  }

  // The layer on show: the chosen one, or the mask if the network lacks it.
  layer(slot = 0) {
    return this.layers(slot)[this.state.layer] ? this.state.layer : "mask";
  }

  word(slot = 0) {
    return Math.min(slot ? this.state.second_word : this.state.word, this.reading(slot).words.length - 1);
  }

  // The chosen region; of the second reading the one at the same place of the image.
  cell(slot = 0) {
    const { h, w } = this.grid();
    const [row, column] = this.state.cell ?? [h >> 1, w >> 1];
    const cell = [Math.min(row, h - 1), Math.min(column, w - 1)];
    return slot ? regionAt(this.grid(1), placeOf(this.grid(), cell)) : cell;
  }

  // What a word has at the region, for its bar.
  wordAt(slot, word) {
    const level = this.level(slot);
    const [row, column] = this.cell(slot);
    const [L, h, w] = level.maps.shape;
    if (this.state.layer === "region" && level.beta) {
      return { value: numbers(level.beta).values[(row * w + column) * L + word], unit: "share" };
    }
    const { values } = numbers(level.maps);
    const at = (n) => values[n * h * w + row * w + column];
    if (this.state.normalisation === "positions") return { value: at(word) * h * w, unit: "even" };
    let sum = 0;
    for (let n = 0; n < L; n++) sum += at(n);
    return { value: sum ? at(word) / sum : 0, unit: "share" };
  }

  // The answer without the words that are struck out; null if there is none, or not yet.
  strike(slot = 0) {
    return slot || !this.state.struck.length ? null : this.without(this.state.struck);
  }

  without(struck) {
    return this.reading().strikes[struck.join(",")] ?? this.strikes.get(this.strikeKey(struck)) ?? null;
  }

  strikeKey(struck, { scene, model, expression } = this.state) {
    return JSON.stringify([scene, model, expression, struck]);
  }

  maskOn(slot) {
    const strike = this.strike(slot);
    const frame = this.frame(slot);
    const at = Math.min(this.state.frame, this.reading(slot).frames.length - 1);
    return strike ? { mask: strike.masks[at], prob: strike.probs[at] } : { mask: frame.mask, prob: frame.prob };
  }

  // What was guessed for hidden words; null for a network without heads for it.
  get guesses() {
    const { guesses } = this.reading();
    return Object.keys(guesses).length ? guesses : null;
  }

  truth() {
    return this.state.frame === this.scene.target || this.scene.frames.length === 1 ? this.reading().truth : null;
  }

  // Cosines of all pixels with the centre, at all steps: {shape, values, step}, the step that is on show.
  cosines(slot = 0) {
    const { shape, values } = numbers(this.frame(slot).centre.similarity);
    return { shape, values, step: Math.min(this.state.step, shape[0] - 1) };
  }

  // The mean cosine, at every step, of the pixels whose middles lie in the chosen region.
  cosinesAt() {
    const { shape, values } = this.cosines();
    const [S, h, w] = shape;
    const pixels = { h, w, extent: this.frame().centre.extent };
    const [row, column] = this.cell();
    let [sums, count] = [new Float64Array(S), 0];
    for (let y = 0; y < h; y++) {
      for (let x = 0; x < w; x++) {
        const [top, left] = regionAt(this.grid(), placeOf(pixels, [y, x]));
        if (top !== row || left !== column) continue;
        for (let step = 0; step < S; step++) sums[step] += values[(step * h + y) * w + x];
        count += 1;
      }
    }
    return Array.from(sums, (sum) => sum / count);
  }
}
