// The owner's page: progress, links to hand out, the end of the study, and only then results.

import { createApi, secretOfAddress, showForm } from "./ask.js";
import { make } from "./dom.js";
import { showResults } from "./results.js";

const byId = (id) => document.getElementById(id);
const root = byId("room");
const api = createApi(secretOfAddress());
const LOOK = 5000; // milliseconds between two looks at the progress
const problem = (line) => (byId("problem").textContent = line);

async function start() {
  addEventListener("hashchange", () => location.reload());
  if (secretOfAddress() === "") return askForToken("");
  let found;
  try {
    found = { study: await api.get("/owner/study"), codes: (await api.get("/owner/codes")).codes };
  } catch (error) {
    if (error.status === 401) return askForToken(error.message);
    problem(`${error.message} Trying again …`);
    return setTimeout(() => problem("") || start(), 3000);
  }
  show(found);
}

function askForToken(wrong) {
  showForm(root, {
    title: "The owner’s token",
    hint: "It is in the file owner_token of the study’s folder. Raters have no use for this page.",
    label: "Token",
    wrong,
  });
}

function show({ study, codes }) {
  document.title = `${study.title} · Owner`;
  byId("title").replaceChildren(study.title, " ", make("span", {}, "owner"));
  const state = make("p", { class: "notice" });
  const rows = make("tbody");
  const results = make("section", { class: "sheet part", "aria-label": "Results", hidden: true });
  const base = make("input", { id: "base", spellcheck: "false", autocomplete: "off" });
  base.value = location.origin;
  base.addEventListener("input", () => draw());
  const local = make("p", { class: "hint" });
  const count = make("input", { id: "count", type: "number", min: "1", max: "1000", value: "1" });
  const invite = make(
    "form",
    { class: "row" },
    make("label", { for: "count" }, "More raters"),
    count,
    make("button", {}, "Make codes"),
  );
  invite.addEventListener("submit", (event) => {
    event.preventDefault();
    work(async () => {
      await api.post("/owner/invitations", { count: Number(count.value) });
      [study, { codes }] = await Promise.all([api.get("/owner/study"), api.get("/owner/codes")]);
      say(`Codes made: ${count.value}`);
    });
  });
  const end = endOf(async () => {
    study = await api.post("/owner/close", {});
    say("The study is closed.");
  });

  const ending = make(
    "section",
    { class: "sheet part", "aria-label": "The end" },
    make("h2", {}, "The end"),
    make("p", { class: "hint" }, "Nothing tells which system wrote what until the study is closed, not even this page."),
    end,
  );

  async function work(change) {
    try {
      problem("");
      await change();
      await draw();
    } catch (error) {
      problem(error.message);
    }
  }

  function endOf(close) {
    const sure = make("input", { type: "checkbox", id: "sure" });
    const button = make("button", { disabled: true }, "Close the study");
    sure.addEventListener("change", () => (button.disabled = !sure.checked));
    const form = make(
      "form",
      { class: "end" },
      make("label", { class: "check" }, sure, " Close it for ever: no more answers, and the results may be seen"),
      make("div", { class: "row" }, button),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      work(close);
    });
    return form;
  }

  function linkCell(code) {
    const link = `${base.value.trim().replace(/\/+$/, "")}/#${code}`;
    const field = make("input", { class: "link", readonly: true, "aria-label": `Link of …${code.slice(-4)}`, value: link });
    field.addEventListener("focus", () => field.select());
    const button = make("button", { type: "button", class: "small", "aria-label": `Copy the link of …${code.slice(-4)}` }, "Copy");
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(link); // on safe connections alone
      } catch {
        field.select();
        document.execCommand("copy");
      }
      say(`The link of …${code.slice(-4)} is copied.`);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
    return make("div", { class: "linkcell" }, field, button);
  }

  async function draw() {
    const people = study.raters.filter((rater) => rater.kind === "person");
    const answered = people.reduce((sum, rater) => sum + rater.answered, 0);
    const finished = people.filter((rater) => rater.finished !== null).length;
    const total = people.reduce((sum, rater) => sum + rater.total, 0);
    state.textContent = `${study.closed ? `Closed since ${time(study.closed)}. ` : ""}${answered} of ${total} answers of those who have begun; ${finished} of ${people.length} raters have finished.`;
    let person = 0;
    rows.replaceChildren(
      ...study.raters.map((rater) => {
        const code = rater.kind === "person" ? codes[person++] : undefined;
        return make(
          "tr",
          {},
          make("th", { scope: "row" }, `…${rater.code}`, rater.name ? make("span", { class: "dim" }, ` ${rater.name} (${rater.kind})`) : null),
          make(
            "td",
            {},
            make("div", { class: "done" }, make("progress", { max: Math.max(rater.total, 1), value: rater.answered, "aria-label": `Answers of …${rater.code}` }), make("span", { class: "number" }, rater.total ? `${rater.answered} of ${rater.total}` : "not begun")),
          ),
          make("td", { class: "dim" }, rater.last ? time(rater.last) : ""),
          make("td", {}, code && !study.closed ? linkCell(code) : null),
        );
      }),
    );
    const loopback = /^https?:\/\/(localhost|127\.|\[::1\])/.test(base.value);
    local.textContent = loopback
      ? "These links work on this machine alone. For others: serve with --host 0.0.0.0 and write the address here that they can reach."
      : "A link is a rater’s own: hand it to nobody else.";
    invite.hidden = ending.hidden = base.parentElement.hidden = local.hidden = study.closed !== null;
    if (study.closed && results.hidden) {
      results.hidden = false;
      showResults(results, await api.get("/owner/results"));
    }
  }

  root.replaceChildren(
    make(
      "div",
      { class: "owner" },
      state,
      make(
        "section",
        { class: "sheet part", "aria-label": "Raters" },
        make("h2", {}, "Raters"),
        make("div", { class: "row address" }, make("label", { for: "base" }, "Address for raters"), base),
        local,
        make(
          "div",
          { class: "scroll", tabindex: "0", role: "region", "aria-label": "Progress by rater" },
          make("table", {}, make("thead", {}, make("tr", {}, ...["Rater", "Answered", "Last answer", "Link"].map((name) => make("th", { scope: "col" }, name)))), rows),
        ),
        invite,
      ),
      ending,
      results,
    ),
  );
  draw().catch((error) => problem(error.message));
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const news = await api.get("/owner/study");
      if (JSON.stringify(news) !== JSON.stringify(study) && !rows.contains(document.activeElement)) {
        study = news;
        codes = (await api.get("/owner/codes")).codes;
        await draw();
      }
      problem("");
    } catch (error) {
      problem(error.message);
    }
  }, LOOK);
}

const say = (line) => (byId("said").textContent = line);
const time = (text) => new Date(text).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });

start();
