// The word-region explorer in the browser: one module, no library, no build step. It is the widget of Explorer in
// widget.py, and the script of the pages that export_html writes; there StillModel stands in for the kernel.
// Everything is drawn from what was sent once; `state` has the fields of ExplorerState in state.py.

const CIVIDIS = "00224e00285b002e6a0533711a386f273e6e32436d3b496c434e6c4b546c535a6d5a5f6e61656f686a716f70737676767d7c788482798c8878938e789b9476a39a74aba072b4a76fbcae6cc4b468cdbb63d5c25edec958e7d150f0d846f9e03afee838";
const DIVERGING = "0b3c6f3f78b0a5c6e0f6f4efe9bd85c27a2b7d3c00"; // zero lies in the middle, the lightest
const LAYERS = {
  word: "Word",
  region: "Region",
  mask: "Mask",
  centre: "Centre",
  memory: "Memory gate",
  reset: "Reset gate",
  frames: "Frames",
};
const NORMALISATIONS = { positions: "per word over positions", words: "per position over words" };
const WAYS = {
  "picture and mask": "Words, picture and mask",
  picture: "Words and picture",
  "words alone": "Words alone",
};
const PREDICTION = "#E69F00";
const TRUTH = "#56B4E9";
const SECOND = "#CC79A7"; // the mask of the second reading
const DARK = "#101010";
const DASHES = { solid: [], dashed: [11, 7], dotted: [3, 6] };
const SHARP = 560; // pixels of a canvas' longest side
const FINE = 8; // points of an enlarged map per region
const LONGEST = 1000; // characters of an expression

// ---- numbers from text --------------------------------------------------------------------------------------------

const unpacked = new WeakMap();

function once(packed, make) {
  if (!unpacked.has(packed)) unpacked.set(packed, make(packed));
  return unpacked.get(packed);
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// What wire.pack packed: {shape, values}.
function numbers(packed) {
  return once(packed, ({ shape, bits, low, high, data }) => {
    const raw = bytes(data);
    const steps = bits === 8 ? raw : new Uint16Array(raw.buffer);
    const top = 2 ** bits - 1;
    const scale = low === null ? high / top : (high - low) / (top - 1);
    const table = Float32Array.from({ length: top + 1 }, (_, n) =>
      low === null ? n * scale : n === 0 ? 0 : Math.exp(low + (n - 1) * scale),
    );
    return { shape, values: Float32Array.from(steps, (n) => table[n]) };
  });
}

// What wire.pack_mask packed: {h, w, values} with values 0 and 1.
function maskOf(packed) {
  return once(packed, ({ shape: [h, w], data }) => {
    const raw = bytes(data);
    return { h, w, values: Uint8Array.from({ length: h * w }, (_, n) => (raw[n >> 3] >> (7 - (n & 7))) & 1) };
  });
}

function extremes(values) {
  let [low, high, place] = [Infinity, -Infinity, 0];
  for (let n = 0; n < values.length; n++) {
    if (values[n] < low) low = values[n];
    if (values[n] > high) [high, place] = [values[n], n];
  }
  return { low, high, place };
}

function told(value) {
  if (!Number.isFinite(value)) return "not known";
  const size = Math.abs(value);
  if (size > 0 && size < 0.005) return value > 0 ? "<0.01" : ">−0.01";
  return value.toFixed(size < 10 ? 2 : size < 100 ? 1 : 0).replace("-", "−");
}

// Inside JupyterLab a form does not send itself on Enter.
const submitOnEnter = (event) => {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  event.target.form.requestSubmit();
};
const percent = (value) => (value > 0 && value < 0.01 ? "<1 %" : `${Math.round(100 * value)} %`);
const quoted = (text) => `“${text}”`;
const UNITS = { even: (value) => `${told(value)} × even`, share: percent, plain: told };

// ---- drawing ------------------------------------------------------------------------------------------------------

function colourTable(hex) {
  const stops = hex.match(/../g).map((pair) => parseInt(pair, 16));
  const count = stops.length / 3 - 1;
  return Uint8Array.from({ length: 768 }, (_, n) => {
    const at = (Math.floor(n / 3) / 255) * count;
    const stop = Math.min(Math.floor(at), count - 1);
    const [from, to] = [stops[3 * stop + (n % 3)], stops[3 * stop + 3 + (n % 3)]];
    return Math.round(from + (at - stop) * (to - from));
  });
}

const COLOURS = { cividis: colourTable(CIVIDIS), diverging: colourTable(DIVERGING) };

// Of a side of `count` regions: for every fine point the region before it and how far it is to the next.
function between(count) {
  const place = (n) => Math.min(Math.max((n + 0.5) / FINE - 0.5, 0), count - 1);
  const points = Array.from({ length: count * FINE }, (_, n) => place(n));
  const before = points.map((point) => Math.min(Math.floor(point), Math.max(count - 2, 0)));
  return points.map((point, n) => [before[n], point - before[n]]);
}

// Bilinear between the middles of the regions, as the pointing game enlarges maps.
function enlarged({ values, h, w }) {
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
  const picture = new ImageData(fine.w, fine.h);
  const scale = 255 / (high - low || 1);
  for (let n = 0; n < fine.values.length; n++) {
    const at = 3 * Math.min(255, Math.max(0, Math.round(scale * (fine.values[n] - low))));
    for (let channel = 0; channel < 3; channel++) picture.data[4 * n + channel] = colours[at + channel];
    picture.data[4 * n + 3] = 255;
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

// Closed lines around where `values` are above `level`, as lists of [x, y] in cells: marching squares, zeros outside.
function contours({ values, h, w }, level) {
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
        // Clockwise the corners go below at one side and come up at another; the line joins these two. What one cell
        // leaves by the neighbour enters by, so that the pieces chain into closed lines.
        if (!above[side] || above[(side + 1) % 4]) continue;
        let up = (side + 1) % 4;
        while (above[up] || !above[(up + 1) % 4]) up = (up + 1) % 4;
        next.set(edges[up](), edges[side]());
      }
    }
  }
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

function outline(context, packed, colour, style, thick = 3.5) {
  const mask = maskOf(packed);
  const lines = once(mask, () => contours(mask, 0.5));
  trace(context, lines, context.canvas.width / mask.w, context.canvas.height / mask.h);
  context.setLineDash([]);
  [context.strokeStyle, context.lineWidth] = [DARK, thick + 2.5];
  context.stroke();
  context.setLineDash(DASHES[style]);
  [context.strokeStyle, context.lineWidth] = [colour, thick];
  context.stroke();
  context.setLineDash([]);
}

function drawHeat(context, shown) {
  const { width, height } = context.canvas;
  const [x0, y0, x1, y1] = shown.extent;
  const box = [x0 * width, y0 * height, (x1 - x0) * width, (y1 - y0) * height];
  const fine = enlarged(shown);
  context.imageSmoothingQuality = "high";
  context.drawImage(heatCanvas(fine, shown.low, shown.high, shown.colours), ...box);
  if (shown.high > shown.low && shown.colours === COLOURS.cividis) {
    [context.lineWidth, context.strokeStyle] = [1.4, "rgba(255,255,255,.75)"];
    for (const part of [0.25, 0.5, 0.75]) {
      const level = shown.low + part * (shown.high - shown.low);
      trace(context, contours(fine, level), box[2] / fine.w, box[3] / fine.h, box[0], box[1]);
      context.stroke();
    }
  }
}

// ---- elements -----------------------------------------------------------------------------------------------------

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && name !== "role") element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

