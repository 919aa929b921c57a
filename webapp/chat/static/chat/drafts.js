// What is written and not yet stored, in this tab's storage: under its user's name, so that nobody else gets to read it.

import { $, data } from "./page.js";

const own = `klepon:${data.user}:`;

for (const key of Object.keys(sessionStorage)) if (!key.startsWith(own)) sessionStorage.removeItem(key);

/** What was kept under a name; "" if there is nothing. */
export function kept(name) {
  return sessionStorage.getItem(own + name) ?? "";
}

/** Keep a text under a name; an empty one is forgotten. */
export function keep(name, text) {
  if (text) sessionStorage.setItem(own + name, text);
  else sessionStorage.removeItem(own + name);
}

/** Keep what stands in a dialog's form until the page is loaded again: then it opens as it was. */
export function keepForm(form) {
  const { csrfmiddlewaretoken, ...values } = Object.fromEntries(new FormData(form));
  keep(`form:${form.id}`, JSON.stringify({ values, data: { ...form.dataset } }));
}

/** Open a dialog's form as it was when it could not be sent. */
export function reopenForm(form) {
  const text = kept(`form:${form.id}`);
  if (!text) return;
  keep(`form:${form.id}`, "");
  const { values, data: more } = JSON.parse(text);
  Object.assign(form.dataset, more);
  for (const field of form.elements) {
    if (field.type === "checkbox") field.checked = field.name in values;
    else if (field.name in values) field.value = values[field.name];
  }
  form.closest("dialog").showModal();
}

// --- Whoever logs out leaves nothing behind, in no tab ----------------------------------------------------------------

const tabs = new BroadcastChannel("klepon");

function forget() {
  sessionStorage.clear();
  localStorage.clear();
}

$("#log-out")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  forget();
  // Only after that may the other tabs go to the log-in page: it sends back whoever is still logged in.
  await fetch(form.action, { method: "POST", body: new FormData(form), redirect: "manual" }).catch(() => form.submit());
  tabs.postMessage(data.user);
  location.assign(data.urls.login);
});
tabs.addEventListener("message", (event) => {
  if (event.data !== data.user) return;
  forget();
  location.assign(data.urls.login);
});
