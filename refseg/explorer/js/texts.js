// Everything that is said about what is on show.
import { area, shown } from "./maps.js";
import { decimal, extremes, numbers, percent, quoted, UNITS } from "./numbers.js";

// The score of the mask, in words.
export function verdict(view) {
  const { iou, words } = view.reading();
  const score = (value) => (value === null ? "no ground truth" : `IoU ${decimal(value)}`);
  const strike = view.strike();
  if (strike && strike.iou !== null) {
    const gone = view.state.struck.map((n) => quoted(words[n])).join(" ");
    return `IoU ${decimal(iou)} → ${decimal(strike.iou)} without ${gone}`;
  }
  if (view.comparing) return `A: ${score(iou)}. B: ${score(view.reading(1).iou)}`;
  return score(iou).replace(/^n/, "N");
}

// What can be read at the chosen region.
export function reading(view) {
  const level = view.level();
  const { centre } = view.frame();
  const rest = centre ? "only its mask and its centre" : "only its mask";
  if (!level) return `This network has no attention over words: ${rest} can be shown. ${verdict(view)}.`;
  const [row, column] = view.cell();
  const { h, w } = view.grid();
  const held = view.state.locked ? ", held" : "";
  const start = `Row ${row + 1}, column ${column + 1} of ${h} × ${w}${held}: `;
  const { layer } = view.state;
  if (layer === "centre" && centre) {
    const steps = view.cosinesAt().map((cosine, n) => `${n ? `look ${n}` : "sentence alone"} ${decimal(cosine)}`);
    return `${start}cosine with the centre, ${steps.join(", ")}.`;
  }
  const { looks } = view.reading();
  if (layer === "frames" && Object.keys(looks).length) {
    const { shape, values } = numbers(looks[view.state.level] ?? Object.values(looks)[0]);
    const share = (t) => percent(values[(t * shape[1] + row) * shape[2] + column]);
    const shares = Array.from({ length: shape[0] }, (_, t) => `frame ${t + 1} ${share(t)}`);
    return `${start}it looks at ${shares.join(", ")}.`;
  }
  return `${start}${prefix(view, layer, level, row * w + column)}${strongest(view)}.`;
}

function prefix(view, layer, level, at) {
  if (layer === "region" && level.alpha) {
    const { values, w, high } = shown(view);
    const { place } = extremes(values);
    const [y, x] = [Math.floor(place / w) + 1, (place % w) + 1];
    return `it looks most at row ${y}, column ${x} (${UNITS.even(high)}) and reads `;
  }
  if (layer === "region" && level.beta) return "it reads ";
  if (level[layer] && (layer === "memory" || layer === "reset")) {
    return `${view.labels.layers[layer].toLowerCase()} ${decimal(numbers(level[layer]).values[at])}; `;
  }
  return "";
}

function strongest(view) {
  const words = view.reading().words.map((word, n) => ({ word, ...view.wordAt(0, n) }));
  words.sort((a, b) => b.value - a.value);
  return words
    .slice(0, 3)
    .map(({ word, value, unit }) => `${quoted(word)} ${UNITS[unit](value)}`)
    .join(", ");
}

// What a screen reader is given after a change.
export function announcement(view) {
  const { words } = view.reading();
  const struck = view.state.struck.map((n) => quoted(words[n])).join(", ");
  const centre = view.state.layer === "centre" && view.layer() === "centre" ? shown(view) : null;
  const word = `Word ${quoted(words[view.word()])}, level ${view.state.level}. `;
  const chosen = centre ? `${centre.title}. ${centre.caption} ` : word;
  const gone = struck ? ` Struck out: ${struck}.` : "";
  return `${chosen}${reading(view)} ${verdict(view)}.${gone}${guessed(view)}`;
}

// What is noteworthy about the words that were read.
export function remarks(view) {
  return view.slots.flatMap((slot) => {
    const { unknown, cut, words } = view.reading(slot);
    return [
      unknown.length ? `Not in the vocabulary: ${unknown.map(quoted).join(", ")}.` : "",
      cut ? `Only the first ${words.length} words are read.` : "",
    ];
  });
}

// How the map is made.
export function recipe(view) {
  const level = view.level();
  const layer = view.layer();
  if (layer === "centre") return centreRecipe(view);
  if (layer === "mask" || !level) {
    return "The network's probability for every pixel; the mask is where it exceeds one half.";
  }
  const { h, w } = view.grid();
  return `Level ${view.state.level}, ${h} × ${w} regions. ${mapRecipe(view, layer, level)}`;
}

function centreRecipe(view) {
  const [, h, w] = view.frame().centre.similarity.shape;
  return (
    `Cosine of each of ${h} × ${w} pixels with the centre, from −1 to 1. The centre starts as the sentence vector ` +
    "alone and is refined with every look at the image. The mask comes from the last one, through a product that also " +
    "depends on lengths and a bias, so its outline need not be a contour of this map."
  );
}

