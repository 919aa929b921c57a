// What all scripts of the page use: its elements, what the server wrote into it, its language, and posts to the site.

export const $ = (selector, within = document) => within.querySelector(selector);
export const data = JSON.parse($("#data").textContent);
const token = $("[name=csrfmiddlewaretoken]").value;

/** A sentence of the page's language, with its {places} filled. */
export function say(name, values = {}) {
  return data.strings[name].replace(/\{(\w+)\}/g, (place, key) => values[key] ?? place);
}

/** Say what is wrong, where the person writes; an empty sentence when all is well again. */
export function problem(sentence) {
  $("#problem").textContent = sentence;
}

/** Make a field as high as the text in it. */
export function size(field) {
  field.rows = Math.min(12, Math.max(1, field.value.split("\n").length));
}

export async function post(url, values) {
  const headers = { "X-CSRFToken": token, Accept: "application/json" };
  const response = await fetch(url, { method: "POST", headers, body: new URLSearchParams(values) });
  return { ok: response.ok, status: response.status, value: await response.json().catch(() => ({})) };
}
