// How the next answer is generated: by which model, and with the settings of the dialog.

import { adapter, rival } from "./adapters.js";
import { keepForm, reopenForm } from "./drafts.js";
import { system } from "./given.js";
import { $, problem } from "./page.js";
import { ask, failed } from "./site.js";

const form = $("#settings-form");
const greedy = $("#id_greedy");

export const target = () => $("[name=target]:checked").value;

/** How a new text is to be answered: what a frame that asks has in common. */
export const asked = () => ({
  settings: settings(), target: target(), adapter: adapter(), rival: target() === "both" ? rival() : "", system: system(),
});

export function settings() {
  const values = {};
  for (const field of form.elements) {
    if (!field.name || field.name === "csrfmiddlewaretoken") continue;
    if (field.type === "checkbox") values[field.name] = field.checked;
    else if (field.value !== "") values[field.name] = Number(field.value);
  }
  return values;
}

/** Say under each field what is wrong with it; the first such field is where to go on. */
function complain(errors) {
  for (const place of form.querySelectorAll("[data-error]")) {
    const sentences = errors[place.dataset.error];
    place.textContent = sentences?.join(" ") ?? "";
    form.elements[place.dataset.error].ariaInvalid = sentences ? "true" : null;
  }
  $("[aria-invalid]", form)?.focus();
}

function greedyOnly() {
  for (const name of ["temperature", "top_p", "top_k"]) $(`#id_${name}`).disabled = greedy.checked;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  // What the browser cannot read it hands over as nothing, which would mean the model's default.
  const unread = [...form.elements].filter((field) => field.validity?.badInput);
  if (unread.length) return complain(Object.fromEntries(unread.map((field) => [field.name, [field.validationMessage]])));
  problem("");
  const answer = await ask(form.action, new FormData(form));
  complain(answer.value.errors ?? {});
  if (answer.status === 401) keepForm(form);
  if (!answer.ok && !answer.value.errors) failed(answer);
  if (!answer.ok) return;
  for (const field of form.elements) [field.defaultValue, field.defaultChecked] = [field.value, field.checked];
  form.closest("dialog").close();
});

// What was changed and not saved is not sent either.
$("#settings").addEventListener("close", () => {
  form.reset();
  complain({});
  $(".problem", form).textContent = "";
  greedyOnly();
});

greedy.addEventListener("change", greedyOnly);
reopenForm(form);
greedyOnly();
