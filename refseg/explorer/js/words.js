// The words with their bars, and the word that is hidden and guessed.
import { make } from "./elements.js";
import { decimal, percent, quoted } from "./numbers.js";
import { aboutGuesses } from "./texts.js";

const WHY = "Does the map's maximum lie on an object that the word is true of? In brackets: how often a random pixel does.";

export function wordLists(panel) {
  panel.rows = [];
  return make("div", { className: "rx-lists" }, ...panel.view.slots.map((slot) => wordList(panel, slot)));
}

// The bars and numbers at the chosen region.
export function drawBars(panel) {
  const at = panel.rows.map(({ slot, word }) => panel.view.wordAt(slot, word));
  const longest = Math.max(1e-12, ...at.map(({ value }) => value));
  panel.rows.forEach(({ bar, value }, n) => {
    bar.style.width = `${(100 * at[n].value) / longest}%`;
    value.textContent = at[n].unit === "even" ? decimal(at[n].value) : percent(at[n].value);
  });
}

function wordList(panel, slot) {
  const { view } = panel;
  const reading = view.reading(slot);
  const points = reading.points[view.state.level]?.[view.state.normalisation] ?? [];
  const scored = points.some(Boolean);
  const label = view.comparing ? `Words of ${slot ? "B" : "A"}` : "Words";
  const even = view.level(slot) && view.wordAt(slot, 0).unit === "even";
  const head = make(
    "div",
    { className: "rx-row rx-head", "aria-hidden": "true" },
    make("span", {}, view.comparing ? label : "Word"),
    make("span", {}, view.level(slot) ? (even ? "At the region, × even" : "At the region") : ""),
    make("span", {}),
    scored ? make("span", { title: WHY }, "Points at it") : null,
    slot ? null : make("span", {}, reading.iou === null ? "Strike out" : "IoU without"),
  );
  const rows = reading.words.map((_, n) => wordRow(panel, slot, n, scored, points[n]));
  const list = make("div", { className: "rx-words", role: "radiogroup", "aria-label": label }, head, ...rows);
  list.classList.toggle("rx-scored", scored);
  list.classList.toggle("rx-second", slot === 1);
  return list;
}

function wordRow(panel, slot, n, scored, point) {
  const { view } = panel;
  const chosen = n === (slot ? view.state.second_word : view.state.word);
  const bar = make("i");
  const value = make("span", { className: "rx-value" });
  if (view.level(slot)) panel.rows.push({ slot, word: n, bar, value });
  const hit = point ? [point.hit ? "hit" : "miss", make("small", {}, ` (${percent(point.chance)})`)] : [];
  return make(
    "div",
    { className: `rx-row${chosen ? " rx-chosen" : ""}` },
    wordLabel(panel, slot, n, chosen),
    make("span", { className: "rx-bar", "aria-hidden": "true" }, bar),
    value,
    scored ? make("span", { className: point?.hit ? "rx-hit" : "rx-miss" }, ...hit) : null,
    slot ? null : strikeButton(panel, n),
  );
}

function wordLabel(panel, slot, n, chosen) {
  const { words, unknown } = panel.view.reading(slot);
  const input = make("input", { type: "radio", name: `${panel.id}-word${slot}`, value: String(n), checked: chosen });
  input.addEventListener("change", () => panel.set({ [slot ? "second_word" : "word"]: n, layer: "word" }));
  const struck = !slot && panel.view.state.struck.includes(n);
  const label = make("label", { className: struck ? "rx-struck" : "" }, input, make("span", {}, words[n]));
  if (unknown.includes(words[n])) label.append(make("small", {}, " not in the vocabulary"));
  if (!slot) {
    label.addEventListener("click", (event) => {
      if (!event.shiftKey) return;
      event.preventDefault();
      panel.toggleStrike(n);
    });
  }
  return label;
}

function strikeButton(panel, n) {
  const { view } = panel;
  const struck = view.state.struck.includes(n);
  const known = view.without([n]);
  const score = known && known.iou !== null ? decimal(known.iou) : "";
  const without = score ? `, IoU without it ${score}` : "";
  const label = `${struck ? "Bring back" : "Strike out"} ${view.reading().words[n]}${without}`;
  return make(
    "button",
    {
      type: "button",
      className: "rx-strike",
      "aria-pressed": String(struck),
      "aria-label": label,
      "data-key": `strike${n}`,
      title: label,
      onclick: () => panel.toggleStrike(n),
    },
    make("span", {}, score),
    make("b", { "aria-hidden": "true" }, struck ? "↺" : "✕"),
  );
}

// The chosen word hidden, and what is guessed in its place; nothing where the network has no heads for it.
export function hiding(panel) {
  const { view } = panel;
  const { guesses } = view;
  const { words } = view.reading();
  if (!guesses) return null;
  const { guessing } = view.state;
  const word = quoted(words[view.state.word]);
  const found = guesses[view.state.word];
  const pressed = { type: "button", "data-key": "hide", "aria-pressed": String(guessing) };
  const onclick = () => panel.set({ guessing: !guessing });
  const parts = [make("button", { ...pressed, onclick }, guessing ? `Show ${word} again` : `Hide ${word} and guess it`)];
  if (guessing && found) {
    const blanked = words.map((one, n) => (n === view.state.word ? "____" : one)).join(" ");
    const lists = Object.keys(view.labels.ways).map((way) => best(view, found, way));
    parts.push(make("span", {}, quoted(blanked)), make("div", {}, ...lists));
    parts.push(make("p", { className: "rx-about" }, aboutGuesses(view)));
  } else if (guessing) {
    const text = `${word} is never hidden, because it says nothing about the object. Choose another word.`;
    parts.push(make("span", {}, text));
  }
  return make("section", { className: "rx-guesses", "aria-label": "Hidden word" }, ...parts);
}

function best(view, found, way) {
  const hidden = view.reading().words[view.state.word];
  const rows = found[way].map(([word, share]) => {
    const bar = make("i");
    bar.style.width = `${100 * share}%`;
    const name = make(word === hidden ? "b" : "span", {}, word);
    const length = make("span", { className: "rx-bar", "aria-hidden": "true" }, bar);
    return make("li", {}, name, length, make("span", {}, percent(share)));
  });
  const name = view.labels.ways[way];
  return make("div", {}, make("strong", {}, name), make("ol", { "aria-label": name }, ...rows));
}
