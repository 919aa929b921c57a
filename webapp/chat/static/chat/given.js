// What a model is given beside the conversation: a system prompt, and the start of an answer that it is to go on with.

import { keep, kept } from "./drafts.js";
import { $, data, problem } from "./page.js";

// --- The system prompt -----------------------------------------------------------------------------------------------

const field = $("#system-text");
const button = $("[data-open=system]");
// As it was last asked with in this conversation.
field.value = data.messages.findLast((message) => message.role === "assistant")?.system ?? "";

/** What the next question is asked with; empty: without one. */
export const system = () => field.value.trim();

function show() {
  button.ariaPressed = String(Boolean(system()));
}

button.addEventListener("click", () => $("#system").showModal());
field.addEventListener("input", show);
show();

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