function mapRecipe(view, layer, level) {
  if (layer === "memory") {
    return "Fusion (GMLF): how much of this level is passed to the others, from 0 to 1, mean over channels.";
  }
  if (layer === "reset") {
    return "Fusion (GMLF): how much the mixture replaces this level's own features, from 0 to 1, mean over channels.";
  }
  if (layer === "frames") {
    return (
      "Cross-frame attention (CFSA): how every region of the annotated frame divides its attention among the " +
      "frames, mean over heads; the shares of a region sum to one."
    );
  }
  if (layer === "region" && !level.alpha) {
    return (
      "Words and regions share one score matrix, of which two softmaxes are taken. This is the one over the words: " +
      "bars and map show how much every region reads each word, mean over heads; the shares of a region sum to one. " +
      "“Word” shows the other, over the regions."
    );
  }
  if (layer === "region") {
    return (
      "Query: this region, mean over the words. Map: its weights over all regions, 1 = an even share. " +
      "Bars: its weights over the words, which sum to one."
    );
  }
  return wordRecipe(view, level);
}

function wordRecipe(view, level) {
  const { normalisation } = view.state;
  const { words, pairs } = view.reading();
  const positions = normalisation === "positions";
  const sum = positions
    ? "each word's weights sum to one over the positions; 1 = an even share"
    : `at each position the words' weights are divided by their sum; an even share is ${percent(1 / words.length)}`;
  const other = positions
    ? " “Region” shows the softmax over the words of the same score matrix."
    : " That is not the softmax over the words of the same score matrix, which “Region” shows.";
  const query = pairs
    ? "Query: the word at all regions. Aggregation: mean over these query regions."
    : "Query: the word. Aggregation: mean over heads.";
  return (
    `${query} Normalisation: ${view.labels.normalisations[normalisation]}, so ${sum}.` +
    `${level.beta && !level.alpha ? other : ""} The longest bar is the largest value.`
  );
}

// What the map is worth, where that was measured.
export function worth(view) {
  if (view.layer() === "centre") {
    return (
      `${area(view) || "Unknown without ground truth. "}AUC: of two pixels, one of the referent and one not, how ` +
      "often the first is nearer to the centre; 0.5 is chance. Separating objects from the background is enough for a " +
      "high value; only the value among objects says whether the right one is found."
    );
  }
  if (!view.level()) return "There is no map to judge.";
  const pointing = view.content.models[view.state.model]?.pointing;
  const measured = pointing?.scores[view.state.normalisation]?.[view.state.level];
  if (!measured) {
    return (
      "Not measured for this network. Attention maps look convincing whether they mean something or not: " +
      "score them first (lesson 09)."
    );
  }
  const share = (value) => `${(100 * value).toFixed(1)} %`;
  const elsewhere = view.scene.source.startsWith(pointing.data) ? "" : "Not measured on images like this one. ";
  return (
    `${elsewhere}Over ${measured.N.toLocaleString("en")} words of ${pointing.of} these maps point at an object that the ` +
    `word is true of in ${share(measured.pointing)} of cases; a random pixel would in ${share(measured.chance)}, a ` +
    `random pixel of an object in ${share(measured.object_chance)}. ${pointing.note} ` +
    "To see what a word does, strike it out."
  );
}

// How the guesses for a hidden word come about.
export function aboutGuesses(view) {
  const mask = view.reading().truth ? "the true one" : "the one that the network found";
  return (
    "The network reads the expression with one word hidden; the layers that Mask Grounding trained name it (our " +
    `reconstruction). The mask is ${mask}; only its centre is used. Words alone: a small text encoder that has seen ` +
    "expressions and no image, that is, the prior."
  );
}

function guessed(view) {
  const found = view.state.guessing && view.guesses?.[view.state.word];
  if (!found) return "";
  const first = Object.entries(view.labels.ways).map(([way, name]) => {
    const [word, share] = found[way][0];
    return `${name}: ${quoted(word)} ${percent(share)}`;
  });
  return ` ${quoted(view.reading().words[view.state.word])} is hidden. ${first.join("; ")}.`;
}

// What the keys do: [[key, what], ...].
export function keyHelp(view) {
  return [
    ["Tab", "to the image, the words, the switches"],
    ["arrows", "another region, or another word"],
    ["Enter", "hold the region, or release it"],
    ["[ and ]", view.frame().centre ? "level; on the map of the centre, step" : "level"],
    ["a, or shift-click on a word", "strike the word out"],
    ...(view.guesses ? [["h", "hide the word, and see what is guessed"]] : []),
    ["Esc", "bring all words back and release the region"],
  ];
}
