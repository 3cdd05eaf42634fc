// The keyboard.
import { clamp } from "./numbers.js";

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

export function onKey(panel, event) {
  const { target, key } = event;
  const { state } = panel.view;
  const typing = target.matches("input:not([type=radio]), select, textarea");
  const onStage = target.classList.contains("rx-stage");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  // JupyterLab would take Enter and the arrows of a radio button for its cells; Shift-Enter may run the cell.
  if (!(event.shiftKey && key === "Enter")) event.stopPropagation();
  if ((typing && key !== "Escape") || !panel.view.reading()) return;
  if (STEPS[key] && onStage) moveCell(panel, ...STEPS[key]);
  else if (key === "Enter" && onStage) panel.set({ locked: !state.locked });
  else if (key === "[" || key === "]") stepOn(panel, key === "]" ? 1 : -1);
  else if (key === "a") panel.toggleStrike(state.word);
  else if (key === "h" && panel.view.guesses) panel.set({ guessing: !state.guessing });
  else if (key === "Escape") panel.set({ locked: false, struck: [], guessing: false });
  else return;
  event.preventDefault();
}

function moveCell(panel, rows, columns) {
  const { h, w } = panel.view.grid();
  const [row, column] = panel.view.cell();
  panel.set({ cell: [clamp(row + rows, h), clamp(column + columns, w)] }, { cellOnly: true });
}

// The next step of the centre, or else the next level.
function stepOn(panel, by) {
  const { view } = panel;
  if (view.state.layer === "centre" && view.frame().centre) {
    const { shape, step } = view.cosines();
    panel.set({ step: clamp(step + by, shape[0]) });
    return;
  }
  const levels = Object.keys(view.frame().levels);
  panel.set({ level: levels[clamp(levels.indexOf(view.state.level) + by, levels.length)] ?? view.state.level });
}
