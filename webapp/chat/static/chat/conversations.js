// Which conversation is open, with its title; and the list of all conversations.

import { keep, keepForm, reopenForm } from "./drafts.js";
import { $, data, problem, say } from "./page.js";
import { ask, failed } from "./site.js";

/** The open conversation; it has no id before its first text is stored. */
export const current = { id: data.conversation };

/** Something was stored in a conversation. If none was open, it is the open one now. */
export function enter({ id, title }) {
  if (!current.id) {
    current.id = id;
    history.pushState(null, "", address());
  }
  entitle(title);
}

function address() {
  return current.id ? `${data.urls.new}c/${current.id}/` : data.urls.new;
}

// Whoever changes the language stays in the conversation, also in one that began on this page.
$(".language").addEventListener("submit", (event) => {
  event.target.elements.next.value = location.pathname + location.search;
});

function entitle(title) {
  $("#title").textContent = title;
  document.title = `${title} · Klepon`;
}

// The skip link leads to a place in this page, not to another conversation.
addEventListener("popstate", () => location.pathname === address() || location.reload());

// --- The list ---------------------------------------------------------------------------------------------------------

/** Show the latest conversations, or those that hold what is searched for; with `from`, those after so many. */
export async function listConversations(from = 0) {
  const query = $("#search").value;
  const answer = await ask(`${data.urls.conversations}?user=${data.user}&q=${encodeURIComponent(query)}&from=${from}`);
  if (query !== $("#search").value) return;
  if (!answer.ok) return failed(answer);
  const { conversations, next } = answer.value;
  const list = $("#conversations");
  if (!from) list.replaceChildren();
  list.append(...conversations.map(rowOf));
  $("#more").hidden = !next;
  $("#more").href = `?q=${encodeURIComponent(query)}&from=${next}`;
  $("#none").hidden = list.childElementCount > 0;
  $("#none").textContent = say(query ? "nothingFound" : "none");
}

function rowOf({ id, title, url, updated }) {
  const row = $("#t-row").content.firstElementChild.cloneNode(true);
  row.dataset.conversation = id;
  const [link, time, button] = row.children;
  [link.href, link.textContent] = [url, title];
  if (id === current.id) link.setAttribute("aria-current", "page");
  time.dateTime = updated;
  date(time);
  button.ariaLabel = `${say("rowMenu")}: ${title}`;
  return row;
}

/** A date in few letters: the time of today, the day of this year, else the year too. */
function date(element) {
  const [then, now] = [new Date(element.dateTime), new Date()];
  const today = then.toDateString() === now.toDateString();
  const year = then.getFullYear() === now.getFullYear() ? undefined : "numeric";
  const parts = today ? { hour: "2-digit", minute: "2-digit" } : { day: "numeric", month: "short", year };
  element.textContent = then.toLocaleString(document.documentElement.lang, parts);
}

document.querySelectorAll("#conversations time").forEach(date);
$("#more").addEventListener("click", (event) => {
  event.preventDefault();
  listConversations(Number(new URL(event.target.href).searchParams.get("from")));
});

let searching;
$("#search").addEventListener("input", () => {
  clearTimeout(searching);
  searching = setTimeout(() => listConversations(), 150);
});
$(".search").addEventListener("submit", (event) => {
  event.preventDefault();
  listConversations();
});

// --- A new title, exports, and deletion: of the open conversation, or of one in the list ------------------------------

/** Offer what can be done with the conversation of a row. */
export function openRow(button) {
  const row = button.closest("[data-conversation]");
  const link = $("a", row);
  $("#row").dataset.conversation = row.dataset.conversation;
  $("#row-title").textContent = link.textContent;
  for (const one of document.querySelectorAll("[data-row-export]")) one.href = `${link.href}export.${one.dataset.rowExport}`;
  $("#row").showModal();
}

$("#row").addEventListener("click", (event) => event.target.closest("a") && $("#row").close());

/** Of which conversation a button speaks, with its title. Closes the dialog that it stands in. */
function spokenOf(button) {
  const dialog = button.closest("dialog");
  if (!dialog) return [current.id, $("#title").textContent];
  dialog.close();
  return [dialog.dataset.conversation, $("#row-title").textContent];
}

export function askForTitle(button) {
  const [id, title] = spokenOf(button);
  $("#rename-form").dataset.conversation = id;
  $("#rename").showModal();
  problem("");
  $("#new-title").value = title;
  $("#new-title").select();
}

export function askToDelete(button) {
  const [id, title] = spokenOf(button);
  $("#delete-form").dataset.conversation = id;
  $("#delete-name").textContent = title;
  $("#delete").showModal();
  problem("");
}

$("#rename-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  problem("");
  const { conversation } = event.target.dataset;
  const answer = await ask(`/c/${conversation}/rename`, new FormData(event.target));
  if (answer.status === 401) keepForm(event.target);
  if (answer.value.errors) return problem(Object.values(answer.value.errors).flat().join(" "));
  if (!answer.ok) return failed(answer);
  if (conversation === current.id) entitle(answer.value.title);
  $("#rename").close();
  listConversations();
});

$("#delete-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  problem("");
  const { conversation } = event.target.dataset;
  const answer = await ask(`/c/${conversation}/delete`, {});
  if (!answer.ok) return failed(answer);
  for (const draft of ["draft", "system"]) keep(`${draft}:${conversation}`, "");
  if (conversation === current.id) return location.assign(data.urls.new);
  $("#delete").close();
  listConversations();
});

reopenForm($("#rename-form"));