function segments(legend, name, options, chosen, choose) {
  const radios = Object.entries(options).map(([value, text]) =>
    make(
      "label",
      {},
      make("input", { type: "radio", name, value, checked: value === chosen, onchange: () => choose(value) }),
      make("span", {}, text),
    ),
  );
  return make("fieldset", { className: "rx-segments" }, make("legend", {}, legend), make("div", {}, ...radios));
}

let panels = 0;

class Panel {
  constructor(model, el) {
    this.model = model;
    this.id = `rx${Date.now().toString(36)}${(panels += 1)}`;
    this.number = 0;
    this.waiting = {}; // the latest request by what it asks and for which reading
    this.drafts = {}; // what is being typed, so that no answer from the kernel wipes it away
    this.strikes = new Map();
    this.images = new Map();
    this.state = { ...model.get("view") };
    this.root = make("section", { className: "rx", "aria-label": "Word-region explorer" });
    this.root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's keys would move its cells
    this.live = make("p", { className: "rx-unseen", "aria-live": "polite", role: "status" });
    this.alert = make("p", { className: "rx-alert", role: "alert", hidden: true });
    this.note = make("p", { className: "rx-note", role: "status" });
    this.root.addEventListener("keydown", (event) => this.key(event));
    el.append(this.root);
    this.listeners = {
      "change:view": () => this.arrive(),
      "change:fresh": () => this.build(),
      "change:content": () => this.build(),
      "msg:custom": (message) => this.answer(message),
    };
    for (const [name, listener] of Object.entries(this.listeners)) model.on(name, listener);
    this.build();
  }

  remove() {
    for (const [name, listener] of Object.entries(this.listeners)) this.model.off?.(name, listener);
    clearTimeout(this.saving);
    this.root.remove();
  }

  // ---- what there is --------------------------------------------------------------------------------------------

  get content() {
    return this.model.get("content");
  }

  get scene() {
    return this.content.scenes[this.state.scene];
  }

  readings() {
    const typed = (this.model.get("fresh") ?? []).filter((reading) => reading.scene === this.state.scene);
    return [...this.scene.readings, ...typed];
  }

  // The reading on show in place 0 or 1; undefined while it is not there.
  reading(slot = 0) {
    const [expression, model] = slot
      ? [this.state.second_expression, this.state.second_model]
      : [this.state.expression, this.state.model];
    return this.readings().find((reading) => reading.expression === expression && reading.model === model);
  }

  get comparing() {
    return Boolean(this.state.second_expression && this.reading(1));
  }

  frame(slot = 0) {
    const { frames } = this.reading(slot);
    return frames[Math.min(this.state.frame, frames.length - 1)];
  }

  level(slot = 0) {
    const { levels } = this.frame(slot);
    return levels[this.state.level] ?? Object.values(levels)[0];
  }

