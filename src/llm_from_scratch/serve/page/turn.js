// One turn of the conversation (chat.js): what the reader said, and the answer as tokens.

import { make } from "./dom.js";
import { tokenView } from "./view.js";

// first() is that of view.js. attend(index): the focus comes into this answer; goOn(index, at,
// alternative): the reader wants the answer to go on, from another alternative or from its end;
// again(index): another answer. Returns {element, show(turn, last)}.
export function createTurn(app, { index, first, attend, goOn, again }) {
  const button = (label, work) => make("button", { type: "button", class: "quiet small", onclick: work }, label);
  const user = make("p", { class: "said", dir: "auto" });
  const view = tokenView(app, {
    label: "The answer, token by token",
    choose: (at, alternative) => goOn(index, at, alternative),
    first,
  });
  const more = button("Continue", () => goOn(index));
  const another = button("Another answer", () => again(index));
  another.title = "Answers again, from the next seed";
  const buttons = make("div", { class: "row" }, more, another);
  const element = make(
    "li",
    {},
    make("h3", { class: "unseen" }, "You"),
    user,
    make("h3", { class: "unseen" }, "The model"),
    make("div", { class: "answer" }, view.element, buttons),
  );
  // Before the view hears of the focus: its token is then one of those that the panels show.
  view.element.addEventListener("focusin", () => attend(index), { capture: true });

  function show(turn, last) {
    user.textContent = turn.user;
    view.update(turn.answer);
    element.classList.toggle("waits", turn.answer.length === 0 && app.busy);
    buttons.hidden = !last || app.busy;
    more.hidden = turn.finish === "stop";
  }

  return { element, show };
}
