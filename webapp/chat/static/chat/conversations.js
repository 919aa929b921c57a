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

/** Show all conversations, or those that hold what is searched for. */
export async function listConversations() {
  const query = $("#search").value;
  const answer = await ask(`${data.urls.conversations}?q=${encodeURIComponent(query)}`);
  if (query !== $("#search").value) return;
  if (!answer.ok) return failed(answer);
  const rows = answer.value.conversations;
  $("#conversations").replaceChildren(...rows.map((row) => {
    const [item, link] = [document.createElement("li"), document.createElement("a")];
    [link.href, link.textContent] = [row.url, row.title];
    if (row.id === current.id) link.setAttribute("aria-current", "page");
    item.append(link);
    return item;
  }));
  $("#none").hidden = rows.length > 0;
  $("#none").textContent = say(query ? "nothingFound" : "none");
}

let searching;
$("#search").addEventListener("input", () => {
  clearTimeout(searching);
  searching = setTimeout(listConversations, 150);
});
$(".search").addEventListener("submit", (event) => {
  event.preventDefault();
  listConversations();
});

// --- A new title, and deletion ----------------------------------------------------------------------------------------

export function askForTitle() {
  problem("");
  $("#new-title").value = $("#title").textContent;
  $("#rename").showModal();
  $("#new-title").select();
}

$("#rename-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  problem("");
  const answer = await ask(`/c/${current.id}/rename`, new FormData(event.target));
  if (answer.status === 401) keepForm(event.target);
  if (answer.value.errors) return problem(Object.values(answer.value.errors).flat().join(" "));
  if (!answer.ok) return failed(answer);
  entitle(answer.value.title);
  $("#rename").close();
  listConversations();
});

$("#delete-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  problem("");
  const answer = await ask(`/c/${current.id}/delete`, {});
  if (!answer.ok) return failed(answer);
  keep(`draft:${current.id}`, "");
  location.assign(data.urls.new);
});

reopenForm($("#rename-form"));
