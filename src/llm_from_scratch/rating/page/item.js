// One item: its texts and the form of its answer. Texts become text nodes, never markup.

import { createForm } from "./answers.js";
import { make } from "./dom.js";

// named -> "Text 5 of 42"; task: of /room/tasks; start: what the form holds. Returns the form's
// functions, `heading` and `element`.
export function createItem(study, task, named, start, onChange) {
  const heading = make("h2", { id: "place", tabindex: "-1" }, named);
  const pairs = study.design === "pairs";
  const given = task.given.trim()
    ? make("section", { class: "given", "aria-label": "Given" }, make("p", { class: "tag" }, "Given"), body(task.given))
    : null;
  const texts = task.texts.map((text, index) => {
    const name = pairs ? "AB"[index] : "How it goes on";
    return make(
      "section",
      { class: "sheet text", "aria-label": pairs ? `Text ${name}` : name },
      pairs ? null : given,
      make("p", { class: "tag" }, name),
      body(text),
    );
  });
  const form = createForm(study, { ...start, onChange, tag: "questions" });
  const judge = make("form", { id: "judge", class: "judge", "aria-label": "Your answer", novalidate: true }, form.element);
  const element = make(
    "div",
    { class: `item ${study.design}` },
    heading,
    pairs && given ? make("div", { class: "sheet above" }, given) : null,
    make("div", { class: "texts" }, ...texts),
    judge,
  );
  return { ...form, element, heading, judge };
}

const body = (text) => make("p", { class: "body", dir: "auto" }, text.trim() === "" ? make("i", { class: "dim" }, "(nothing)") : text.trim());

// What a practice item's answer is told.
export function feedbackOf(study, feedback, value) {
  const name = (answer) => ({ left: "A", right: "B", tie: "a tie" })[answer] ?? (answer === null ? "cannot judge" : String(answer));
  const rows = Object.entries(feedback.expected).map(([question, expected]) => {
    const right = Array.isArray(expected) ? [...new Set(expected)].join(" to ") : name(expected);
    return make("li", {}, study.design === "pairs" ? "" : make("b", {}, `${question} `), `${right}; yours: ${question in value ? name(value[question]) : "none"}`);
  });
  return make(
    "section",
    { class: "feedback sheet", "aria-label": "Feedback", tabindex: "-1" },
    make("h3", {}, feedback.agrees ? "That is how we see it, too." : "We see it differently."),
    make("p", { dir: "auto" }, feedback.text),
    make("p", { class: "hint" }, "Expected:"),
    make("ul", {}, ...rows),
  );
}
