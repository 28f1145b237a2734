// Tokens as text and numbers: pure functions.
//
// A token is {id, text, bytes}; `text` is its own bytes decoded, with U+FFFD for the parts of
// characters that are divided between tokens. A running text is decoded from all bytes.

// The text of tokens, one after another.
export function decode(tokens) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(new Uint8Array(tokens.flatMap((token) => token.bytes)));
}

// What each token adds to the running text: [string]; "" for one that ends within a character.
// The whole character stands at the token that completes it.
export function pieces(tokens) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  const texts = tokens.map((token) => decoder.decode(new Uint8Array(token.bytes), { stream: true }));
  const rest = decoder.decode();
  if (rest && texts.length > 0) texts[texts.length - 1] += rest;
  return texts;
}

const MARKS = new Map([["\n", "↵"], ["\t", "⇥"], ["\r", "␍"]]);
// Controls, invisible characters, and those that turn the direction of the text around them.
const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/u;

// A character that would not be seen -> a sign for it; null: it is shown as it is.
export function sign(character) {
  if (MARKS.has(character)) return MARKS.get(character);
  if (!HIDDEN.test(character)) return null;
  return `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
}

// The bytes of a token in hexadecimal: "E2 96".
export const hex = (token) => token.bytes.map((byte) => byte.toString(16).toUpperCase().padStart(2, "0")).join(" ");

// A token by itself, in one line: "␣the", "↵", "E2 96" for a part of a character, "id 2" for one
// without text.
export function visible(token) {
  if (token.bytes.length === 0) return token.text || `id ${token.id}`;
  if (token.text.includes("\ufffd")) return hex(token);
  return Array.from(token.text, (character) => (character === " " ? "␣" : (sign(character) ?? character))).join("");
}

// What a screen reader says of a token's text.
export function spoken(token) {
  if (token.bytes.length === 0) return `special token ${token.text || token.id}`;
  if (token.text.includes("\ufffd")) return `part of a character, bytes ${hex(token)}`;
  if (/^ +$/.test(token.text)) return token.text.length === 1 ? "space" : `${token.text.length} spaces`;
  if (/^\n+$/.test(token.text)) return token.text.length === 1 ? "new line" : `${token.text.length} new lines`;
  return token.text.trim() || visible(token);
}

// A probability: "12.34 %", "< 0.01 %", "0 %".
export function percent(p) {
  if (p === 0) return "0 %";
  if (p < 0.0001) return "< 0.01 %";
  return `${(100 * p).toFixed(2)} %`;
}

// The surprise of a token in bits, -log2 p, from the natural logarithm of p.
export const bits = (logprob) => Math.max(0, -logprob / Math.LN2);

// "12.34 %, 3.02 bits"; "" where the model was not asked.
export function figures(token) {
  if (token.logprob === null || token.logprob === undefined) return "";
  return `${percent(Math.exp(token.logprob))}, ${bits(token.logprob).toFixed(2)} bits`;
}

export const MOST_BITS = 12; // from where on surprise has its strongest colour

// How strong a token's colour is, 0 to 1.
export function heat(token, colour) {
  if (token.logprob === null || token.logprob === undefined) return 0;
  if (colour === "probability") return Math.exp(token.logprob);
  return Math.min(1, bits(token.logprob) / MOST_BITS);
}
