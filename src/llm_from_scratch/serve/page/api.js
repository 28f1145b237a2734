// Requests to this server: JSON, and streams of server-sent events.
//
//   get(path, {signal})                    -> the JSON of the answer
//   post(path, body, {signal})             -> the JSON of the answer
//   stream(path, body, onEvent, {signal})  -> ends with the stream; body null: a GET
//
// A failure is an Error whose message is the server's own line. An aborted request fails with
// an error of the name "AbortError" (see `aborted`). Where the server wants a token, the page
// asks once for all requests that wait; the token stays in sessionStorage.

const KEY = "llm-from-scratch token";
export const LONGEST_TEXT = 20_000; // characters that /play/tokens takes; a field of millions stops a browser

// Returns the requests. askToken(wrong) -> a promise of the token, or of null where none is given.
export function createApi(askToken) {
  let asked = null; // the promise of a token, while the form is open

  async function request(path, body, signal, accept) {
    for (;;) {
      const token = sessionStorage.getItem(KEY);
      const headers = { Accept: accept };
      if (token) headers.Authorization = `Bearer ${token}`;
      if (body !== null) headers["Content-Type"] = "application/json";
      const response = await reach(path, {
        method: body === null ? "GET" : "POST",
        headers,
        body: body === null ? undefined : JSON.stringify(body),
        signal,
        cache: "no-store",
        credentials: "omit",
      });
      if (response.ok) return response;
      if (response.status !== 401) throw await failure(response);
      await newToken(token, signal);
    }
  }

  // Asks for a token, unless another request has got a new one since `old` was sent.
  async function newToken(old, signal) {
    if (sessionStorage.getItem(KEY) === old) {
      asked ??= askToken(old !== null).finally(() => (asked = null));
      const given = await asked;
      if (!given) throw new Error("This server needs a token: load the page again to give one.");
      sessionStorage.setItem(KEY, given);
    }
    signal?.throwIfAborted();
  }

  return {
    async get(path, { signal } = {}) {
      return whole(await request(path, null, signal, "application/json"));
    },
    async post(path, body, { signal } = {}) {
      return whole(await request(path, body, signal, "application/json"));
    },
    async stream(path, body, onEvent, { signal } = {}) {
      const response = await request(path, body, signal, "text/event-stream");
      for await (const event of events(response.body)) {
        if (event.error) throw new Error(event.error.message);
        onEvent(event);
      }
    },
  };
}

// Whether a request failed because this page gave it up.
export const aborted = (error) => error?.name === "AbortError";

async function reach(path, options) {
  try {
    return await fetch(path, options);
  } catch (error) {
    if (aborted(error)) throw error;
    throw new Error("The server does not answer: is it still running?");
  }
}

async function failure(response) {
  let message = `The server answered ${response.status}.`;
  try {
    message = (await response.json()).error.message || message;
  } catch {
    // Not an answer of this server's own: its number is all there is to say.
  }
  return new Error(message);
}

// What is told where an answer ends in its middle: the browser's own words differ.
function broken(error) {
  if (aborted(error) || !(error instanceof TypeError)) return error;
  return new Error("The connection broke off: is the server still running?");
}

async function whole(response) {
  try {
    return await response.json();
  } catch (error) {
    throw broken(error);
  }
}

// Yields the data of each server-sent event, decoded from JSON.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const data = block.split("\n").filter((line) => line.startsWith("data:"));
        const text = data.map((line) => line.slice(5).trimStart()).join("\n");
        if (text && text !== "[DONE]") yield JSON.parse(text);
      }
    }
  } catch (error) {
    throw broken(error);
  } finally {
    reader.cancel().catch(() => {});
  }
}
