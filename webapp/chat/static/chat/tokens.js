// An answer token by token: the exact prompt, and how likely each token was under base model and adapter.

import { $ } from "./page.js";
import { ask } from "./site.js";

const dialog = $("#tokens");
const list = $(".tokens.answer", dialog);
const percent = (value) =>
  value.toLocaleString(document.documentElement.lang, { style: "percent", maximumSignificantDigits: value < 0.1 ? 2 : 3 });
/** So many shades of each colour are in tokens.css. */
const SHADES = 6;
let asked = null; // the id of the answer that was opened last
let seen = null; // wire.messages.Seen, as JSON

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-tokens]");
  if (button) open(button.closest("[data-message]").dataset.message);
});

async function open(id) {
  asked = id;
  seen = null;
  $("#tokens-found").hidden = true;
  tell(dialog.dataset.loading);
  dialog.showModal();
  const { ok, value } = await ask(`/m/${id}/tokens`);
  if (asked !== id) return;
  if (ok) show(value);
  else tell(value.error);
}

function tell(sentence) {
  $("#tokens-state").textContent = sentence;
}

function show(value) {
  seen = value;
  tell("");
  $("#tokens-found").hidden = false;
  $("#tokens-left-out").hidden = !seen.turns_left_out;
  $(".tokens.prompt", dialog).replaceChildren(...seen.prompt.flatMap(({ text, written }) =>
    box("span", text, written ? "written" : "template")));
  $("[data-count]", dialog).textContent = seen.prompt.length;
  list.replaceChildren(...seen.answer.flatMap(({ text }, index) => {
    const parts = box("span", text || "·", "chosen");
    const [token] = parts;
    token.role = "option";
    token.id = `token-${index}`;
    token.ariaSelected = "false";
    return parts;
  }));
  const both = seen.answer.some((token) => token.adapter !== null);
  for (const input of dialog.querySelectorAll("[name=heat]")) input.disabled = !both && input.value !== "base";
  $(`[name=heat][value=${both ? "difference" : "base"}]`, dialog).checked = true;
  heat();
  choose(0);
}

/** A token as an element, with a place where the line may break. */
function box(name, text, kind) {
  const element = document.createElement(name);
  element.className = `token ${kind}`;
  element.textContent = text.replaceAll("\n", "⏎");
  return [element, document.createElement("wbr")];
}

/** Colour the answer: the deeper, the more surprising; or, for the difference, the more the adapter changed. */
function heat() {
  const by = $("[name=heat]:checked", dialog).value;
  seen.answer.forEach((token, index) => {
    const element = list.querySelector(`#token-${index}`);
    const change = Math.log2(Math.max(token.adapter ?? 0, 1e-6) / Math.max(token.base, 1e-6));
    const surprise = by === "difference" ? Math.abs(change) : -Math.log2(Math.max(token[by], 1e-6));
    element.dataset.heat = Math.min(SHADES, Math.round(surprise));
    element.dataset.way = by === "difference" && change > 0 ? "up" : "down";
  });
}

for (const input of dialog.querySelectorAll("[name=heat]")) input.addEventListener("change", heat);

// --- One token, and what else might have stood there -----------------------------------------------------------------

function choose(index, focus = false) {
  const token = seen.answer[index];
  if (!token) return;
  for (const one of list.querySelectorAll("[role=option]")) {
    const own = one.id === `token-${index}`;
    one.ariaSelected = String(own);
    one.tabIndex = own ? 0 : -1;
    if (own && focus) one.focus();
  }
  const shown = (text) => (text === "" ? "·" : text.replaceAll("\n", "⏎"));
  $("caption q", dialog).textContent = shown(token.text);
  $("[data-own=base]", dialog).textContent = percent(token.base);
  $("[data-own=adapter]", dialog).textContent = token.adapter === null ? "–" : percent(token.adapter);
  const rows = Math.max(token.base_likely.length, token.adapter_likely.length);
  $("tbody", dialog).replaceChildren(...Array.from({ length: rows }, (_, at) => {
    const row = document.createElement("tr");
    for (const likely of [token.base_likely[at], token.adapter_likely[at]]) {
      const [text, number] = [document.createElement("td"), document.createElement("td")];
      if (likely) [text.textContent, number.textContent] = [shown(likely.text), percent(likely.probability)];
      row.append(text, number);
    }
    return row;
  }));
}

const place = (element) => Number(element.id.slice("token-".length));

list.addEventListener("click", (event) => {
  const token = event.target.closest("[role=option]");
  if (token) choose(place(token), true);
});
list.addEventListener("keydown", (event) => {
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const next = place(event.target) + steps[event.key];
  choose(Math.min(seen.answer.length - 1, Math.max(0, next)), true);
});
