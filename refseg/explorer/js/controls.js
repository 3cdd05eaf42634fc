// What is asked, and of what the map is: examples, expressions, networks, switches.
import { make, segments, submitOnEnter } from "./elements.js";
import { decimal } from "./numbers.js";

export function sceneStrip(panel) {
  const { scenes } = panel.view.content;
  if (scenes.length < 2) return null;
  const buttons = scenes.map((scene, n) => {
    const [{ expression, iou }] = scene.readings;
    const score = iou === null ? "" : `, IoU ${decimal(iou)}`;
    return make(
      "button",
      {
        type: "button",
        className: "rx-thumb",
        title: expression,
        "aria-pressed": String(n === panel.view.state.scene),
        "aria-label": `Example ${n + 1}: ${expression}${score}`,
        "data-key": `scene${n}`,
        onclick: () => panel.chooseScene(n),
      },
      make("img", { src: scene.frames[scene.target], alt: "", loading: "lazy" }),
      make("span", { "aria-hidden": "true" }, iou === null ? "" : decimal(iou)),
    );
  });
  return make("div", { className: "rx-strip", role: "group", "aria-label": "Examples" }, ...buttons);
}

// Scrolled as before, and so that the chosen example is seen.
export function scrollStrip(strip, before) {
  if (!strip) return;
  strip.scrollLeft = before;
  const [{ left, right }, chosen] = [strip.getBoundingClientRect(), strip.querySelector("[aria-pressed=true]")];
  const { left: from, right: to } = chosen.getBoundingClientRect();
  if (from < left || to > right) strip.scrollLeft += (from + to - left - right) / 2;
}

export function asking(panel) {
  const both = Boolean(panel.view.state.second_expression);
  const other = both || panel.view.content.live || panel.view.readings().length > 1; // something to compare with
  const properties = { type: "button", "data-key": "compare", "aria-pressed": String(both) };
  const text = both ? "Stop comparing" : "Compare";
  const toggle = other ? make("button", { ...properties, onclick: () => panel.compare() }, text) : null;
  const forms = both ? [askFor(panel, 0, "A", toggle), askFor(panel, 1, "B")] : [askFor(panel, 0, "", toggle)];
  return make("div", { className: "rx-asking" }, ...forms);
}

function askFor(panel, slot, letter, toggle = null) {
  const { models, live } = panel.view.content;
  const { expression, model } = panel.view.asked(slot);
  const network = make(
    "select",
    {
      "aria-label": `Network ${letter}`.trim(),
      "data-key": `model${slot}`,
      onchange: (event) => panel.choose(slot, expression, Number(event.target.value)),
    },
    ...models.map(({ name }, n) => make("option", { value: String(n), selected: n === model }, name)),
  );
  const field = live ? expressionField(panel, slot) : expressionList(panel, slot);
  const submit = (event) => {
    event.preventDefault();
    event.stopPropagation();
    if (live) panel.choose(slot, field[0].value, model);
  };
  return make(
    "form",
    { onsubmit: submit },
    make("label", {}, make("span", {}, `Expression ${letter}`.trim()), ...field),
    models.length > 1 ? network : null,
    live ? make("button", { type: "submit", className: "rx-main", "data-key": `find${slot}` }, "Find") : null,
    toggle,
  );
}

const options = (panel, chosen = null) =>
  [...new Set(panel.view.readings().map((reading) => reading.expression))].map((text) =>
    make("option", { value: text, selected: text === chosen }, text),
  );

function expressionField(panel, slot) {
  const list = `${panel.id}-known${slot}`;
  const input = make("input", {
    type: "text",
    value: panel.drafts[slot] ?? panel.view.asked(slot).expression,
    oninput: (event) => (panel.drafts[slot] = event.target.value),
    onkeydown: submitOnEnter,
    list,
    maxLength: panel.view.content.longest,
    "data-key": `expression${slot}`,
    autocomplete: "off",
    spellcheck: false,
  });
  return [input, make("datalist", { id: list }, ...options(panel))];
}

function expressionList(panel, slot) {
  const { expression, model } = panel.view.asked(slot);
  const onchange = (event) => panel.choose(slot, event.target.value, model);
  return [make("select", { "data-key": `expression${slot}`, onchange }, ...options(panel, expression))];
}

export function controls(panel) {
  const { view } = panel;
  const layer = view.layer();
  const choose = (name) => (value) => panel.set({ [name]: value });
  const parts = [segments("Map of", `${panel.id}-layer`, view.layers(), layer, choose("layer"))];
  if (layer === "centre") {
    const { shape, step } = view.cosines();
    const steps = Array.from({ length: shape[0] }, (_, n) => (n ? `look ${n}` : "sentence alone"));
    const set = (value) => panel.set({ step: Number(value) });
    parts.push(segments("Step", `${panel.id}-step`, steps, String(step), set));
  }
  const levels = Object.fromEntries(Object.keys(view.frame().levels).map((name) => [name, name]));
  if (Object.keys(levels).length) {
    const { normalisations } = view.labels;
    const { level, normalisation } = view.state;
    parts.push(segments("Level", `${panel.id}-level`, levels, level, choose("level")));
    parts.push(segments("Weights", `${panel.id}-norm`, normalisations, normalisation, choose("normalisation")));
  }
  if (view.scene.frames.length > 1) parts.push(frameSlider(panel));
  return make("div", { className: "rx-controls" }, ...parts, panel.note);
}

// It stays in its place while it is dragged: `sliding` builds only what is below.
function frameSlider(panel) {
  const { view } = panel;
  const count = view.scene.frames.length;
  const slider = make("input", { type: "range", min: 0, max: count - 1, step: 1, "data-key": "frame" });
  slider.setAttribute("aria-label", "Frame");
  const told = make("output", {});
  const tell = () => {
    const annotated = view.state.frame === view.scene.target ? ", annotated" : "";
    told.textContent = `${view.state.frame + 1} of ${count}${annotated}`;
    slider.setAttribute("aria-valuetext", told.textContent);
  };
  slider.addEventListener("input", () => {
    panel.set({ frame: Number(slider.value) }, { sliding: true });
    tell();
  });
  slider.value = view.state.frame;
  tell();
  return make("label", { className: "rx-frames" }, make("span", {}, "Frame"), slider, told);
}
