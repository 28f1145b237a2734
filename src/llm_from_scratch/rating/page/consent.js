// What a rater agrees to, questions about him that he need not answer, and how it works.

import { make } from "./dom.js";
import { keyTable } from "./shortcuts.js";

export function showConsent(root, study, agree) {
  const fields = study.background.map((question, index) => {
    const select = make(
      "select",
      { id: `background-${index}`, name: question.name },
      make("option", { value: "" }, "No answer"),
      ...question.options.map((option) => make("option", { value: option }, option)),
    );
    return make("div", { class: "asked" }, make("label", { for: select.id }, question.text), select);
  });
  const wrong = make("p", { class: "wrong", role: "alert" });
  const button = make("button", { class: "primary", id: "agree" }, "I agree: begin");
  const form = make(
    "form",
    { class: "plain sheet" },
    make("h2", { id: "place", tabindex: "-1" }, "Before you begin"),
    ...study.consent.split(/\n\s*\n/).map((paragraph) => make("p", { class: "body", dir: "auto" }, paragraph.trim())),
    fields.length > 0 ? make("h3", {}, "About you, if you like") : null,
    ...fields,
    make("h3", {}, "How it works"),
    make(
      "p",
      {},
      study.design === "pairs"
        ? "You see two continuations of one text and choose the better one."
        : "You see one text at a time and answer each question about it with a number from 1 to 5.",
      study.practice ? " The first items are practice: they tell you how others would judge." : "",
      " You can go back and change an answer, and stop and come back by the same link: what is saved stays.",
    ),
    make("details", {}, make("summary", {}, "It goes quickly with the keyboard"), keyTable(study)),
    wrong,
    make("div", { class: "row" }, button),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    wrong.textContent = "";
    const given = [...form.querySelectorAll("select")].filter((select) => select.value !== "");
    try {
      await agree(Object.fromEntries(given.map((select) => [select.name, select.value])));
    } catch (error) {
      wrong.textContent = error.message;
      button.disabled = false;
    }
  });
  root.replaceChildren(form);
  form.querySelector("h2").focus({ preventScroll: true });
}
