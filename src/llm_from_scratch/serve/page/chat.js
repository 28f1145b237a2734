// The conversation with a model that has a template for it: what the reader says as plain text, the
// answers as one button a token (view.js), each of which can go on from another alternative.
//
// `turns` (conversation.js) is never changed in place: a message, another answer and a new
// conversation are new lists, and Undo goes back to the list before.

import { LONGEST_TEXT } from "./api.js";
import { colours } from "./colours.js";
import { messages, restored, saved } from "./conversation.js";
import { framed, icon, make } from "./dom.js";
import { decode } from "./token.js";
import { createTurn } from "./turn.js";
import { ended } from "./writing.js";

const TOP = 10; // alternatives beside each token
const NEW = { system: "", turns: [], past: [], future: [] };

export function mount(root, app) {
  const kept = new Map(); // by the name of a model: its {system, turns, past, future}
  let model = null;
  let { system, turns, past, future } = NEW;
  let rows = []; // what is on the page, one a turn: {element, show(turn, last)}
  let attended = 0; // the turn that the other panels show
  let touched = false; // whether the reader has typed; until then the message is the model's question
  let writes = null; // the AbortController of what is written at this moment

  // The elements

  const list = make("ol", { class: "turns" });
  const empty = make(
    "p",
    { class: "hint" },
    "Say something: the answer comes token by token, and each of them shows what else the model could have said.",
  );
  const systemArea = make("textarea", { id: "system", rows: 2, maxlength: LONGEST_TEXT, dir: "auto", oninput: changeSystem });
  const systemState = make("summary");
  const systemBox = make(
    "details",
    { class: "system" },
    systemState,
    make("label", { for: systemArea.id, class: "hint" }, "The model reads this before the conversation."),
    systemArea,
  );
  const area = make("textarea", {
    id: "message",
    rows: 2,
    maxlength: LONGEST_TEXT,
    dir: "auto",
    placeholder: "Say something.",
    "aria-label": "Your message",
    "aria-describedby": "message-hint",
    oninput: () => {
      touched = true;
      paint();
    },
    onkeydown: (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      if (!app.busy) send();
    },
  });
  const button = (label, work, kind = null) => make("button", { type: "button", class: kind, onclick: work }, label);
  const main = button("Send", () => (app.busy ? stop() : send()), "primary main");
  const undo = button(icon("undo"), back, "only-icon");
  const redo = button(icon("redo"), forth, "only-icon");
  const fresh = button("New conversation", begin, "quiet small");
  const state = make("p", { class: "state dim" });
  const hint = make("p", { class: "hint", id: "message-hint" }, "Enter sends, Shift + Enter breaks the line.");
  name(undo, "Undo: the conversation as it was before");
  name(redo, "Redo: the conversation that was undone");
  root.append(
    make(
      "div",
      { class: "sheet" },
      make(
        "div",
        { class: "top" },
        make("div", { class: "row" }, make("h2", {}, "Conversation"), fresh),
        colours(app, "chat-colour"),
      ),
      make("div", { class: "talk" }, systemBox, empty, list),
      make("div", { class: "foot" }, area, make("div", { class: "row" }, main, undo, redo, hint), state),
    ),
  );

  // What is shown

  function paint() {
    const follows = root.getBoundingClientRect().bottom - innerHeight < 60;
    while (rows.length > turns.length) rows.pop().element.remove();
    while (rows.length < turns.length) {
      const index = rows.length;
      const first = () => (index === attended ? turns[index].prompt.length : null);
      rows.push(createTurn(app, { index, first, attend, goOn, again }));
      list.append(rows[index].element);
    }
    rows.forEach((row, index) => row.show(turns[index], index === turns.length - 1));
    empty.hidden = turns.length > 0;
    systemState.textContent = system.trim() === "" ? "System prompt: none" : `System prompt: ${system}`;
    main.textContent = app.busy ? "Stop" : "Send";
    main.disabled = !app.busy && (model === null || area.value.trim() === "");
    undo.disabled = app.busy || past.length === 0;
    redo.disabled = app.busy || future.length === 0;
    fresh.disabled = app.busy || turns.length === 0;
    if (follows) scrollBy(0, Math.max(0, root.getBoundingClientRect().bottom - innerHeight));
  }

  // Shows the conversation here, and the tokens of the turn attended to in the other panels.
  function show() {
    attended = Math.max(0, Math.min(attended, turns.length - 1));
    const turn = turns[attended];
    if (app.mode === "chat") app.show(turn ? [...turn.prompt, ...turn.answer] : []);
    paint();
    app.emit("link");
  }
  const showSoon = framed(show);

  function attend(index) {
    if (index === attended) return;
    attended = index;
    if (!app.busy) show();
  }

  // What is said

  function send() {
    const user = area.value;
    if (user.trim() === "" || model === null) return;
    area.value = "";
    const body = { messages: messages(system, turns, user) };
    app.follow(() => write([...turns, { user, prompt: [], answer: [], finish: null }], body, user));
  }

  // Goes on from the first `at` tokens of an answer, and from another one where it is given. The
  // turns after it are no longer what was said: Undo brings them back.
  function goOn(index, at = turns[index].answer.length, alternative = null) {
    const turn = turns[index];
    const answer = turn.answer.slice(0, at);
    const ends = alternative?.bytes.length === 0; // the token that ends an answer
    if (alternative !== null && !ends) answer.push({ ...alternative, top: turn.answer[at].top, given: false });
    const next = [...turns.slice(0, index), { ...turn, answer, finish: ends ? "stop" : null }];
    if (ends) return change(next);
    const body = { ids: [...turn.prompt, ...answer].map((token) => token.id) };
    app.follow(() => write(next, body));
  }

  function again(index) {
    app.set("settings", { ...app.settings, seed: app.settings.seed + 1 });
    const turn = turns[index];
    const body = { ids: turn.prompt.map((token) => token.id) };
    app.follow(() => write([...turns.slice(0, index), { ...turn, answer: [], finish: null }], body));
  }

  // Shows other turns; Undo and Redo lead to the last of `before` and of `after`.
  function move(next, before, after) {
    [turns, past, future] = [next, before, after];
    attended = turns.length - 1;
    state.textContent = "";
    show();
  }

  function change(next) {
    move(next, [...past, turns], []);
  }

  function back() {
    move(past.at(-1), past.slice(0, -1), [...future, turns]);
    told(undo);
  }

  function forth() {
    move(future.at(-1), [...past, turns], future.slice(0, -1));
    told(redo);
  }

  function told(button) {
    app.say(turns.length === 1 ? "1 message." : `${turns.length} messages.`);
    if (button.disabled) area.focus();
  }

  function begin() {
    stop();
    change([]);
    area.focus();
  }

  function stop() {
    writes?.abort();
  }

  // Shows the turns `next` and writes on at the end of the last one. `said` stands in the field of the
  // message again where nothing came back.
  async function write(next, body, said = "") {
    stop();
    app.problem("");
    const control = new AbortController();
    writes = control;
    app.set("busy", true);
    change(next);
    state.textContent = "Writing …";
    app.say("The model answers.");
    const put = (part) => {
      turns = [...turns.slice(0, -1), { ...turns.at(-1), ...part }];
      showSoon();
    };
    const begun = performance.now();
    let count = 0;
    let end = null;
    const take = ({ prompt, token, finish }) => {
      if (control.signal.aborted) return;
      if (token) count += 1;
      end = finish ?? null;
      if (prompt) put({ prompt: prompt.map((one) => ({ ...one, logprob: null, top: null, given: true })) });
      if (token) put({ answer: [...turns.at(-1).answer, { ...token, given: false }] });
      if (finish) put({ finish });
    };
    const whole = { model: model.name, settings: app.settings, top: TOP, ...body };
    try {
      await app.api.stream("/play/write", whole, take, { signal: control.signal });
    } finally {
      if (writes === control) {
        writes = null;
        const came = turns.at(-1).prompt.length > 0;
        if (!came) takeBack(said);
        state.textContent = came ? ended(count, end, performance.now() - begun) : "";
        app.set("busy", false);
        show();
        app.say(`${state.textContent} ${decode(turns.at(-1)?.answer ?? [])}`);
      }
    }
  }

  function takeBack(said) {
    turns = past.at(-1);
    past = past.slice(0, -1);
    if (area.value === "") area.value = said;
  }

  function changeSystem() {
    system = systemArea.value;
    paint();
    app.emit("link");
  }

  // The models, the mode and the link

  app.on("model", () => {
    if (model?.name !== app.model?.name) {
      if (writes !== null) {
        stop();
        writes = null;
        app.set("busy", false);
      }
      if (model !== null) kept.set(model.name, { system, turns, past, future });
      ({ system, turns, past, future } = kept.get(app.model?.name) ?? NEW);
      systemArea.value = system;
      attended = turns.length - 1;
      if (!touched && turns.length === 0) area.value = app.model?.question ?? "";
    }
    model = app.model;
    show();
  });
  app.on("mode", () => {
    stop();
    if (app.mode === "chat") show();
  });
  app.on("busy", () => app.mode === "chat" && paint());
  app.remember("chat", {
    save: () => (app.mode === "chat" && (turns.length > 0 || system !== "") ? saved(system, turns) : ""),
    load: (text) => {
      if (!model?.chat) throw new Error("The link has a conversation, which its model cannot hold.");
      const found = restored(text, model.vocabulary);
      app.follow(() => restore(found));
    },
  });
  paint();

  // Reads the tokens of a link's conversation, and how likely the model finds them.
  async function restore(found) {
    const asked = model;
    const read = [];
    for (const { user, prompt, answer, finish } of found.turns) {
      const body = { model: asked.name, ids: [...prompt, ...answer], top: TOP };
      const { tokens } = await app.api.post("/play/read", body);
      const given = tokens.slice(0, prompt.length).map((token) => ({ ...token, given: true }));
      const written = tokens.slice(prompt.length).map((token) => ({ ...token, given: false }));
      read.push({ user, prompt: given, answer: written, finish });
    }
    if (asked !== model) return;
    [system, area.value, touched] = [found.system, "", true];
    systemArea.value = system;
    change(read);
  }
}

function name(button, text) {
  button.setAttribute("aria-label", text);
  button.title = text;
}
