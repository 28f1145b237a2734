// The training of a run while it lasts: its state, its curves, its validations, its samples.
//
// GET /play/runs/NAME/events sends {cut, rows, samples, state}: what is there first, then what
// comes. `cut` takes back the rows and samples of later steps, as a resumed run does.

import { aborted } from "./api.js";
import { drawChart, mark, whole } from "./chart.js";
import { clock, Curves, nearest, pointsOf, rowAt, thinned } from "./curves.js";
import { framed, make } from "./dom.js";

const WATCHED = 4; // kinds of watched texts that have a colour of their own
const SAMPLES = 3; // that are shown at first
const RETRY_SECONDS = 10;
const UNITS = { loss: "nats a token", bits_per_byte: "bits per byte" };

export function mount(root, app) {
  const view = {
    choice: make("select", { id: "live-run" }),
    line: make("p", { class: "live-line", role: "status" }),
    state: make("div", { class: "live-state" }),
    chart: make("div", { class: "live-chart" }),
    table: make("details", { class: "live-table" }),
    samples: make("section", { class: "live-samples", "aria-label": "Samples" }),
  };
  const head = make("div", { class: "row", hidden: true }, make("label", { for: "live-run" }, "Run"), view.choice);
  const body = make("div", { class: "live-body" }, view.state, view.chart, view.table, view.samples);
  root.classList.add("live");
  root.append(head, view.line, body);

  const chart = mountChart(view.chart, () => show());
  let run = null; // what is known of the chosen run; see `fresh`
  let connection = null; // AbortController of its stream

  const show = framed(() => {
    body.hidden = !run?.state;
    if (!run?.state) return;
    view.line.textContent = run.lost ?? "";
    showState(view.state, run, app.runs.length < 2);
    chart.show(run);
    showTable(view.table, run);
    showSamples(view.samples, run, show);
  });

  // The stream is open while this panel is seen, also in a window behind others.
  function follow() {
    head.hidden = app.runs.length < 2;
    view.choice.replaceChildren(...app.runs.map((name) => new Option(name, name, false, name === run?.name)));
    const name = app.runs.includes(run?.name) ? run.name : app.runs[0];
    if (name === undefined) {
      view.line.textContent =
        "No training is followed here. Start this server with --follow and a run folder, or a training with callbacks=live.";
    } else if (app.tab === "training" && (connection === null || name !== run.name)) {
      listen(name);
    }
    body.hidden = !run?.state;
  }

  async function listen(name) {
    connection?.abort();
    connection = new AbortController();
    const { signal } = connection;
    if (run?.name !== name) run = fresh(name);
    view.line.textContent = "Reading the run …";
    const path = `/play/runs/${encodeURIComponent(name)}/events`;
    while (!signal.aborted) {
      try {
        await app.api.stream(path, null, (event) => take(event), { signal });
        lose("The server has ended. To look at the run again: llm-from-scratch serve RUN --follow");
      } catch (error) {
        if (aborted(error)) return;
        lose(run.lost ?? error.message);
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_SECONDS * 1000));
    }
  }

  function lose(line) {
    run.lost = line;
    view.line.textContent = line;
    show();
  }

  function take({ cut, rows, samples, state }) {
    run.lost = null;
    if (cut !== undefined) {
      run.curves.cut(cut);
      run.samples = run.samples.filter((sample) => sample.step <= cut);
    }
    for (const row of rows) run.curves.add(row);
    for (const sample of samples) {
      run.samples = [...run.samples.filter((one) => one.step !== sample.step), sample];
    }
    const validated = rows.findLast((row) => row.split === "val");
    if (validated && run.state) app.say(`Step ${whole(validated.step)}: validation loss ${figure(validated.loss)}`);
    run.state = state;
    refresh();
    show();
  }

  // The head of the page shows the step of a model: a newer one is asked for, after a text.
  function refresh() {
    const known = app.models.find((model) => model.name === run?.name)?.step ?? null;
    const now = run?.state?.model ?? null;
    if (app.busy || now === null || now === known || now === run.asked) return;
    run.asked = now;
    app.follow(app.refresh);
  }

  view.choice.addEventListener("change", () => listen(view.choice.value));
  app.on("models", follow);
  app.on("busy", refresh);
  app.on("tab", () => {
    if (app.tab === "training") {
      follow();
    } else {
      connection?.abort();
      connection = null;
    }
  });
  follow();
}

