// Elements of the page.

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && name !== "role") element[name] = value;
    else if (value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// Radio buttons side by side; `options` are {value: text}.
export function segments(legend, name, options, chosen, choose) {
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

// Inside JupyterLab a form does not submit itself on Enter.
export function submitOnEnter(event) {
  if (event.key !== "Enter" || event.isComposing) return;
  event.preventDefault();
  event.target.form.requestSubmit();
}
