// Questions to the kernel and their answers: of two questions for one place only the newer one counts.

export class Kernel {
  constructor(model, client) {
    this.model = model;
    this.client = client;
    this.number = 0;
    this.waiting = {}; // the newest question for each place
  }

  // Whether anything, or something for a place such as "read0", is still to be answered.
  busy(place = null) {
    return place ? this.waiting[place] : Object.keys(this.waiting).length > 0;
  }

  // Whether it could be sent; `about` distinguishes questions for one place, `timed` measures the answer's time.
  ask(what, slot, request, { about, timed }) {
    this.number += 1;
    const place = `${what}${slot}`;
    this.waiting[place] = { number: this.number, since: timed ? performance.now() : null, about };
    try {
      this.model.send({ ask: what, slot, number: this.number, client: this.client, ...request });
    } catch {
      delete this.waiting[place]; // the kernel was restarted
      return false;
    }
    return true;
  }

  // {took}, milliseconds or null, of an answer that somebody waits for; else null.
  receive({ ask, slot, number, client }) {
    const place = `${ask}${slot}`;
    if (client !== this.client || this.waiting[place]?.number !== number) return null;
    const { since } = this.waiting[place];
    this.forget(place);
    return { took: since === null ? null : performance.now() - since };
  }

  forget(place) {
    delete this.waiting[place];
  }
}

// Stands in for the kernel's model on an exported page.
export class StillModel {
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
