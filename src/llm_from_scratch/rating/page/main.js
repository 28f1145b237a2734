// A rater's page: code -> consent -> items, one at a time -> thanks.
//
// An answer is shown as saved when the server has confirmed it, which it does after its commit. Until
// then it is kept in this browser and sent again, with the same key: the server keeps one of each.

import { createApi, secretOfAddress, showForm } from "./ask.js";
import { showConsent } from "./consent.js";
import { make } from "./dom.js";
import { createItem, feedbackOf } from "./item.js";
import * as keep from "./keep.js";
import { mountKeys } from "./shortcuts.js";

const byId = (id) => document.getElementById(id);
const root = byId("room");
const RETRY = [500, 8000]; // milliseconds between tries: at first, at most
const api = createApi(secretOfAddress());
const texts = new Map(); // task id -> promise of its texts; the next one is fetched ahead
const room = { study: null, at: 0, view: null, busy: false };

const tasks = () => room.study.tasks;
const current = () => tasks()[room.at];
const frontier = () => {
  const open = tasks().findIndex((task) => task.answer === null);
  return open < 0 ? tasks().length : open;
};
const say = (line) => (byId("said").textContent = line);
const problem = (line) => (byId("problem").textContent = line);

// "Practice 1 of 2", "Text 5 of 42"
function named(index) {
  const same = tasks().filter((task) => task.training === tasks()[index].training);
  const kind = tasks()[index].training ? "Practice" : room.study.design === "pairs" ? "Pair" : "Text";
  return `${kind} ${same.indexOf(tasks()[index]) + 1} of ${same.length}`;
}

// ------------------------------------------------------------------------------------------ views
async function start() {
  addEventListener("hashchange", () => location.reload());
  if (secretOfAddress() === "") return askForCode("");
  try {
    room.study = await api.get("/room/study");
  } catch (error) {
    if (error.status === 401) return askForCode("This code belongs to nobody in this study: is it whole?");
    problem(`${error.message} Trying again …`);
    return setTimeout(() => problem("") || start(), 3000);
  }
  begin();
}

function askForCode(wrong) {
  showForm(root, {
    title: "Your code",
    hint: "You have been given a link, or a code. Nobody asks for your name.",
    label: "Code",
    wrong,
  });
}

async function begin() {
  byId("title").textContent = room.study.title;
  document.title = `${room.study.title} · Rating room`;
  if (room.study.closed) return showClosed();
  if (!room.study.consented) {
    return showConsent(root, room.study, async (background) => {
      room.study = await api.post("/room/consent", { background });
      begin();
    });
  }
  // What an earlier visit could not send comes first: the way goes on behind it.
  for (const entry of tasks().map((task) => keep.unsent(task.id)).filter(Boolean)) {
    try {
      if (await deliver(entry)) accept(entry);
    } catch (error) {
      await refused(error);
    }
  }
  if (room.study.closed) return;
  byId("all").hidden = byId("help").hidden = false;
  go(frontier());
}

function showClosed() {
  const count = room.study.tasks.filter((task) => task.answer !== null).length;
  clear();
  root.replaceChildren(
    make(
      "section",
      { class: "plain sheet" },
      make("h2", { id: "place", tabindex: "-1" }, "The study is closed"),
      make("p", {}, count > 0 ? `Thank you: your ${count} answers count.` : "It takes no more answers."),
    ),
  );
  byId("place").focus();
}

function showEnd() {
  clear();
  const nothing = tasks().length === 0;
  root.replaceChildren(
    make(
      "section",
      { class: "plain sheet" },
      make("h2", { id: "place", tabindex: "-1" }, nothing ? "There is nothing left to rate" : "Thank you: that was all"),
      make(
        "p",
        {},
        nothing
          ? "Others have been quicker, and every text has its ratings. Thank you for coming."
          : "Every answer is saved; you may close this page. Until the study is closed you can come back by the same link and change an answer.",
      ),
      nothing ? null : make("div", { class: "row" }, make("button", { type: "button", onclick: () => go(tasks().length - 1) }, "Back")),
    ),
  );
  progress();
  byId("place").focus();
}

