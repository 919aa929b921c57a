// What a model is given beside the conversation: a system prompt, and the start of an answer that it is to go on with.

import { keep, kept } from "./drafts.js";
import { $, problem } from "./page.js";

// --- The system prompt -----------------------------------------------------------------------------------------------

const field = $("#system-text");
const button = $("[data-open=system]");

const draftIn = (conversation) => `system:${conversation ?? ""}`;
let typed = draftIn(null); // the name of what is typed and not yet asked with: as JSON, since nothing may be meant too

/** What the next question is asked with; empty: without one. */
export const system = () => field.value.trim();

function show() {
  button.ariaPressed = String(Boolean(system()));
}

/** Show what the last answer of this conversation's branch was asked with, unless something else was typed since then. */
export function showSystem(conversation, last) {
  typed = draftIn(conversation);
  field.value = kept(typed) ? JSON.parse(kept(typed)) : last;
  show();
}

/** What stands in the field is meant for this conversation; it is a draft there, unless a question has brought it. */
export function carrySystem(conversation, stored) {
  keep(typed, "");
  typed = draftIn(conversation);
  if (system() !== stored) keep(typed, JSON.stringify(field.value));
}

button.addEventListener("click", () => $("#system").showModal());
field.addEventListener("input", () => {
  keep(typed, JSON.stringify(field.value));
  show();
});

// --- An answer to go on with -----------------------------------------------------------------------------------------

const dialog = $("#rewrite");
const text = $("#rewrite-text");
let draft = ""; // the name that the changed answer is kept under
let goOn = null;

/** Let the person change an answer; then go on with what it has become, if `then` can. What was changed before is there. */
export function rewrite(message, name, then) {
  text.value = kept(name) || message.text;
  [draft, goOn] = [name, then];
  dialog.showModal();
  problem("");
}

text.addEventListener("input", () => keep(draft, text.value));
$("[data-do=close-dialog]", dialog).addEventListener("click", () => keep(draft, ""));
$("form", dialog).addEventListener("submit", (event) => {
  if (!text.value.trim() || !goOn(text.value)) event.preventDefault();
});
