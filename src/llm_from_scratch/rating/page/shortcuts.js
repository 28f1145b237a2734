// The keys of the page, wherever the focus is: 1 to 5, 0, T, arrows, Enter, B, ?
//
// A key without a modifier can be a nuisance to those who speak their commands: the form of the keys
// turns them off (WCAG 2.1.4), and native controls are left their own keys.

import { make } from "./dom.js";

const byId = (id) => document.getElementById(id);
const ROWS = {
  scales: [
    ["1 … 5", "answers the question with the focus, or the first open one, and goes on to the next"],
    ["0", "cannot judge"],
    ["← →", "another number, on a question"],
  ],
  pairs: [
    ["← or 1", "A, the text on the left or above"],
    ["→ or 2", "B, the text on the right or below"],
    ["T", "a tie"],
    ["0", "cannot judge"],
  ],
};
const BOTH = [
  ["Enter", "saves and goes on"],
  ["Ctrl Enter", "the same, in a comment"],
  ["B", "back"],
  ["?", "these keys"],
];

export const rowsOf = (study) => [...ROWS[study.design].filter(([key]) => key !== "T" || study.ties), ...BOTH];

export function keyTable(study) {
  const rows = rowsOf(study).map(([key, what]) => make("tr", {}, make("th", { scope: "row" }, make("kbd", {}, key)), make("td", {}, what)));
  return make("table", { class: "keytable" }, make("tbody", {}, ...rows));
}

export function mountKeys(room, { save, back }) {
  const open = () => {
    byId("keylist").replaceChildren(keyTable(room.study));
    byId("keys").showModal();
  };
  byId("help").addEventListener("click", open);
  document.addEventListener("keydown", (event) => {
    const target = event.target;
    if (event.defaultPrevented || event.isComposing || document.querySelector("dialog[open]")) return;
    const writes = target.matches("textarea, select, input:not([type=radio])");
    if (event.key === "Enter" && event.ctrlKey && room.view) return done(event, save);
    if (event.ctrlKey || event.metaKey || event.altKey || writes || room.view === null) return;
    const presses = target.matches("button, a, summary"); // Enter is their own
    if (event.key === "Enter" && !presses && !room.view.isDone && !event.repeat) return done(event, save);
    if (!byId("single").checked || event.repeat) return;
    if (event.key === "?") return done(event, open);
    if (event.key === "b" || event.key === "B") return done(event, back);
    if (!room.view.isDone && !room.busy && room.view.press(event.key)) event.preventDefault();
  });
}

function done(event, work) {
  event.preventDefault();
  work();
}