// What is known of a run: its curves, samples from the first to the last, and state.
function fresh(name) {
  return { name, curves: new Curves(), samples: [], state: null, lost: null, asked: null, all: false };
}

const figure = (value) => (Number.isFinite(value) ? value.toFixed(4) : "not a number");

// ------------------------------------------------------------------------------------------ state
function showState(root, { name, state, curves, lost }, alone) {
  const [word, kind] = wordOf(state, lost);
  const facts = [["Step", state.max_steps === null ? whole(state.step) : `${whole(state.step)} of ${whole(state.max_steps)}`]];
  if (state.seconds_left !== null && kind === "running") facts.push(["Left", `about ${clock(state.seconds_left)}`]);
  if (state.tokens_per_second !== null) facts.push(["Speed", `${whole(state.tokens_per_second)} tokens/s`]);
  if (state.tokens_seen !== null) facts.push(["Read", `${short(state.tokens_seen)} tokens`]);
  const best = curves.best();
  if (best) facts.push(["Best validation", `${figure(best.loss)} at step ${whole(best.step)}`]);
  if (state.model !== null && state.model !== undefined) facts.push(["Model on this page", `of step ${whole(state.model)}`]);
  const bar = make("progress", { max: state.max_steps ?? 1, value: state.step, "aria-label": "Steps made" });
  root.replaceChildren(
    make("p", { class: `live-word ${kind}` }, make("span", { class: "live-dot", "aria-hidden": "true" }), word, alone ? make("span", { class: "dim" }, name) : null),
    state.max_steps === null ? "" : bar,
    make("dl", { class: "live-facts" }, ...facts.map(([term, text]) => make("div", {}, make("dt", {}, term), make("dd", {}, text)))),
  );
}

function wordOf(state, lost) {
  if (lost && state.running) return ["Not connected", "lost"];
  if (!state.there) return ["The folder is gone", "lost"];
  if (state.running) return ["Training", "running"];
  if (state.ended) return ["Ended", "ended"];
  return [state.step > 0 ? "Stopped" : "Not training", "stopped"];
}

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const short = (number) => compact.format(number).replace(/([KMBT])$/, " $1");

// ------------------------------------------------------------------------------------------ curves
// The curves of a run in the order of their labels: {label, kind, split, key}.
function kindsOf(curves, key) {
  const kinds = [
    { label: "training", kind: "train", split: "train" },
    { label: "validation", kind: "val", split: "val" },
    { label: "unaveraged", kind: "raw", split: "val_raw" },
    ...curves.watched().map((name, place) => ({
      label: name.length > 12 ? `${name.slice(0, 11)}…` : name,
      kind: `watched w${place % WATCHED}`,
      split: `val/${name}`,
    })),
  ];
  return kinds.filter(({ split }) => curves.rows(split).some((row) => Number.isFinite(row[key])));
}

