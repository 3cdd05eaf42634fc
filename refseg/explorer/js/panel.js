// One explorer on a page: it changes the state, builds the page from it, and asks the kernel for what is missing.
import { asking, controls, sceneStrip, scrollStrip } from "./controls.js";
import { make } from "./elements.js";
import { drawCell, figures, redrawRegion } from "./figures.js";
import { Kernel } from "./kernel.js";
import { onKey } from "./keys.js";
import { announcement, keyHelp, reading, recipe, remarks, verdict, worth } from "./texts.js";
import { placeOf, regionAt, scoredWord, View } from "./view.js";
import { drawBars, hiding, wordLists } from "./words.js";

const READING = "The network is reading ...";
let panels = 0;

export class Panel {
  constructor(model, el) {
    this.model = model;
    this.view = new View(model);
    this.id = `rx${Date.now().toString(36)}${(panels += 1)}`;
    this.kernel = new Kernel(model, this.id);
    this.drafts = {}; // what is being typed, so that no answer from the kernel wipes it away
    this.images = new Map(); // by address
    this.took = "";
    this.root = make("section", { className: "rx", "aria-label": "Word-region explorer" });
    this.root.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab's keys would move its cells
    this.live = make("p", { className: "rx-unseen", "aria-live": "polite", role: "status" });
    this.alert = make("p", { className: "rx-alert", role: "alert", hidden: true });
    this.note = make("p", { className: "rx-note", role: "status" });
    this.lower = make("div", {});
    this.root.addEventListener("keydown", (event) => onKey(this, event));
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

  // ---- changes --------------------------------------------------------------------------------------------------

  // `cellOnly` moves the region and builds nothing; `sliding` leaves the controls in their place.
  set(changes, { say = true, cellOnly = false, sliding = false } = {}) {
    const { view } = this;
    const place = view.state.cell && view.reading() ? placeOf(view.grid(), view.cell()) : null;
    view.state = { ...view.state, ...changes };
    // Another level has other regions: the chosen one stays at its place of the image.
    if (place && !("cell" in changes) && view.reading()) view.state.cell = regionAt(view.grid(), place);
    clearTimeout(this.saving);
    const save = () => {
      this.model.set("view", view.state);
      this.model.save_changes();
    };
    if (cellOnly) {
      this.saving = setTimeout(save, 400); // the kernel need not hear of every step of the pointer
      this.drawCell();
      redrawRegion(this);
    } else {
      save();
      this.build(sliding);
    }
    if (say) this.say();
  }

  // The kernel changed the view.
  arrive() {
    const view = this.model.get("view");
    if (JSON.stringify(view) === JSON.stringify(this.view.state)) return;
    this.view.state = { ...view };
    this.arriving = true; // nobody here waits for what this asks of the kernel
    this.build();
    this.arriving = false;
    this.say();
  }

  point(row, column) {
    const { locked, cell } = this.view.state;
    if (locked || (cell?.[0] === row && cell?.[1] === column)) return;
    this.set({ cell: [row, column] }, { say: false, cellOnly: true });
  }

  // A click: the region is held, or released if it was this one.
  hold(cell) {
    const { state } = this.view;
    const same = state.cell && cell.every((value, n) => value === state.cell[n]);
    this.set({ cell, locked: !(state.locked && same) }, { cellOnly: true });
  }

  toggleStrike(word) {
    const { state, content } = this.view;
    const alone = !content.live; // a page holds the masks without one word, not without several
    const struck = new Set(alone && !state.struck.includes(word) ? [] : state.struck);
    struck.has(word) ? struck.delete(word) : struck.add(word);
    if (struck.size >= this.view.reading().words.length) {
      this.fail("Every word is struck out: leave at least one, or press Esc to bring them all back.");
      return;
    }
    this.set({ struck: [...struck].sort((a, b) => a - b) });
  }

  compare() {
    const { state } = this.view;
    if (state.second_expression) {
      this.set({ second_expression: "", second_word: 0 });
      return;
    }
    const { expression, model } = state;
    const others = this.view.readings().filter((one) => one.expression !== expression || one.model !== model);
    const other = others[0] ?? this.view.reading();
    const second = { second_expression: other.expression, second_model: other.model, second_word: scoredWord(other) };
    this.set({ ...second, struck: [] });
  }

  chooseScene(scene) {
    const { readings, target } = this.view.content.scenes[scene];
    const { expression, model } = readings[0];
    this.drafts = {};
    const fresh = { word: scoredWord(readings[0]), second_expression: "", struck: [], locked: false };
    this.set({ scene, expression, model, ...fresh, cell: null, frame: target });
  }

  // Another reading in slot 0 or 1: one that is there, or the kernel is asked for it.
  choose(slot, expression, model) {
    const text = expression.trim();
    const { longest } = this.view.content;
    const names = slot ? ["second_expression", "second_model", "second_word"] : ["expression", "model", "word"];
    const there = this.view.find(text, model);
    if (there) {
      this.kernel.forget(`read${slot}`);
      delete this.drafts[slot];
      this.fail("");
      const changes = { [names[0]]: text, [names[1]]: model, [names[2]]: scoredWord(there) };
      this.set(slot ? changes : { ...changes, struck: [] });
    } else if (!text) {
      this.fail("The expression has no words: say what to find, for example “the red star”.");
    } else if (text.length > longest) {
      this.fail(`The expression has ${text.length} characters: shorten it to ${longest} or fewer.`);
    } else {
      this.ask("read", slot, { expression: text, model });
    }
  }

  // ---- the kernel -----------------------------------------------------------------------------------------------

  ask(what, slot, request) {
    const about = String(request.struck ?? request.expression);
    this.fail("");
    this.note.textContent = READING;
    const { scene } = this.view.state;
    if (!this.kernel.ask(what, slot, { scene, ...request }, { about, timed: !this.arriving })) {
      this.fail("The kernel no longer knows this explorer: run its cell again.");
    }
  }

  // Ask for what the state names and nobody has computed yet.
  askForMissing() {
    const { state, content } = this.view;
    if (state.second_expression && !this.view.reading(1) && content.live && !this.kernel.busy("read1")) {
      this.ask("read", 1, this.view.asked(1));
    }
    if (!state.struck.length || this.view.strike()) return;
    if (!content.live) {
      state.struck = [];
      this.fail("This page can strike out only one word at a time.");
    } else if (this.kernel.busy("strike0")?.about !== String(state.struck)) {
      this.ask("strike", 0, { ...this.view.asked(0), struck: state.struck });
    }
  }

  answer(message) {
    const waited = this.kernel.receive(message);
    if (!waited) return;
    this.note.textContent = "";
    if (message.error) {
      this.fail(message.error);
      if (message.ask === "strike") this.set({ struck: [] });
      return;
    }
    this.took = waited.took === null ? "" : `Answered in ${Math.round(waited.took)} ms.`;
    if (message.ask === "read") {
      this.choose(message.slot, message.expression, message.model);
    } else {
      this.view.strikes.set(this.view.strikeKey(message.struck, message), message.strike);
      this.build();
      this.say();
    }
  }

  fail(text) {
    this.alert.textContent = text;
    this.alert.hidden = !text;
    if (text) this.note.textContent = "";
  }

  // ---- the page -------------------------------------------------------------------------------------------------

  build(sliding = false) {
    const { view } = this;
    if (!view.reading()) {
      const { expression, model } = view.asked(0);
      if (view.content.live && !this.kernel.busy("read0")) this.choose(0, expression, model);
      this.root.replaceChildren(this.alert, this.note);
      return;
    }
    const focus = this.focusKey();
    const scrolled = this.root.querySelector(".rx-strip")?.scrollLeft ?? 0;
    this.askForMissing();
    this.note.textContent = this.kernel.busy() ? READING : [...remarks(view), this.took].filter(Boolean).join(" ");
    const body = make("div", { className: "rx-body" }, figures(this), wordLists(this));
    body.classList.toggle("rx-comparing", view.comparing);
    this.lower.replaceChildren(...[body, hiding(this), this.under(), this.live].filter(Boolean));
    if (!sliding) {
      const strip = sceneStrip(this);
      const upper = [strip, asking(this), this.alert, controls(this)].filter(Boolean);
      this.root.replaceChildren(...upper, this.lower);
      scrollStrip(strip, scrolled);
    }
    this.drawCell();
    this.restore(focus);
  }

  // What changes with every step of the pointer.
  drawCell() {
    drawCell(this);
    drawBars(this);
    this.line.textContent = reading(this.view);
  }

  say() {
    if (this.view.reading()) this.live.textContent = announcement(this.view);
  }

  // Where the keyboard's focus is, in words that outlive the elements.
  focusKey() {
    const active = this.root.getRootNode().activeElement;
    return active && this.root.contains(active) ? (active.dataset.key ?? `${active.name}=${active.value}`) : null;
  }

  restore(key) {
    if (!key) return;
    const all = [...this.root.querySelectorAll("input, button, select, summary, [tabindex]")];
    const same = all.find((one) => (one.dataset.key ?? `${one.name}=${one.value}`) === key);
    (same ?? all.find((one) => one.checked && key.startsWith(`${one.name}=`)))?.focus({ preventScroll: true });
  }

  // The line that reads the region, what is shown, what it is worth, and the keys.
  under() {
    this.line = make("p", { className: "rx-reading" });
    const about = (head, text) => make("p", { className: "rx-about" }, make("strong", {}, head), text);
    const entries = keyHelp(this.view).flatMap(([key, text]) => [make("dt", {}, key), make("dd", {}, text)]);
    const summary = make("summary", { "data-key": "keys" }, "Keys");
    const help = make("details", { open: this.helpOpen ?? false }, summary, make("dl", {}, ...entries));
    help.addEventListener("toggle", () => (this.helpOpen = help.open));
    const save = make("button", { type: "button", "data-key": "save", onclick: () => this.save() }, "Save this view");
    return make(
      "div",
      { className: "rx-under" },
      this.line,
      about("What is shown. ", recipe(this.view)),
      about("What it is worth. ", worth(this.view)),
      make("div", { className: "rx-foot" }, save, help),
    );
  }

  save() {
    const { scene, state, content } = this.view;
    const { iou, words } = this.view.reading();
    const seen = { iou, sentence: `${verdict(this.view)}. ${reading(this.view)}`, words };
    const sample = { source: scene.source, sample_id: scene.sample_id };
    const finding = { format: content.format, sample, state, seen, note: "" };
    const url = URL.createObjectURL(new Blob([JSON.stringify(finding, null, 1)], { type: "application/json" }));
    make("a", { href: url, download: "finding.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 5000);
  }
}
