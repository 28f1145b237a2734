// The text: the prompt as plain text, and what the model writes after it as one button a token.
//
// Every Write, Continue and choice of an alternative is a new version in a tree (tree.js), one tree
// a model. A version is shown, or its prompt is edited. Adds to app:
//
//   prompt()         the prompt as it stands
//   promptTokens()   a promise of its tokens
//   write()          writes: after the prompt while it is edited, else at the end of the text
//   take(token)      puts one token at the end, {id, text, bytes, logprob, top}
//   text()           {prompt, given, ids} of the version shown, for a link; ids null while editing
//   restore(text, tokens)   shows such a version again

import { LONGEST_TEXT } from "./api.js";
import { colours } from "./colours.js";
import { framed, icon, make } from "./dom.js";
import { decode } from "./token.js";
import * as versions from "./tree.js";
import { tokenView } from "./view.js";

const TOP = 10; // alternatives beside each token

export function mount(root, app) {
  const trees = new Map(); // by the name of the model: {tree, prompts: Map(version -> its text)}
  let model = null;
  let tree = versions.EMPTY;
  let prompts = new Map();
  let editing = true;
  let writes = null; // the AbortController of what is written at this moment
  let pending = null; // the text that it goes on from, until its first token comes
  let touched = false; // whether the reader has changed the prompt
  let known = { model: null, text: null, tokens: null }; // the tokens of the last prompt

  // The elements

  const area = make("textarea", {
    id: "prompt",
    spellcheck: "false",
    dir: "auto",
    rows: "4",
    maxlength: LONGEST_TEXT,
    placeholder: "Write the beginning of a text here.",
    "aria-describedby": "prompt-hint",
    oninput: () => {
      touched = true;
      app.emit("prompt");
      paint();
    },
    onkeydown: (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      main.focus();
      app.write();
    },
  });
  const view = tokenView(app, {
    label: "The text, token by token",
    choose: (index, alternative) => app.follow(() => goOn(index, alternative)),
    walk: (id) => move(versions.show(tree, id)),
  });
  const button = (name, label, work, kind = null) =>
    make("button", { type: "button", class: kind, "data-name": name, onclick: work }, label);
  const main = button("main", "Write", () => (app.busy ? stop() : app.write()), "primary main");
  const another = button("another", "Another", () => app.follow(writeAnother));
  const undo = button("undo", icon("undo"), () => move(versions.undo(tree)), "only-icon");
  const redo = button("redo", icon("redo"), () => move(versions.redo(tree)), "only-icon");
  const edit = button("edit", "Edit prompt", () => (editing ? move(tree) : editPrompt()), "quiet small");
  another.title = "Writes another text after the same prompt, from the next seed";
  name(undo, "Undo: back to the version before");
  name(redo, "Redo: the version that was undone");
  const state = make("p", { class: "state dim" });
  const title = make("label", { for: "prompt" }, "Prompt");
  const hint = make("p", { class: "hint", id: "prompt-hint" });
  const body = make("div", { class: "body" }, area, view.element);
  const foot = make("div", { class: "foot" }, make("div", { class: "row" }, main, another, undo, redo), state);
  const top = make("div", { class: "top" }, make("div", { class: "row" }, title, edit), colours(app, "colour"));
  root.append(make("div", { class: "sheet" }, top, body, hint, foot));

  // What is shown

  function paint() {
    const tokens = editing ? [] : app.tokens;
    area.hidden = !editing;
    view.element.hidden = editing;
    root.dataset.state = editing ? "editing" : "written";
    title.textContent = editing ? "Prompt" : "Text";
    hint.textContent = !editing
      ? "Point at a token, or walk with the arrow keys, to see what else could have stood there."
      : model === null
        ? without(app)
        : "The model goes on from here. Ctrl + Enter writes.";
    area.disabled = model === null;
    main.textContent = app.busy ? "Stop" : editing ? "Write" : "Continue";
    main.disabled = model === null;
    another.hidden = editing;
    another.disabled = app.busy;
    edit.hidden = editing && (tree.shown === null || shownIsPrompt());
    edit.textContent = editing ? "Back to the text" : "Edit prompt";
    undo.disabled = app.busy || tree.past.length === 0 || (editing && !shownIsPrompt());
    redo.disabled = app.busy || tree.future.length === 0;
    undo.hidden = redo.hidden = tree.nodes.length === 0;
    view.update(tokens, editing || pending ? [] : versions.forks(tree));
  }
  const shownIsPrompt = () => tree.shown !== null && tree.nodes[tree.shown].parent === null;

  function showTree() {
    if (app.mode === "text") app.show(editing ? [] : (pending ?? versions.tokensOf(tree)));
    paint();
  }
  const showSoon = framed(showTree);

  // Shows the version of a tree; a prompt alone is edited.
  function move(to) {
    giveUp();
    tree = to;
    editing = shownIsPrompt();
    const prompt = prompts.get(versions.promptOf(tree).id);
    if (prompt !== undefined) area.value = prompt;
    state.textContent = "";
    showTree();
    app.emit("prompt");
    if (document.activeElement === document.body || document.activeElement?.disabled) main.focus();
    app.say(editing ? "The prompt." : `Another version, ${app.tokens.length} tokens.`);
  }

  function editPrompt() {
    giveUp();
    editing = true;
    state.textContent = "";
    showTree();
    area.focus();
    app.emit("prompt");
  }

  // What is written

  // Ends what is written; its request then ends the state of writing.
  function stop() {
    writes?.abort();
  }

  // Ends what is written, and what comes of its request is nothing any more.
  function giveUp() {
    if (writes === null) return;
    stop();
    writes = pending = null;
    app.set("busy", false);
  }

  // Returns the version that is the prompt as it stands: a new one, where the text is.
  async function plantPrompt() {
    const [asked, text] = [model, area.value];
    const tokens = await app.promptTokens();
    if (asked !== model) throw new DOMException("another model was chosen", "AbortError");
    if (tokens.length === 0) throw new Error("The prompt is empty: write a few words first.");
    const same = [...prompts].find(([, prompt]) => prompt === text);
    editing = false;
    if (same) return same[0];
    const given = tokens.map((token) => ({ ...token, logprob: null, top: null, given: true }));
    tree = versions.plant(tree, given);
    prompts.set(tree.shown, text);
    return tree.shown;
  }

  async function writeAnother() {
    if (document.activeElement === another) main.focus(); // which is Stop now
    app.set("settings", { ...app.settings, seed: app.settings.seed + 1 });
    await goOnAfter(versions.promptOf(tree).id);
  }

  const goOnAfter = (from) => goOn(versions.tokensOf(tree, from).length, null, from);

  // Writes after the first `at` tokens of a version, and after `first` where there is one.
  async function goOn(at, first = null, from = tree.shown) {
    stop();
    app.problem("");
    const control = (writes = new AbortController());
    const whole = versions.tokensOf(tree, from);
    const before = (pending = whole.slice(0, at));
    let id = null; // of the new version, which begins with its first token
    const add = (token) => {
      tree = id === null ? versions.branch(tree, at, [token], from) : versions.extend(tree, id, [token]);
      id ??= tree.shown;
      pending = null;
      showSoon();
    };
    if (first !== null) add({ ...first, top: whole[at]?.top ?? null, given: false });
    showTree();
    const ids = [...before, ...(first ? [first] : [])].map((token) => token.id);
    const body = { model: model.name, ids, settings: app.settings, top: TOP };
    const begun = performance.now();
    let count = 0;
    let finish = null;
    app.set("busy", true);
    state.textContent = "Writing …";
    app.say("Writing.");
    try {
      await app.api.stream(
        "/play/write",
        body,
        (event) => {
          if (event.token && !control.signal.aborted) {
            count += 1;
            add({ ...event.token, given: false });
          }
          finish = event.finish ?? finish;
        },
        { signal: control.signal },
      );
    } finally {
      if (writes === control) {
        writes = pending = null;
        editing = shownIsPrompt(); // not a token came
        state.textContent = ended(count, finish, performance.now() - begun);
        app.set("busy", false);
        showTree();
        const added = id === null ? "" : decode(versions.tokensOf(tree).slice(at));
        app.say(`${state.textContent} ${added}`);
      }
    }
    await readPrompt(control.signal);
  }

  // Asks how likely the tokens of the prompt were, once; nothing waits for it.
  async function readPrompt(signal) {
    const prompt = versions.promptOf(tree);
    const count = prompt.tokens.length;
    if (signal.aborted || count < 2 || prompt.tokens.at(-1).top !== null) return;
    const asked = model;
    const ids = prompt.tokens.map((token) => token.id);
    const { tokens } = await app.api.post("/play/read", { model: asked.name, ids, top: TOP }, { signal });
    if (asked !== model || tokens.length !== ids.length) return;
    tree = versions.annotate(tree, prompt.id, tokens.map((token) => ({ ...token, given: true })));
    showTree();
  }

  // What others use

  app.prompt = () => area.value;
  app.promptTokens = async () => {
    const [asked, text] = [model, area.value];
    if (known.model === asked && known.text === text) return known.tokens;
    const { tokens } = await app.api.post("/play/tokens", { model: asked.name, text });
    known = { model: asked, text, tokens };
    return tokens;
  };
  app.write = () =>
    app.follow(async () => {
      app.problem("");
      await goOnAfter(editing ? await plantPrompt() : tree.shown);
    });
  app.take = (token) =>
    app.follow(async () => {
      app.problem("");
      giveUp();
      const from = editing ? await plantPrompt() : tree.shown;
      const at = versions.tokensOf(tree, from).length;
      tree = versions.branch(tree, at, [{ ...token, given: false }], from);
      state.textContent = "";
      showTree();
    });
  app.text = () => ({
    prompt: area.value,
    given: editing ? null : versions.promptOf(tree).tokens.length,
    ids: editing ? null : versions.tokensOf(tree).map((token) => token.id),
  });
  app.restore = ({ prompt, given }, tokens = null) => {
    giveUp();
    touched = true;
    area.value = prompt ?? decode(tokens.slice(0, given));
    editing = tokens === null;
    if (tokens !== null) {
      tree = versions.plant(tree, tokens.slice(0, given).map((token) => ({ ...token, given: true })));
      prompts.set(tree.shown, area.value);
      const written = tokens.slice(given).map((token) => ({ ...token, given: false }));
      if (written.length > 0) tree = versions.branch(tree, given, written);
    }
    state.textContent = "";
    showTree();
    app.emit("prompt");
  };

  app.on("model", () => {
    if (model?.name !== app.model?.name) {
      giveUp();
      if (model !== null) trees.set(model.name, { tree, prompts });
      ({ tree, prompts } = trees.get(app.model?.name) ?? { tree: versions.EMPTY, prompts: new Map() });
      editing = true;
      if (!touched) area.value = app.model?.example ?? "";
      state.textContent = "";
    }
    model = app.model;
    showTree();
    app.emit("prompt");
  });
  app.on("mode", () => {
    giveUp();
    if (app.mode === "text") showTree();
  });
  app.on("busy", () => app.mode === "text" && paint());
  paint();
}

// Why there is nothing to write with.
function without(app) {
  if (app.version === "") return "";
  return app.runs.length > 0
    ? "The run has no model yet: its curves are under Training."
    : "This server has no model.";
}

function name(button, text) {
  button.setAttribute("aria-label", text);
  button.title = text;
}

// One line about a text or an answer that has ended. finish null: it was stopped.
export function ended(count, finish, milliseconds) {
  const tokens = count === 1 ? "1 token" : `${count} tokens`;
  const rate = count > 1 ? `, ${(count / (milliseconds / 1000)).toPrecision(3)} a second` : "";
  if (finish === "stop") return `The model came to an end after ${tokens}${rate}.`;
  return finish === "length" ? `${tokens}${rate}.` : `Stopped after ${tokens}.`;
}