function clear() {
  room.view = null;
  problem("");
  progress();
}

function progress() {
  const done = tasks().filter((task) => task.answer !== null).length;
  byId("way").hidden = tasks().length === 0;
  byId("bar").max = tasks().length;
  byId("bar").value = done;
  byId("answered").textContent = `${done} of ${tasks().length} answered`;
}

// ---------------------------------------------------------------------------------------- an item
function textsOf(index) {
  const task = tasks()[index];
  if (!texts.has(task.id)) texts.set(task.id, api.get(`/room/tasks/${task.id}`));
  return texts.get(task.id).catch((error) => {
    texts.delete(task.id);
    throw error;
  });
}

async function go(index) {
  if (index >= tasks().length) return showEnd();
  room.at = index;
  clear();
  let task;
  try {
    task = await textsOf(index);
  } catch (error) {
    if (room.at !== index) return;
    problem(`${error.message}${error.again ? " Trying again …" : ""}`);
    if (error.again) setTimeout(() => room.at === index && room.view === null && go(index), 2000);
    return;
  }
  if (room.at === index) show(task);
}

function show(task) {
  const kept = keep.draft(task.id) ?? keep.unsent(task.id);
  const saved = { answer: current().answer, comment: task.comment };
  const start = kept ? { answer: kept.value, comment: kept.comment } : saved;
  const view = createItem(room.study, task, named(room.at), start, changed);
  const back = make("button", { type: "button", id: "back", disabled: room.at === 0, onclick: () => go(room.at - 1) }, "Back");
  view.save = make("button", { type: "submit", class: "primary", id: "save" }, "Save and go on");
  view.state = make("span", { class: "state dim", role: "status" });
  view.judge.append(make("div", { class: "foot" }, back, view.save, view.state));
  view.judge.addEventListener("submit", (event) => {
    event.preventDefault();
    save();
  });
  Object.assign(view, { task, saved, since: performance.now(), before: 1000 * (kept?.seconds ?? 0) });
  if (document.hidden) view.since = null;
  room.view = view;
  root.replaceChildren(view.element);
  tell();
  scrollTo(0, 0);
  view.heading.focus({ preventScroll: true });
  if (room.at + 1 < tasks().length) textsOf(room.at + 1).catch(() => {});
}

// Milliseconds for which the item has been looked at.
const spent = (view) => view.before + (view.since === null ? 0 : performance.now() - view.since);
const seconds = (view) => Math.round(spent(view)) / 1000;

function isChanged(view) {
  const value = view.value();
  const same = (name) => value[name] === view.saved.answer?.[name];
  return view.comment() !== view.saved.comment || Object.keys(value).some((name) => !same(name));
}

function changed() {
  const view = room.view;
  problem("");
  if (isChanged(view)) keep.note(view.task.id, { value: view.value(), comment: view.comment(), seconds: seconds(view) });
  else keep.forget(view.task.id);
  tell();
}

// What the button does, and what is saved.
function tell() {
  const view = room.view;
  const dirty = isChanged(view);
  const answered = current().answer !== null;
  view.save.textContent = answered ? (dirty ? "Save the change" : "Go on") : "Save and go on";
  view.state.textContent = room.busy ? "Saving …" : answered && !dirty ? "Saved" : "";
}

async function save() {
  const view = room.view;
  if (room.busy || view === null || view.isDone) return;
  const missing = view.missing();
  if (missing) {
    problem(room.study.design === "pairs" ? "Choose one, or “cannot judge”." : `Not answered yet: ${missing.name}.`);
    return missing.focus();
  }
  if (!isChanged(view) && current().answer !== null) return go(room.at + 1);
  const entry = { task: view.task.id, value: view.value(), comment: view.comment(), seconds: seconds(view), key: keep.newKey() };
  room.busy = true;
  keep.hold(entry);
  tell();
  try {
    const done = await deliver(entry);
    room.busy = false;
    if (done) accept(entry);
    say("Saved.");
    if (room.view !== view) return room.view && !room.view.isDone && tell();
    view.saved = { answer: entry.value, comment: entry.comment };
    if (isChanged(view)) return tell(); // it was changed while it was on its way
    if (done?.feedback) return showFeedback(view, done.feedback, entry.value);
    go(room.at + 1);
  } catch (error) {
    room.busy = false;
    refused(error);
    if (room.view === view) tell();
  }
}

