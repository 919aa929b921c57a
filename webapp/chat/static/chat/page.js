// What all scripts of the page use: its elements, what the server wrote into it, its language, and what keys mean.

export const $ = (selector, within = document) => within.querySelector(selector);
export const data = JSON.parse($("#data").textContent);

/** A sentence of the page's language, with its {places} filled. */
export function say(name, values = {}) {
  return data.strings[name].replace(/\{(\w+)\}/g, (place, key) => values[key] ?? place);
}

/** Say what is wrong, where the person writes; an empty sentence when all is well again. */
export function problem(...sentence) {
  ($("dialog[open] .problem") ?? $("#problem")).replaceChildren(...sentence);
}

/** The way to the log-in page and back to here. */
export function loginLink() {
  const link = document.createElement("a");
  link.href = `${data.urls.login}?next=${encodeURIComponent(location.pathname + location.search)}`;
  link.textContent = say("logInAgain");
  return link;
}

/** Make a field as high as the text in it. */
export function size(field) {
  field.rows = Math.min(12, Math.max(1, field.value.split("\n").length));
}

/** Whether there is nothing in a text that could be seen, as the server sees it (chat/frames.py). */
export const blank = (text) => !/[^\p{Z}\p{C}\p{M}\u115f\u1160\u2800\u3164\uffa0]/u.test(text);

/** A key belongs to the input method that composes a letter with it. Safari says so by the number alone. */
export const composing = (event) => event.isComposing || event.keyCode === 229;

/** Where fingers write there is no Shift for a new line: Enter makes one, and the button sends. */
const byFinger = matchMedia("(pointer: coarse)");

/** Whether a key sends what is written. */
export function sends(event) {
  if (event.key !== "Enter" || event.shiftKey || composing(event)) return false;
  return event.ctrlKey || event.metaKey || !byFinger.matches;
}
