// The form of an answer: questions from 1 to 5, or the choice between two texts.
//
//   createForm(study, {answer, comment, onChange}) -> {element, value(), comment(), missing(), press(key), focus()}
//
// value() is as the server wants it: question -> 1 to 5 or null (cannot judge), or {preference}; what
// is not answered is left out. missing() is the first question without an answer, or null. press(key)
// -> whether the key answered something. Native radio buttons: arrows, labels and groups are those of
// every form.

import { make } from "./dom.js";

const SCORES = [1, 2, 3, 4, 5];
const opened = new Set(); // rubrics that stay open from item to item

export function createForm(study, { answer, comment, onChange, tag }) {
  const questions = study.design === "scales" ? study.questions.map(scale) : [preference(study)];
  for (const question of questions) {
    if (answer && question.name in answer) question.set(answer[question.name]);
    question.element.addEventListener("change", () => {
      question.show();
      onChange();
    });
  }
  const field = make("textarea", { id: "comment", rows: "2", maxlength: "2000" });
  field.value = comment;
  field.addEventListener("input", onChange);
  const remark = make(
    "details",
    { class: "remark", open: comment !== "" },
    make("summary", {}, "Comment"),
    make("label", { for: "comment", class: "hint" }, "Anything that should be known about this item; you need not write one."),
    field,
  );
  const missing = () => questions.find((question) => question.value() === undefined) ?? null;
  const element = make("div", { class: tag }, ...questions.map((question) => question.element), remark);

  return {
    element,
    missing,
    comment: () => field.value,
    value: () =>
      Object.fromEntries(questions.filter((one) => one.value() !== undefined).map((one) => [one.name, one.value()])),
    focus: () => (missing() ?? questions[0]).focus(),
    press(key) {
      const current = questions.find((one) => one.element.contains(document.activeElement)) ?? missing() ?? questions[0];
      const value = current.keys(key);
      if (value === undefined) return false;
      current.set(value);
      onChange();
      (missing() ?? questions[questions.indexOf(current) + 1] ?? current).focus();
      return true;
    },
  };
}

// A group of radio buttons. Choices: [{value, said, seen}]; null stands for "cannot judge".
function group(name, legend, choices, kind) {
  const inputs = choices.map(({ value }, index) =>
    make("input", { type: "radio", name: `answer-${name}`, value: String(value), id: `answer-${name}-${index}` }),
  );
  const labels = choices.map(({ said, seen, kind }, index) =>
    make("label", { class: kind }, inputs[index], make("span", { "aria-hidden": "true" }, ...seen), make("span", { class: "unseen" }, said)),
  );
  const row = make("div", { class: "choices" }, ...labels);
  const element = make("fieldset", { class: `question ${kind}` }, make("legend", {}, ...legend), row);
  const chosen = () => inputs.findIndex((input) => input.checked);
  return {
    name,
    element,
    inputs,
    row,
    value: () => (chosen() < 0 ? undefined : choices[chosen()].value),
    focus: () => inputs[Math.max(chosen(), 0)].focus(),
    set(value) {
      const index = choices.findIndex((choice) => choice.value === value);
      if (index >= 0) inputs[index].checked = true;
      this.show();
    },
    show() {},
  };
}

function scale(question) {
  const choices = [
    ...SCORES.map((score) => ({ value: score, said: `${score}: ${question.levels[score]}`, seen: [String(score)] })),
    { value: null, said: "Cannot judge", seen: ["Cannot judge"], kind: "cannot" },
  ];
  const found = group(question.name, [question.name], choices, "scale");
  const level = make("p", { class: "level hint", "aria-hidden": "true" });
  const tell = (score) => {
    if (score === null) level.textContent = "It will count as no answer.";
    else {
      const shown = score === undefined ? [1, 5] : [score]; // the ends, until there is an answer
      level.replaceChildren(...shown.map((one) => make("span", {}, make("b", {}, String(one)), ` ${question.levels[one]}`)));
    }
  };
  found.show = () => tell(found.value());
  found.keys = (key) => (key === "0" ? null : SCORES.includes(Number(key)) && key.length === 1 ? Number(key) : undefined);
  found.inputs.forEach((input, index) => {
    input.parentElement.addEventListener("pointerenter", () => tell(choices[index].value));
    input.parentElement.addEventListener("pointerleave", found.show);
  });
  found.row.before(make("p", { class: "ask" }, question.text));
  found.element.append(level, rubric(question));
  found.show();
  return found;
}

function rubric(question) {
  const rows = SCORES.flatMap((score) => [
    make("dt", {}, String(score)),
    make(
      "dd",
      {},
      question.levels[score] ?? "",
      question.anchors[score] ? make("blockquote", { class: "example", dir: "auto" }, question.anchors[score]) : null,
    ),
  ]);
  const examples = Object.keys(question.anchors).length > 0;
  const element = make(
    "details",
    { class: "rubric", open: opened.has(question.name) },
    make("summary", {}, examples ? "What 1 to 5 mean, with examples" : "What 1 to 5 mean"),
    examples && question.given ? make("p", { class: "hint" }, "The examples continue: ", make("q", {}, question.given)) : null,
    make("dl", {}, ...rows),
  );
  element.addEventListener("toggle", () => opened[element.open ? "add" : "delete"](question.name));
  return element;
}

function preference(study) {
  const choices = [
    { value: "left", said: "A, the first text", seen: [make("kbd", {}, "←"), "A"] },
    ...(study.ties ? [{ value: "tie", said: "Both are as good", seen: [make("kbd", {}, "T"), "Tie"] }] : []),
    { value: "right", said: "B, the second text", seen: ["B", make("kbd", {}, "→")] },
    { value: null, said: "Cannot judge", seen: [make("kbd", {}, "0"), "Cannot judge"], kind: "cannot" },
  ];
  const found = group("preference", [study.pair_question], choices, "pair");
  const keys = { ArrowLeft: "left", 1: "left", ArrowRight: "right", 2: "right", 0: null, ...(study.ties ? { t: "tie", T: "tie" } : {}) };
  found.keys = (key) => keys[key];
  return found;
}