// Sends an answer until the server has confirmed it -> its response; null: another tab has taken over.
async function deliver(entry) {
  for (let wait = RETRY[0]; ; wait = Math.min(2 * wait, RETRY[1])) {
    if (keep.unsent(entry.task)?.key !== entry.key) return null;
    try {
      const done = await api.post("/room/answers", entry);
      keep.confirmed(entry);
      problem("");
      return done;
    } catch (error) {
      if (!error.again) {
        keep.confirmed(entry); // it will never be taken
        throw error;
      }
    }
    problem("Not saved yet: the server does not answer. Your answer is kept in this browser and sent again by itself.");
    await new Promise((resolve) => {
      setTimeout(resolve, wait);
      addEventListener("online", resolve, { once: true });
    });
  }
}

// An answer is with the server.
function accept(entry) {
  const task = tasks().find((one) => one.id === entry.task);
  task.answer = entry.value;
  texts.set(task.id, (texts.get(task.id) ?? api.get(`/room/tasks/${task.id}`)).then((found) => ({ ...found, comment: entry.comment })));
  const draft = keep.draft(entry.task);
  if (draft && JSON.stringify(draft.value) === JSON.stringify(entry.value) && draft.comment === entry.comment) keep.forget(entry.task);
  progress();
}

function refused(error) {
  if (error.status === 409) return refresh();
  problem(error.message);
}

function showFeedback(view, feedback, value) {
  view.isDone = true;
  const shown = feedbackOf(room.study, feedback, value);
  const on = make("button", { type: "button", class: "primary", id: "on", onclick: () => go(room.at + 1) }, "Go on");
  shown.append(make("div", { class: "row" }, on));
  view.judge.append(shown);
  view.judge.querySelector(".foot").hidden = true;
  for (const input of view.judge.querySelectorAll("input, textarea")) input.disabled = true;
  shown.scrollIntoView({ block: "nearest" });
  say(`Saved. ${shown.querySelector("h3").textContent} ${feedback.text}`);
  on.focus({ preventScroll: true });
}

// Another tab, or the owner, may have changed something.
async function refresh() {
  let study;
  try {
    study = await api.get("/room/study");
  } catch {
    return; // it is said where something is to be saved
  }
  if (room.busy) return;
  const before = room.view && JSON.stringify(current().answer);
  room.study = study;
  if (study.closed) return showClosed();
  progress();
  if (room.view === null || room.view.isDone || before === JSON.stringify(current().answer) || keep.draft(current().id)) return;
  texts.delete(current().id);
  go(room.at);
}

// ------------------------------------------------------------------------------------- around them
function mountItems() {
  byId("all").addEventListener("click", () => {
    byId("numbers").replaceChildren(
      ...tasks().map((task, index) =>
        make(
          "button",
          {
            type: "button",
            class: `${index === room.at ? "here " : ""}${task.answer === null ? "" : "done"}`,
            disabled: index > frontier(),
            "aria-label": `${named(index)}, ${task.answer === null ? "not answered" : "answered"}`,
            onclick: () => {
              byId("items").close();
              go(index);
            },
          },
          named(index).split(" ")[1],
        ),
      ),
    );
    byId("items").showModal();
  });
}

document.addEventListener("visibilitychange", () => {
  const view = room.view;
  if (view !== null && document.hidden) {
    Object.assign(view, { before: spent(view), since: null });
    if (keep.draft(view.task.id)) changed();
  } else if (view !== null) view.since = performance.now();
  if (!document.hidden && room.study?.consented && !room.study.closed) refresh();
});
addEventListener("focus", () => room.study?.consented && !room.study.closed && refresh());

mountItems();
mountKeys(room, { save, back: () => room.at > 0 && !room.busy && go(room.at - 1) });
byId("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment is the rater's code
  room.view?.focus();
});
start();