function mountChart(root, changed) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("role", "img");
  const title = make("h2", { id: "live-title" }, "Loss");
  svg.setAttribute("aria-labelledby", "live-title live-read");
  const read = make("output", { class: "live-read", id: "live-read", for: "live-point" });
  const point = make("input", { type: "range", id: "live-point", min: 0, step: 1, "aria-label": "Step to read" });
  const units = choice("live-unit", "Unit", [["loss", "Nats a token"], ["bits_per_byte", "Bits per byte"]]);
  const range = choice("live-range", "Steps", [["all", "All steps"], ["late", "Last half"]]);
  const none = make("p", { class: "hint" });
  const frame = make("div", { class: "live-frame" }, svg, point);
  root.append(make("div", { class: "live-bar" }, title, units.element, range.element), none, frame, read);

  let at = null; // the step that is read; null: the newest
  let run = null;
  let drawn = null; // {scales, steps, kinds}

  function show(next) {
    run = next ?? run;
    if (!run) return;
    const { curves } = run;
    const hasBits = curves.rows("val").some((row) => Number.isFinite(row.bits_per_byte));
    units.element.hidden = !hasBits;
    const key = hasBits ? units.value() : "loss";
    const kinds = kindsOf(curves, key);
    const steps = curves.steps(kinds.map(({ split }) => split));
    const empty = steps.length === 0;
    for (const part of [frame, read, range.element]) part.hidden = empty;
    none.textContent = empty ? emptyLine(run, key) : "";
    none.hidden = !empty;
    drawn = null;
    if (empty || root.clientWidth === 0) return;
    const last = steps.at(-1);
    const from = range.value() === "late" ? steps[0] + (last - steps[0]) / 2 : steps[0];
    const width = root.clientWidth;
    const most = Math.max(60, Math.floor(width / 2));
    const shown = kinds.map((one) => ({
      ...one,
      points: thinned(pointsOf(curves.rows(one.split), key, from, last), most),
      dots: one.kind !== "train",
    })).filter(({ points }) => points.some(({ value }) => value !== null));
    const best = curves.best();
    const pair = curves.rows("val").some((row) => "margin" in row) || curves.rows("train").some((row) => "margin" in row);
    const unit = pair ? "nats a pair" : UNITS[key];
    const scales = drawChart(svg, {
      curves: shown,
      unit,
      size: { width, height: Math.round(Math.min(320, Math.max(220, width * 0.6))) },
      best: best && best.step >= from && Number.isFinite(best[key]) ? { step: best.step, value: best[key] } : null,
    });
    drawn = { scales, steps: steps.filter((step) => step >= from), kinds: shown, key, unit };
    frame.style.setProperty("--left", `${scales.left}px`);
    frame.style.setProperty("--right", `${width - scales.right}px`);
    showPoint();
  }

  // The values at the step that is read: a line down the chart, its points, a sentence.
  function showPoint() {
    const { scales, steps, kinds, key, unit } = drawn;
    const place = at === null ? steps.length - 1 : nearest(steps, at);
    const step = steps[place];
    point.max = steps.length - 1;
    point.value = place;
    const rows = kinds.map((one) => [one, rowAt(run.curves.rows(one.split), step)]);
    const values = rows.filter(([, row]) => row !== null && Number.isFinite(row[key]));
    const parts = values.map(([{ split }, row]) => {
      const older = row.step === step ? "" : ` (of step ${whole(row.step)})`;
      return [nameOf(split), `${row[key].toFixed(4)}${older}`];
    });
    read.replaceChildren(
      make("strong", {}, `Step ${whole(step)}`),
      ...parts.flatMap(([name, value], index) => [
        make("span", { class: `live-value ${kindClass(values[index][0].kind)}` }, make("span", { class: "dim" }, `${name} `), value),
      ]),
    );
    const words = parts.map(([name, value]) => `${name} ${value}`).join(", ");
    point.setAttribute("aria-valuetext", `Step ${whole(step)}: ${words} ${unit}`);
    svg.querySelector(".reading")?.remove();
    const group = document.createElementNS("http://www.w3.org/2000/svg", "g");
    group.setAttribute("class", "reading");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    const x = scales.x(step).toFixed(1);
    for (const [name, value] of [["x1", x], ["x2", x], ["y1", scales.top], ["y2", scales.bottom]]) line.setAttribute(name, value);
    group.append(line);
    for (const [one, row] of values) if (row.step === step) group.append(mark(one.kind, scales.x(step), scales.y(row[key])));
    group.hidden = at === null;
    group.classList.toggle("newest", at === null);
    svg.append(group);
  }

  const readAt = (step) => {
    at = step;
    if (drawn) showPoint();
  };
  svg.addEventListener("pointermove", (event) => {
    if (drawn) readAt(drawn.scales.step(event.clientX - svg.getBoundingClientRect().left));
  });
  svg.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") readAt(null);
  });
  point.addEventListener("input", () => {
    if (drawn) readAt(Number(point.value) === drawn.steps.length - 1 ? null : drawn.steps[Number(point.value)]);
  });
  units.element.addEventListener("change", changed);
  range.element.addEventListener("change", changed);
  new ResizeObserver(framed(() => show(null))).observe(root);
  return { show };
}

const kindClass = (kind) => kind.split(" ").at(-1);

