// Results of a closed study: plain counts, and the comments. The report has the rest.

import { make } from "./dom.js";

export function showResults(root, { design, systems, comments }) {
  const names = Object.keys(systems);
  const questions = names.length > 0 && design === "scales" ? Object.keys(systems[names[0]]) : [];
  const columns = design === "scales" ? questions.map((question) => `${question}: mean (median) of n`) : ["Wins", "Ties", "Losses"];
  const cells = (found) =>
    design === "scales"
      ? questions.map((question) => score(found[question]))
      : [found.wins, found.ties, found.losses].map(String);
  const rows = names.map((name) =>
    make("tr", {}, make("th", { scope: "row" }, name), ...cells(systems[name]).map((cell) => make("td", { class: "number" }, cell))),
  );
  root.replaceChildren(
    make("h2", {}, "What the systems got"),
    make(
      "div",
      { class: "scroll", tabindex: "0", role: "region", "aria-label": "Answers by system" },
      make("table", {}, make("thead", {}, make("tr", {}, ...["System", ...columns].map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...rows)),
    ),
    make(
      "p",
      { class: "hint" },
      "Answers of people, repetitions not counted. Whether a difference is more than chance, how far raters agree and much else: ",
      make("code", {}, "llm-from-scratch rate report STUDY"),
    ),
    comments.length > 0 ? make("h2", {}, "Comments") : null,
    ...comments.map(({ systems: about, text }) =>
      make("blockquote", { class: "comment" }, make("p", { class: "body", dir: "auto" }, text), make("footer", { class: "dim" }, about.join(" or "))),
    ),
  );
}

function score({ count, mean, median }) {
  return count === 0 ? "none" : `${mean.toFixed(2)} (${median}) of ${count}`;
}
