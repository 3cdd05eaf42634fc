// The widget of Explorer in widget.py, and the script of the pages that export_html writes: Python joins these modules
// into one. Everything is drawn from what was sent once.
import { Panel } from "./panel.js";

function render({ model, el }) {
  const panel = new Panel(model, el);
  return () => panel.remove();
}

export default { render };