function nameOf(split) {
  const names = { train: "training", val: "validation", val_raw: "validation, unaveraged" };
  return names[split] ?? split.slice(4);
}

function emptyLine({ state, curves }, key) {
  if (key !== "loss" && curves.rows("train").length > 0) return "Bits per byte come with the first validation.";
  return state.running ? "The first point comes within a few steps." : "This run has no points yet.";
}

// Two choices side by side.
function choice(name, legend, values) {
  const inputs = values.map(([value], place) =>
    make("input", { type: "radio", name, value, checked: place === 0 }),
  );
  const labels = values.map(([, text], place) => make("label", {}, inputs[place], make("span", {}, text)));
  const element = make("fieldset", { class: "switch" }, make("legend", { class: "unseen" }, legend), ...labels);
  return { element, value: () => inputs.find((input) => input.checked).value };
}

// ------------------------------------------------------------------------------------------- table
const COLUMNS = [
  ["loss", "Loss", figure],
  ["bits_per_byte", "Bits per byte", figure],
  ["perplexity", "Perplexity", (value) => value.toPrecision(4)],
  ["accuracy", "Pairs right", (value) => `${(100 * value).toFixed(1)} %`],
  ["margin", "Margin", (value) => value.toFixed(3)],
];

function showTable(details, { curves }) {
  const rows = curves.rows("val").toReversed();
  details.hidden = rows.length === 0;
  if (details.hidden) return;
  const best = curves.best();
  const columns = COLUMNS.filter(([key]) => rows.some((row) => Number.isFinite(row[key])));
  const watched = curves.watched();
  const heads = ["Step", ...columns.map(([, head]) => head), ...watched.map((name) => `Loss on ${name}`)];
  const cell = (text) => make("td", { class: "number" }, text);
  const lines = rows.map((row) =>
    make(
      "tr",
      { class: row === best ? "best" : null },
      make("th", { scope: "row", class: "number" }, whole(row.step) + (row === best ? " (best)" : "")),
      ...columns.map(([key, , write]) => cell(Number.isFinite(row[key]) ? write(row[key]) : "–")),
      ...watched.map((name) => {
        const other = rowAt(curves.rows(`val/${name}`), row.step);
        return cell(other?.step === row.step && Number.isFinite(other.loss) ? figure(other.loss) : "–");
      }),
    ),
  );
  const table = make(
    "table",
    {},
    make("caption", { class: "unseen" }, "Validations, the newest first"),
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", class: "number" }, head)))),
    make("tbody", {}, ...lines),
  );
  const place = details.querySelector(".live-scroll")?.scrollTop ?? 0;
  const scroll = make("div", { class: "live-scroll", tabindex: "0", role: "region", "aria-label": "Validations" }, table);
  const summary = details.querySelector("summary") ?? make("summary");
  summary.textContent = `${whole(rows.length)} ${rows.length === 1 ? "validation" : "validations"} as a table`;
  details.replaceChildren(summary, scroll);
  scroll.scrollTop = place;
}

// ----------------------------------------------------------------------------------------- samples
function showSamples(root, run, changed) {
  const newest = run.samples.toSorted((a, b) => b.step - a.step);
  const shown = run.all ? newest : newest.slice(0, SAMPLES);
  root.hidden = shown.length === 0;
  // What is there stays in place, so that reading and a selection are not disturbed.
  const old = new Map([...root.querySelectorAll("article")].map((article) => [article.dataset.key, article]));
  const articles = shown.map(({ step, text }) => {
    const key = `${step} ${text}`;
    const article = old.get(key) ?? make("article", {}, make("h3", {}, `Step ${whole(step)}`), make("p", { dir: "auto" }, text));
    article.dataset.key = key;
    return article;
  });
  const more = newest.length > shown.length
    ? make("button", { type: "button", onclick: () => { run.all = true; changed(); } }, `${newest.length - shown.length} earlier samples`)
    : null;
  const title = root.querySelector("h2") ?? make("h2", {}, "Samples");
  const parts = [title, ...articles, ...(more ? [more] : [])];
  const same = parts.length === root.children.length && parts.every((part, place) => part === root.children[place]);
  if (!same) root.replaceChildren(...parts);
}