  get grid() {
    const level = this.level();
    return level ? level.maps.shape.slice(1) : [1, 1];
  }

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
    return Object.fromEntries(Object.entries(LAYERS).filter(([name]) => there[name]));
  }

  cell() {
    const [h, w] = this.grid;
    const [row, column] = this.state.cell ?? [h >> 1, w >> 1];
    return [Math.min(row, h - 1), Math.min(column, w - 1)];
  }

  // What a word has at the cell, for its bar.
  wordAt(slot, word) {
    const level = this.level(slot);
    const [row, column] = this.cell();
    const [L, h, w] = level.maps.shape;
    const [y, x] = [Math.min(row, h - 1), Math.min(column, w - 1)];
    if (this.state.layer === "region" && level.beta) {
      return { value: numbers(level.beta).values[(y * w + x) * L + word], unit: "share" };
    }
    const { values } = numbers(level.maps);
    const at = (n) => values[n * h * w + y * w + x];
    if (this.state.normalisation === "positions") return { value: at(word) * h * w, unit: "even" };
    let sum = 0;
    for (let n = 0; n < L; n++) sum += at(n);
    return { value: sum ? at(word) / sum : 0, unit: "share" };
  }

  barUnit() {
    return this.wordAt(0, 0).unit;
  }

  strike(slot = 0) {
    if (slot || !this.state.struck.length) return null;
    const key = this.state.struck.join(",");
    return this.reading().strikes[key] ?? this.strikes.get(this.strikeKey(key)) ?? null;
  }

  strikeKey(key) {
    return JSON.stringify([this.state.scene, this.state.model, this.state.expression, key]);
  }

  maskOn(slot) {
    const strike = this.strike(slot);
    const frame = this.frame(slot);
    const at = Math.min(this.state.frame, this.reading(slot).frames.length - 1);
    return strike ? { mask: strike.masks[at], prob: strike.probs[at] } : { mask: frame.mask, prob: frame.prob };
  }

  // ---- the map of the chosen layer ------------------------------------------------------------------------------

  shown(slot = 0) {
    const reading = this.reading(slot);
    const level = this.level(slot);
    const whole = { extent: [0, 0, 1, 1], low: 0, high: 1, unit: "plain", colours: COLOURS.cividis };
    const layer = this.layers(slot)[this.state.layer] ? this.state.layer : "mask";
    if (layer === "centre") return { ...whole, ...this.centreMap(slot) };
    if (layer === "mask" || !level) {
      const { shape, values } = numbers(this.maskOn(slot).prob);
      return { ...whole, values, h: shape[0], w: shape[1], title: "Probability of the mask" };
    }
    const part = { ...whole, extent: level.extent };
    const [L, h, w] = level.maps.shape;
    if (layer === "memory" || layer === "reset") {
      return { ...part, values: numbers(level[layer]).values, h, w, title: LAYERS[layer] };
    }
    if (layer === "frames") {
      const { shape, values } = numbers(reading.looks[this.state.level] ?? Object.values(reading.looks)[0]);
      const size = shape[1] * shape[2];
      const at = Math.min(this.state.frame, shape[0] - 1);
      const title = `Share that frame ${at + 1} has`;
      return { ...part, values: values.subarray(at * size, (at + 1) * size), h, w, title, unit: "share" };
    }
    const word = Math.min(slot ? this.state.second_word : this.state.word, L - 1);
    const name = quoted(reading.words[word]);
    if (layer === "region" && !level.alpha) {
      const shares = numbers(level.beta).values;
      const values = Float32Array.from({ length: h * w }, (_, n) => shares[n * L + word]);
      return { ...part, values, h, w, ...extremes(values), unit: "share", title: `How much regions read ${name}` };
    }
    if (layer === "region") {
      const [row, column] = this.cell();
      const at = (Math.min(row, h - 1) * w + Math.min(column, w - 1)) * h * w;
      const values = numbers(level.alpha).values.subarray(at, at + h * w).map((value) => value * h * w);
      const title = `Where row ${row + 1}, column ${column + 1} looks`;
      return { ...part, values, h, w, ...extremes(values), low: 0, unit: "even", title };
    }
    const maps = numbers(level.maps).values;
    const own = maps.subarray(word * h * w, (word + 1) * h * w);
    const title = `Where ${name} looks`;
    if (this.state.normalisation === "positions") {
      const values = own.map((value) => value * h * w);
      return { ...part, values, h, w, high: extremes(values).high, unit: "even", title };
    }
    const values = own.map((value, n) => {
      let sum = 0;
      for (let at = n; at < maps.length; at += h * w) sum += maps[at];
      return sum ? value / sum : 0;
    });
    const { low, high } = extremes(values);
    return { ...part, values, h, w, low, high, unit: "share", title: `Share of ${name}` };
  }

  // Cosines of all pixels with the centre, at all steps: {shape, values, step}, the step that is on show.
  cosines(slot = 0) {
    const { shape, values } = numbers(this.frame(slot).centre.similarity);
    return { shape, values: values.map((value) => 2 * value - 1), step: Math.min(this.state.step, shape[0] - 1) };
  }

  // How often a pixel of the referent is nearer to the centre than another one, in words; "" without the truth.
  area(slot = 0) {
    const { areas, among } = this.frame(slot).centre;
    const { step } = this.cosines(slot);
    if (areas[step] === null) return "";
    const objects = among[step] === null ? "" : `, among objects ${among[step].toFixed(3)}`;
    return `AUC ${areas[step].toFixed(3)}${objects}. `;
  }

  centreMap(slot) {
    const { extent } = this.frame(slot).centre;
    const { shape, values: all, step } = this.cosines(slot);
    const [S, h, w] = shape;
    const values = all.subarray(step * h * w, (step + 1) * h * w);
    const here = extremes(values);
    const title = `Similarity to the centre, ${step ? `look ${step} of ${S - 1}` : "sentence alone"}`;
    const caption = `${this.area(slot)}Here from ${told(here.low)} to ${told(here.high)}, one scale for all steps.`;
    const { low, high } = extremes(all);
    return { extent, values, h, w, low, high, title, caption };
  }

  // The mean cosine, at every step, of the pixels whose middles lie in the chosen region.
  cosinesAt() {
    const { shape, values } = this.cosines();
    const [S, h, w] = shape;
    const [[row, column], [rows, columns]] = [this.cell(), this.grid];
    const [[left, top, right, bottom], pixels] = [this.level().extent, this.frame().centre.extent];
    const inside = (n, count, from, to, first, last, side) => {
      const middle = (k) => first + ((k + 0.5) / side) * (last - first);
      const [begin, end] = [n, n + 1].map((m) => from + (m / count) * (to - from));
      return Array.from({ length: side }, (_, k) => k).filter((k) => begin <= middle(k) && middle(k) < end);
    };
    const down = inside(row, rows, top, bottom, pixels[1], pixels[3], h);
    const across = inside(column, columns, left, right, pixels[0], pixels[2], w);
    const mean = (step) => {
      let sum = 0;
      for (const y of down) for (const x of across) sum += values[(step * h + y) * w + x];
      return sum / (down.length * across.length);
    };
    return Array.from({ length: S }, (_, step) => mean(step));
  }

  // Zero in the middle; null where the two maps do not lie on one grid.
  difference(from, minus, title, caption) {
    if (from.h !== minus.h || from.w !== minus.w) return null;
    const values = from.values.map((value, n) => value - minus.values[n]);
    const { low, high } = extremes(values);
    const reach = Math.max(-low, high, 1e-9);
    const scale = { low: -reach, high: reach, colours: COLOURS.diverging, peaks: { low, high } };
    return { ...from, ...scale, values, title, caption };
  }

  // The maps beside the picture.
  maps() {
    const first = this.shown(0);
    if (this.comparing) {
      const second = this.shown(1);
      const high = Math.max(first.high, second.high);
      const low = Math.min(first.low, second.low);
      const gap = this.difference(first, second, "Difference, A minus B", "Brown: more in A. Blue: more in B.");
      const both = [
        { ...first, low, high, title: `A: ${first.title}` },
        { ...second, low, high, title: `B: ${second.title}`, slot: 1 },
      ];
      return gap ? [...both, gap] : both;
    }
    if (!this.strike()) return [first];
    const of = (prob) => ({ ...numbers(prob), h: prob.shape[0], w: prob.shape[1] });
    const [now, before] = [of(this.maskOn(0).prob), of(this.frame().prob)];
    const whole = { extent: [0, 0, 1, 1], unit: "plain" };
    const caption = "Probability of the mask, without the words minus with them. Blue: lost. Brown: won.";
    return [first, this.difference({ ...now, ...whole }, before, "What striking out changes", caption)];
  }

  // ---- changes --------------------------------------------------------------------------------------------------

  set(changes, { say = true, cellOnly = false } = {}) {
    this.state = { ...this.state, ...changes };
    clearTimeout(this.saving);
    const save = () => {
      this.model.set("view", this.state);
      this.model.save_changes();
    };
    if (cellOnly) {
      this.saving = setTimeout(save, 400); // the kernel need not hear of every step of the pointer
      this.drawCell();
    } else {
      save();
      this.build();
    }
    if (say) this.say();
  }

  arrive() {
    const view = this.model.get("view");
    if (JSON.stringify(view) === JSON.stringify(this.state)) return;
    this.state = { ...view };
    this.arriving = true; // nobody here waits for what this asks of the kernel
    this.build();
    this.arriving = false;
    this.say();
  }

  point(row, column) {
    if (this.state.locked) return;
    const [y, x] = this.state.cell ?? [];
    if (y !== row || x !== column) this.set({ cell: [row, column] }, { say: false, cellOnly: true });
  }

  toggleStrike(word) {
    const words = this.reading().words.length;
    const alone = !this.content.live; // a page holds the masks without one word, not without several
    const struck = new Set(alone && !this.state.struck.includes(word) ? [] : this.state.struck);
    struck.has(word) ? struck.delete(word) : struck.add(word);
    if (struck.size >= words) {
      this.fail("Every word is struck out: leave at least one, press Esc to have them all back.");
      return;
    }
    this.set({ struck: [...struck].sort((a, b) => a - b) });
  }

  compare() {
    if (this.state.second_expression) {
      this.set({ second_expression: "", second_word: 0 });
      return;
    }
    const { expression, model } = this.state;
    const others = this.readings().filter((one) => one.expression !== expression || one.model !== model);
    const other = others[0] ?? this.reading();
    const second = { second_expression: other.expression, second_model: other.model, second_word: telling(other) };
    this.set({ ...second, struck: [] });
  }

  chooseScene(scene) {
    const [reading] = this.content.scenes[scene].readings;
    const { expression, model } = reading;
    this.drafts = {};
    const fresh = { word: telling(reading), second_expression: "", struck: [], locked: false };
    this.set({ scene, expression, model, ...fresh, cell: null, frame: this.content.scenes[scene].target });
  }

  // Another reading in place 0 or 1: one that is there, or the kernel is asked for it.
  choose(slot, expression, model) {
    const text = expression.trim();
    const names = slot ? ["second_expression", "second_model", "second_word"] : ["expression", "model", "word"];
    const there = this.readings().find((reading) => reading.expression === text && reading.model === model);
    if (there) {
      delete this.waiting[`read${slot}`];
      delete this.drafts[slot];
      this.fail("");
      const changes = { [names[0]]: text, [names[1]]: model, [names[2]]: telling(there) };
      this.set(slot ? changes : { ...changes, struck: [] });
    } else if (!text) {
      this.fail("The sentence has no word in it: say what to find, for instance “the red star”.");
    } else if (text.length > LONGEST) {
      this.fail(`The sentence has ${text.length} letters: ${LONGEST} are enough.`);
    } else {
      this.ask("read", slot, { expression: text, model });
    }
  }

  // ---- the kernel -----------------------------------------------------------------------------------------------

  ask(what, slot, request) {
    this.number += 1;
    const about = String(request.struck ?? request.expression);
    const since = this.arriving ? null : performance.now();
    this.waiting[`${what}${slot}`] = { number: this.number, since, about };
    this.fail("");
    this.note.textContent = "The network is reading ...";
    const { scene } = this.state;
    this.model.send({ ask: what, slot, number: this.number, client: this.id, scene, ...request });
  }

  answer(message) {
    const place = `${message.ask}${message.slot}`;
    if (message.client !== this.id || this.waiting[place]?.number !== message.number) return;
    const { since } = this.waiting[place];
    delete this.waiting[place];
    this.note.textContent = "";
    if (message.error) {
      this.fail(message.error);
      if (message.ask === "strike") this.set({ struck: [] });
      return;
    }
    this.took = since === null ? "" : `Answered in ${Math.round(performance.now() - since)} ms.`;
    if (message.ask === "read") {
      this.choose(message.slot, message.expression, message.model);
    } else {
      const { scene, model, expression, struck } = message;
      this.strikes.set(JSON.stringify([scene, model, expression, struck.join(",")]), message.strike);
      this.build();
      this.say();
    }
  }

  fail(sentence) {
    this.alert.textContent = sentence;
    this.alert.hidden = !sentence;
    if (sentence) this.note.textContent = "";
  }

  // ---- keys -----------------------------------------------------------------------------------------------------

  key(event) {
    const { target, key } = event;
    const typing = target.matches("input:not([type=radio]), select, textarea");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // JupyterLab would take Enter and the arrows of a radio button for its cells; Shift-Enter may run the cell.
    if (!(event.shiftKey && key === "Enter")) event.stopPropagation();
    if (typing && key !== "Escape") return;
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    if (steps[key] && target.classList.contains("rx-stage")) this.step(...steps[key]);
    else if (key === "Enter" && target.classList.contains("rx-stage")) this.set({ locked: !this.state.locked });
    else if (key === "[" || key === "]") this.stepOn(key === "]" ? 1 : -1);
    else if (key === "a") this.toggleStrike(this.state.word);
    else if (key === "h" && this.reading().guesses) this.set({ guessing: !this.state.guessing });
    else if (key === "Escape") this.set({ locked: false, struck: [], guessing: false });
    else return;
    event.preventDefault();
  }

  step(rows, columns) {
    const [h, w] = this.grid;
    const [row, column] = this.cell();
    const clamp = (value, most) => Math.min(Math.max(value, 0), most - 1);
    this.set({ cell: [clamp(row + rows, h), clamp(column + columns, w)] }, { cellOnly: true });
  }

  stepOn(step) {
    if (this.state.layer === "centre" && this.frame().centre) {
      const { shape, step: now } = this.cosines();
      this.set({ step: Math.min(Math.max(now + step, 0), shape[0] - 1) });
      return;
    }
    const levels = Object.keys(this.frame().levels);
    const place = levels.indexOf(this.state.level) + step;
    this.set({ level: levels[Math.min(Math.max(place, 0), levels.length - 1)] ?? this.state.level });
  }

  // ---- the page -------------------------------------------------------------------------------------------------

  build() {
    const focus = this.focusKey();
    const reading = this.reading();
    if (!reading) {
      if (this.content.live && !this.waiting.read0) this.choose(0, this.state.expression, this.state.model);
      this.root.replaceChildren(this.alert, this.note);
      return;
    }
    if (this.state.second_expression && !this.reading(1) && this.content.live && !this.waiting.read1) {
      this.ask("read", 1, { expression: this.state.second_expression, model: this.state.second_model });
    }
    if (this.state.struck.length && !this.strike()) this.askStrike();
    this.note.textContent = Object.keys(this.waiting).length ? "The network is reading ..." : this.remarks();
    this.rows = [];
    this.root.replaceChildren(
      ...[
        this.sceneStrip(),
        this.asking(),
        this.alert,
        this.controls(),
        make("div", { className: `rx-body${this.comparing ? " rx-comparing" : ""}` }, this.figures(), this.wordLists()),
        this.hiding(),
        this.under(),
        this.live,
      ].filter(Boolean),
    );
    this.drawCell();
    this.restore(focus);
  }

  askStrike() {
    if (this.content.live) {
      const { model, expression, struck } = this.state;
      if (this.waiting.strike0?.about !== String(struck)) this.ask("strike", 0, { model, expression, struck });
    } else {
      this.state.struck = [];
      this.fail("This page holds the masks without one word at a time.");
    }
  }

  remarks() {
    const parts = [];
    for (const slot of this.comparing ? [0, 1] : [0]) {
      const { unknown, cut, words } = this.reading(slot);
      if (unknown.length) parts.push(`Not in the vocabulary: ${unknown.map(quoted).join(", ")}.`);
      if (cut) parts.push(`Only the first ${words.length} words are read.`);
    }
    return [...parts, this.took ?? ""].join(" ").trim();
  }

  // Where the keyboard's focus is, in words that outlive the elements.
  focusKey() {
    const root = this.root.getRootNode();
    const active = root.activeElement;
    return active && this.root.contains(active) ? (active.dataset.key ?? `${active.name}=${active.value}`) : null;
  }

  restore(key) {
    if (!key) return;
    const all = this.root.querySelectorAll("input, button, select, summary, [tabindex]");
    const same = [...all].find((one) => (one.dataset.key ?? `${one.name}=${one.value}`) === key);
    (same ?? [...all].find((one) => one.checked && key.startsWith(`${one.name}=`)))?.focus({ preventScroll: true });
  }

  sceneStrip() {
    const { scenes } = this.content;
    if (scenes.length < 2) return null;
    const buttons = scenes.map((scene, n) => {
      const [{ expression, iou }] = scene.readings;
      const score = iou === null ? "" : `, IoU ${told(iou)}`;
      return make(
        "button",
        {
          type: "button",
          className: "rx-thumb",
          title: expression,
          "aria-pressed": String(n === this.state.scene),
          "aria-label": `Example ${n + 1}: ${expression}${score}`,
          "data-key": `scene${n}`,
          onclick: () => this.chooseScene(n),
        },
        make("img", { src: scene.frames[scene.target], alt: "", loading: "lazy" }),
        make("span", { "aria-hidden": "true" }, iou === null ? "" : told(iou)),
      );
    });
    return make("div", { className: "rx-strip", role: "group", "aria-label": "Examples" }, ...buttons);
  }

  asking() {
    const both = Boolean(this.state.second_expression);
    const toggle = make(
      "button",
      { type: "button", "data-key": "compare", "aria-pressed": String(both), onclick: () => this.compare() },
      both ? "Stop comparing" : "Compare",
    );
    const forms = [this.askFor(0, both ? "A" : "", toggle), both ? this.askFor(1, "B") : null];
    return make("div", { className: "rx-asking" }, ...forms);
  }

  askFor(slot, letter, toggle = null) {
    const { models, live } = this.content;
    const [expression, model] = slot
      ? [this.state.second_expression, this.state.second_model]
      : [this.state.expression, this.state.model];
    const label = letter ? `Sentence ${letter}` : "Sentence";
    const known = [...new Set(this.readings().map((reading) => reading.expression))];
    const network = make(
      "select",
      {
        "aria-label": `Network ${letter}`.trim(),
        "data-key": `model${slot}`,
        onchange: (event) => this.choose(slot, expression, Number(event.target.value)),
      },
      ...models.map(({ name }, n) => make("option", { value: String(n), selected: n === model }, name)),
    );
    const option = (text, selected) => make("option", { value: text, selected: selected && text === expression }, text);
    const options = (selected) => known.map((text) => option(text, selected));
    let field;
    if (live) {
      const list = `${this.id}-known${slot}`;
      field = [
        make("input", {
          type: "text",
          value: this.drafts[slot] ?? expression,
          oninput: (event) => (this.drafts[slot] = event.target.value),
          onkeydown: submitOnEnter,
          list,
          maxLength: LONGEST,
          "data-key": `sentence${slot}`,
          autocomplete: "off",
          spellcheck: false,
        }),
        make("datalist", { id: list }, ...options(false)),
      ];
    } else {
      const choose = (event) => this.choose(slot, event.target.value, model);
      field = [make("select", { "data-key": `sentence${slot}`, onchange: choose }, ...options(true))];
    }
    const submit = (event) => {
      event.preventDefault();
      event.stopPropagation();
      if (live) this.choose(slot, field[0].value, model);
    };
    return make(
      "form",
      { onsubmit: submit },
      make("label", {}, make("span", {}, label), ...field),
      models.length > 1 ? network : null,
      live ? make("button", { type: "submit", className: "rx-main", "data-key": `find${slot}` }, "Find") : null,
      toggle,
    );
  }

  controls() {
    const { levels } = this.frame();
    const names = Object.fromEntries(Object.keys(levels).map((name) => [name, name]));
    const layers = this.layers();
    const layer = layers[this.state.layer] ? this.state.layer : "mask";
    const parts = [segments("Map of", `${this.id}-layer`, layers, layer, (value) => this.set({ layer: value }))];
    if (layer === "centre") {
      const { shape, step } = this.cosines();
      const steps = Array.from({ length: shape[0] }, (_, n) => (n ? `look ${n}` : "sentence alone"));
      const choose = (value) => this.set({ step: Number(value) });
      parts.push(segments("Step", `${this.id}-step`, steps, String(step), choose));
    }
    if (Object.keys(names).length) {
      parts.push(
        segments("Level", `${this.id}-level`, names, this.state.level, (level) => this.set({ level })),
        segments("Weights", `${this.id}-norm`, NORMALISATIONS, this.state.normalisation, (normalisation) =>
          this.set({ normalisation }),
        ),
      );
    }
    if (this.scene.frames.length > 1) parts.push(this.frameSlider());
    return make("div", { className: "rx-controls" }, ...parts, this.note);
  }

  frameSlider() {
    const count = this.scene.frames.length;
    const annotated = this.state.frame === this.scene.target ? ", annotated" : "";
    const text = () => `${this.state.frame + 1} of ${count}${annotated}`;
    const slider = make("input", {
      type: "range",
      min: 0,
      max: count - 1,
      step: 1,
      "data-key": "frame",
      "aria-label": "Frame",
      "aria-valuetext": text(),
      oninput: (event) => this.set({ frame: Number(event.target.value) }),
    });
    slider.value = this.state.frame;
    return make("label", { className: "rx-frames" }, make("span", {}, "Frame"), slider, make("output", {}, text()));
  }

  figures() {
    this.stages = []; // the picture's first
    const picture = this.pictureFigure();
    const maps = this.maps().map((shown, n) => this.mapFigure(shown, n));
    return make("div", { className: "rx-figures" }, picture, ...maps);
  }

  stage(label, focusable, draw) {
    const [height, width] = this.scene.size;
    const scale = SHARP / Math.max(height, width);
    const canvas = make("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
    canvas.setAttribute("aria-hidden", "true");
    const box = make("div", { className: "rx-cell", "aria-hidden": "true" });
    const stage = make("div", { className: "rx-stage" }, canvas, box);
    stage.style.aspectRatio = `${width} / ${height}`;
    stage.setAttribute("role", focusable ? "application" : "img");
    stage.setAttribute("aria-label", label);
    if (focusable) {
      stage.tabIndex = 0;
      stage.dataset.key = "stage";
    }
    const find = (event) => {
      const { left, top, width: across, height: down } = stage.getBoundingClientRect();
      const [x0, y0, x1, y1] = this.level()?.extent ?? [0, 0, 1, 1];
      const [h, w] = this.grid;
      const u = ((event.clientX - left) / across - x0) / (x1 - x0);
      const v = ((event.clientY - top) / down - y0) / (y1 - y0);
      return [Math.min(Math.max(Math.floor(v * h), 0), h - 1), Math.min(Math.max(Math.floor(u * w), 0), w - 1)];
    };
    stage.addEventListener("pointermove", (event) => this.point(...find(event)));
    stage.addEventListener("click", (event) => {
      const cell = find(event);
      const same = this.state.cell && cell.every((value, n) => value === this.state.cell[n]);
      this.set({ cell, locked: !(this.state.locked && same) }, { cellOnly: true });
    });
    const paint = () => draw(canvas.getContext("2d"));
    this.stages.push({ stage, box, paint });
    paint();
    return stage;
  }

  pictureFigure() {
    const frame = this.scene.frames[Math.min(this.state.frame, this.scene.frames.length - 1)];
    const stage = this.stage(this.pictureLabel(), true, (context) => this.drawPicture(context, frame));
    return make("figure", {}, stage, make("figcaption", {}, make("strong", {}, this.verdict()), this.legend()));
  }

  pictureLabel() {
    const keys = "Arrow keys move over the regions, Enter holds one.";
    return `Picture with the mask of ${quoted(this.state.expression)}. ${keys}`;
  }

  verdict() {
    const { iou } = this.reading();
    const score = (value) => (value === null ? "truth not known" : `IoU ${told(value)}`);
    const strike = this.strike();
    if (strike && strike.iou !== null) {
      const gone = this.state.struck.map((n) => quoted(this.reading().words[n])).join(" ");
      return `IoU ${told(iou)} → ${told(strike.iou)} without ${gone}`;
    }
    if (this.comparing) return `A: ${score(iou)}. B: ${score(this.reading(1).iou)}`;
    return score(iou).replace(/^t/, "T");
  }

  legend() {
    const item = (style, colour, text) => {
      const line = make("i", { className: `rx-line rx-${style}` });
      line.style.borderColor = colour;
      return make("span", {}, line, text);
    };
    const items = [item("solid", PREDICTION, this.comparing ? "mask of A" : this.strike() ? "mask without" : "mask")];
    if (this.comparing) items.push(item("dotted", SECOND, "mask of B"));
    if (this.strike()) items.push(item("dotted", SECOND, "mask before"));
    if (this.truthShown()) items.push(item("dashed", TRUTH, "truth"));
    return make("span", { className: "rx-legend" }, ...items);
  }

  truthShown() {
    return this.state.frame === this.scene.target || this.scene.frames.length === 1 ? this.reading().truth : null;
  }

  drawPicture(context, uri) {
    if (!this.images.has(uri)) {
      const image = new Image();
      this.images.set(uri, image);
      image.src = uri;
    }
    const image = this.images.get(uri);
    if (!image.complete) {
      image.addEventListener("load", () => this.drawPicture(context, uri), { once: true });
      return;
    }
    const { width, height } = context.canvas;
    context.imageSmoothingQuality = "high";
    if (image.naturalWidth) context.drawImage(image, 0, 0, width, height);
    if (this.comparing) outline(context, this.maskOn(1).mask, SECOND, "dotted");
    if (this.strike()) outline(context, this.frame().mask, SECOND, "dotted");
    outline(context, this.maskOn(0).mask, PREDICTION, "solid");
    if (this.truthShown()) outline(context, this.truthShown(), TRUTH, "dashed", 2.5);
  }

  mapFigure(shown, number) {
    const unit = UNITS[shown.unit];
    const signed = shown.colours === COLOURS.diverging;
    const { low, high } = signed ? shown.peaks : shown;
    const say = signed ? told : unit;
    const label = `${shown.title}: from ${say(low)} to ${say(high)}. ${shown.caption ?? ""}`.trim();
    const stage = this.stage(label, false, (context) => {
      const now = number === 0 && this.state.layer === "region" && !this.comparing ? this.shown(0) : shown;
      drawHeat(context, now);
      if (!signed) outline(context, this.maskOn(shown.slot ?? 0).mask, "#ffffff", "solid", 2);
    });
    const bar = make("span", { className: signed ? "rx-scale rx-signed" : "rx-scale" });
    const ends = signed
      ? [`−${told(shown.high)}`, "0", `+${told(shown.high)}`]
      : [unit(shown.low), unit(shown.high)];
    const scale = make("span", { className: "rx-ends" }, ...ends.map((text) => make("span", {}, text)));
    const more = shown.caption ? make("span", {}, shown.caption) : null;
    const caption = make("figcaption", {}, make("strong", {}, shown.title), bar, scale, more);
    return make("figure", {}, stage, caption);
  }

  wordLists() {
    const slots = this.comparing ? [0, 1] : [0];
    return make("div", { className: "rx-lists" }, ...slots.map((slot) => this.wordList(slot)));
  }

  wordList(slot) {
    const reading = this.reading(slot);
    const level = this.level(slot);
    const points = reading.points[this.state.level]?.[this.state.normalisation] ?? [];
    const scored = points.some(Boolean);
    const chosen = slot ? this.state.second_word : this.state.word;
    const name = `${this.id}-word${slot}`;
    const why =
      "Does the map's maximum lie on a thing that the word is true of? In brackets: how often a blind guess does.";
    const head = make(
      "div",
      { className: "rx-row rx-head", "aria-hidden": "true" },
      make("span", {}, this.comparing ? `Words of ${slot ? "B" : "A"}` : "Word"),
      make("span", {}, level ? (this.barUnit() === "even" ? "At the region, × even" : "At the region") : ""),
      make("span", {}),
      scored ? make("span", { title: why }, "Points at it") : null,
      slot ? null : make("span", {}, reading.iou === null ? "Strike out" : "IoU without"),
    );
    const rows = reading.words.map((word, n) => {
      const struck = !slot && this.state.struck.includes(n);
      const input = make("input", { type: "radio", name, value: String(n), checked: n === chosen });
      input.addEventListener("change", () => this.set({ [slot ? "second_word" : "word"]: n, layer: "word" }));
      const label = make("label", { className: struck ? "rx-struck" : "" }, input, make("span", {}, word));
      if (reading.unknown.includes(word)) label.append(make("small", {}, " not in the vocabulary"));
      if (!slot) {
        label.addEventListener("click", (event) => {
          if (!event.shiftKey) return;
          event.preventDefault();
          this.toggleStrike(n);
        });
      }
      const bar = make("i");
      const value = make("span", { className: "rx-value" });
      if (level) this.rows.push({ slot, word: n, bar, value });
      const point = points[n];
      const hit = point ? [point.hit ? "hit" : "miss", make("small", {}, ` (${percent(point.chance)})`)] : [];
      return make(
        "div",
        { className: `rx-row${n === chosen ? " rx-chosen" : ""}` },
        label,
        make("span", { className: "rx-bar", "aria-hidden": "true" }, bar),
        value,
        scored ? make("span", { className: point?.hit ? "rx-hit" : "rx-miss" }, ...hit) : null,
        slot ? null : this.strikeButton(reading, n, struck),
      );
    });
    const label = this.comparing ? `Words of ${slot ? "B" : "A"}` : "Words";
    const list = make("div", { className: "rx-words", role: "radiogroup", "aria-label": label }, head, ...rows);
    list.classList.toggle("rx-scored", scored);
    list.classList.toggle("rx-second", slot === 1);
    return list;
  }

  strikeButton(reading, n, struck) {
    const known = reading.strikes[String(n)] ?? this.strikes.get(this.strikeKey(String(n)));
    const score = known && known.iou !== null ? told(known.iou) : "";
    const without = score ? `, IoU without it ${score}` : "";
    const label = `${struck ? "Bring back" : "Strike out"} ${reading.words[n]}${without}`;
    return make(
      "button",
      {
        type: "button",
        className: "rx-strike",
        "aria-pressed": String(struck),
        "aria-label": label,
        "data-key": `strike${n}`,
        title: label,
        onclick: () => this.toggleStrike(n),
      },
      make("span", {}, score),
      make("b", { "aria-hidden": "true" }, struck ? "↺" : "✕"),
    );
  }

  // The chosen word hidden, and what is guessed in its place; nothing where the network has no heads for it.
  hiding() {
    const { guesses, words } = this.reading();
    if (!guesses) return null;
    const { guessing } = this.state;
    const word = quoted(words[this.state.word]);
    const hide = () => this.set({ guessing: !guessing });
    const text = guessing ? `Show ${word} again` : `Hide ${word} and guess it`;
    const pressed = { type: "button", "data-key": "hide", "aria-pressed": String(guessing), onclick: hide };
    const found = guesses[this.state.word];
    const parts = [make("button", pressed, text)];
    if (guessing && found) {
      const sentence = words.map((one, n) => (n === this.state.word ? "____" : one)).join(" ");
      const lists = Object.keys(WAYS).map((way) => this.best(found, way));
      parts.push(make("span", {}, quoted(sentence)), make("div", {}, ...lists));
      parts.push(make("p", { className: "rx-about" }, this.aboutGuesses()));
    } else if (guessing) {
      parts.push(make("span", {}, `${word} is never hidden: it says nothing of the thing meant. Choose another word.`));
    }
    return make("section", { className: "rx-guesses", "aria-label": "Hidden word" }, ...parts);
  }

  best(found, way) {
    const hidden = this.reading().words[this.state.word];
    const rows = found[way].map(([word, share]) => {
      const bar = make("i");
      bar.style.width = `${100 * share}%`;
      const name = make(word === hidden ? "b" : "span", {}, word);
      const length = make("span", { className: "rx-bar", "aria-hidden": "true" }, bar);
      return make("li", {}, name, length, make("span", {}, percent(share)));
    });
    return make("div", {}, make("strong", {}, WAYS[way]), make("ol", { "aria-label": WAYS[way] }, ...rows));
  }

  aboutGuesses() {
    const mask = this.reading().truth ? "the true one" : "the one that the network found";
    return (
      "The network reads the sentence with one word hidden; the layers that Mask Grounding trained name it (our " +
      `reconstruction). The mask is ${mask}; of it only the centre is told. Words alone: a small text encoder that ` +
      "has seen sentences and no picture, that is, the prior."
    );
  }

  guessed() {
    const found = this.state.guessing && this.reading().guesses?.[this.state.word];
    if (!found) return "";
    const first = Object.entries(WAYS).map(([way, name]) => {
      const [word, share] = found[way][0];
      return `${name}: ${quoted(word)} ${percent(share)}`;
    });
    return ` ${quoted(this.reading().words[this.state.word])} is hidden. ${first.join("; ")}.`;
  }

  // ---- what changes with every step of the pointer --------------------------------------------------------------

  drawCell() {
    const [row, column] = this.cell();
    const [h, w] = this.grid;
    const [x0, y0, x1, y1] = this.level()?.extent ?? [0, 0, 1, 1];
    for (const { box } of this.stages) {
      box.hidden = !this.level();
      box.style.left = `${100 * (x0 + (column / w) * (x1 - x0))}%`;
      box.style.top = `${100 * (y0 + (row / h) * (y1 - y0))}%`;
      box.style.width = `${(100 * (x1 - x0)) / w}%`;
      box.style.height = `${(100 * (y1 - y0)) / h}%`;
      box.classList.toggle("rx-locked", this.state.locked);
    }
    const at = this.rows.map(({ slot, word }) => this.wordAt(slot, word));
    const longest = Math.max(1e-12, ...at.map(({ value }) => value));
    this.rows.forEach(({ bar, value }, n) => {
      bar.style.width = `${(100 * at[n].value) / longest}%`;
      value.textContent = at[n].unit === "even" ? told(at[n].value) : percent(at[n].value);
    });
    if (this.state.layer === "region" && this.level()?.alpha) this.redrawRegion();
    this.line.textContent = this.sentence();
  }

  redrawRegion() {
    if (this.comparing) {
      const figures = this.figures();
      this.root.querySelector(".rx-figures").replaceWith(figures);
      return;
    }
    const shown = this.shown(0);
    this.stages[1].paint();
    const figure = this.stages[1].stage.parentElement;
    figure.querySelector("strong").textContent = shown.title;
    figure.querySelector(".rx-ends").lastElementChild.textContent = UNITS.even(shown.high);
    this.stages[1].stage.setAttribute("aria-label", `${shown.title}: up to ${UNITS.even(shown.high)}.`);
  }

  sentence() {
    const level = this.level();
    const { centre } = this.frame();
    const rest = centre ? "only its mask and its centre" : "only its mask";
    if (!level) return `This network has no attention over words: ${rest} can be shown. ${this.verdict()}.`;
    const [row, column] = this.cell();
    const [h, w] = this.grid;
    const held = this.state.locked ? ", held" : "";
    const words = this.reading().words.map((word, n) => ({ word, ...this.wordAt(0, n) }));
    words.sort((a, b) => b.value - a.value);
    const top = words.slice(0, 3).map(({ word, value, unit }) => `${quoted(word)} ${UNITS[unit](value)}`);
    let start = `Row ${row + 1}, column ${column + 1} of ${h} × ${w}${held}: `;
    const layer = this.state.layer;
    if (layer === "region" && level.alpha) {
      const shown = this.shown(0);
      const { high, place } = extremes(shown.values);
      const [y, x] = [Math.floor(place / w) + 1, (place % w) + 1];
      start += `it looks most at row ${y}, column ${x} (${UNITS.even(high)}) and reads `;
    } else if (layer === "region" && level.beta) {
      start += "it reads ";
    } else if (layer === "centre" && centre) {
      const steps = this.cosinesAt().map((cosine, n) => `${n ? `look ${n}` : "sentence alone"} ${told(cosine)}`);
      return `${start}cosine with the centre, ${steps.join(", ")}.`;
    } else if (layer === "memory" || layer === "reset") {
      start += `${LAYERS[layer].toLowerCase()} ${told(numbers(level[layer]).values[row * w + column])}; `;
    } else if (layer === "frames" && Object.keys(this.reading().looks).length) {
      const { looks } = this.reading();
      const { shape, values } = numbers(looks[this.state.level] ?? Object.values(looks)[0]);
      const share = (t) => percent(values[(t * shape[1] + row) * shape[2] + column]);
      const shares = Array.from({ length: shape[0] }, (_, t) => `frame ${t + 1} ${share(t)}`);
      return `${start}it looks at ${shares.join(", ")}.`;
    }
    return `${start}${top.join(", ")}.`;
  }

  say() {
    const { words } = this.reading() ?? {};
    if (!words) return;
    const struck = this.state.struck.map((n) => quoted(words[n])).join(", ");
    const shown = this.layers()[this.state.layer] && this.state.layer === "centre" ? this.shown(0) : null;
    const word = quoted(words[Math.min(this.state.word, words.length - 1)]);
    const chosen = shown ? `${shown.title}. ${shown.caption} ` : `Word ${word}, level ${this.state.level}. `;
    const gone = struck ? ` Struck out: ${struck}.` : "";
    this.live.textContent = `${chosen}${this.sentence()} ${this.verdict()}.${gone}${this.guessed()}`;
  }

  // ---- what is shown, and what it is worth ----------------------------------------------------------------------

  under() {
    this.line = make("p", { className: "rx-reading" });
    const about = make("p", { className: "rx-about" }, make("strong", {}, "What is shown. "), this.recipe());
    const worth = make("p", { className: "rx-about" }, make("strong", {}, "What it is worth. "), this.worth());
    const keys = [
      ["Tab", "to the picture, the words, the switches"],
      ["arrows", "another region, or another word"],
      ["Enter", "hold the region, or let it go"],
      ["[ and ]", this.frame().centre ? "level; on the map of the centre, step" : "level"],
      ["a, or shift-click on a word", "strike the word out"],
      ...(this.reading().guesses ? [["h", "hide the word, and see what is guessed"]] : []),
      ["Esc", "all words back, no region held"],
    ];
    const list = make("dl", {}, ...keys.flatMap(([key, text]) => [make("dt", {}, key), make("dd", {}, text)]));
    const summary = make("summary", { "data-key": "keys" }, "Keys");
    const help = make("details", { open: this.helpOpen ?? false }, summary, list);
    help.addEventListener("toggle", () => (this.helpOpen = help.open));
    const save = make("button", { type: "button", "data-key": "save", onclick: () => this.save() }, "Save this view");
    const foot = make("div", { className: "rx-foot" }, save, help);
    return make("div", { className: "rx-under" }, this.line, about, worth, foot);
  }

  recipe() {
    const level = this.level();
    const layer = this.layers()[this.state.layer] ? this.state.layer : "mask";
    if (layer === "centre") {
      const { shape } = this.frame().centre.similarity;
      return (
        `Cosine of each of ${shape[1]} × ${shape[2]} pixels with the centre, from −1 to 1. The centre is at first the ` +
        "sentence alone; with every look at the picture it is refined. The mask is made of the last one, by a product " +
        "that also knows lengths and a bias: its outline need not be a contour of this map."
      );
    }
    if (layer === "mask" || !level) {
      return "The network's probability for every pixel; the mask is where it is above one half.";
    }
    const [h, w] = this.grid;
    const at = `Level ${this.state.level}, ${h} × ${w} regions. `;
    if (layer === "memory" || layer === "reset") {
      const handed = layer === "memory";
      const much = handed ? "this level the fusion hands to the others" : "the mixture replaces this level's own";
      return `${at}Fusion (GMLF): how much of ${much}, from 0 to 1, mean over channels.`;
    }
    if (layer === "frames") {
      return (
        `${at}Cross-frame attention (CFSA): how every region of the annotated frame shares itself out over the ` +
        "frames, mean over heads; the shares of a region sum to one."
      );
    }
    if (layer === "region" && !level.alpha) {
      return (
        `${at}Words and regions share one score map, of which two softmaxes are taken. This is the one along the words: ` +
        "bars and map are what every region reads of each word, mean over heads; the shares of a region sum to one. " +
        "“Word” shows the other, along the regions."
      );
    }
    if (layer === "region") {
      return (
        `${at}Query: this region, mean over the words. Map: its weights over all regions, 1 = an even share. ` +
        "Bars: its weights over the words, sum one."
      );
    }
    const sum =
      this.state.normalisation === "positions"
        ? "each word's weights sum to one over the positions; 1 = an even share"
        : "at each position the words' weights are divided by their sum; an even share is " +
          percent(1 / this.reading().words.length);
    const both = level.beta && !level.alpha; // directions of one score map
    const other =
      this.state.normalisation === "positions"
        ? " Of the same score map “Region” shows the softmax along the words."
        : " That is not the softmax along the words of the same score map, which “Region” shows.";
    const query =
      this.reading().asking === "word"
        ? "Query: the word. Aggregation: mean over heads."
        : "Query: the word at all regions. Aggregation: mean over these query regions.";
    return (
      `${at}${query} Normalisation: ${NORMALISATIONS[this.state.normalisation]}, that is ${sum}.${both ? other : ""} ` +
      "The longest bar is the largest value."
    );
  }

  worth() {
    if (this.state.layer === "centre" && this.frame().centre) {
      return (
        `${this.area() || "Not known without the truth. "}AUC: of two pixels, one of the referent and one not, how often ` +
        "the first is nearer; 0.5 is chance. Finding every object is enough to do well against the background; which " +
        "one is meant shows among objects."
      );
    }
    if (!this.level()) return "There is no map to judge.";
    const model = this.content.models[this.state.model];
    const measured = model?.worth?.[this.state.normalisation]?.[this.state.level];
    if (!measured) {
      return (
        "Not measured for this network. Maps of attention look convincing whether they mean something or not: " +
        "score them first (lesson 09)."
      );
    }
    const { N, pointing, chance, object_chance: objects } = measured;
    const share = (value) => `${(100 * value).toFixed(1)} %`;
    return (
      `Over ${N.toLocaleString("en")} words of val these maps point at a thing that the word is true of in ` +
      `${share(pointing)}; ` +
      `a blind guess would in ${share(chance)}, a guess among the objects in ${share(objects)}. ` +
      `${model.note} To see what a word does, strike it out.`
    );
  }

  save() {
    const { source, sample_id } = this.scene;
    const { iou, words } = this.reading();
    const seen = { iou, sentence: `${this.verdict()}. ${this.sentence()}`, words };
    const finding = { format: "refseg-explorer/1", sample: { source, sample_id }, state: this.state, seen, note: "" };
    const url = URL.createObjectURL(new Blob([JSON.stringify(finding, null, 1)], { type: "application/json" }));
    make("a", { href: url, download: "finding.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
}

// The first word that is true of something, else the first.
function telling(reading) {
  const [scores] = Object.values(reading.points);
  return Math.max(0, scores ? scores.positions.findIndex(Boolean) : 0);
}

// Stands in for the kernel on an exported page.
class StillModel {
  constructor(content, view) {
    this.values = { content, view, fresh: [] };
  }

  get(name) {
    return this.values[name];
  }

  set(name, value) {
    this.values[name] = value;
  }

  save_changes() {}

  on() {}
}

function render({ model, el }) {
  const panel = new Panel(model, el);
  return () => panel.remove();
}

export default { render };
