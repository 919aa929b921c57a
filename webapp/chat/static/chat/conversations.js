// Which conversation is open, with its title and its unsent draft; and the list of all conversations.

import { $, data, post, problem, say } from "./page.js";

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

function entitle(title) {
  $("#title").textContent = title;
  document.title = `${title} · Klepon`;
}

// The skip link leads to a place in this page, not to another conversation.
addEventListener("popstate", () => location.pathname === address() || location.reload());

// --- The draft: what is written and not yet stored --------------------------------------------------------------------

const draftKey = () => `draft:${current.id ?? ""}`;

export function draft() {
  return sessionStorage.getItem(draftKey()) ?? "";
}

export function keepDraft(text) {
  sessionStorage.setItem(draftKey(), text);
}

// --- The list ---------------------------------------------------------------------------------------------------------

/** Show all conversations, or those that hold what is searched for. */
export async function listConversations() {
  const query = $("#search").value;
  const response = await fetch(`${data.urls.conversations}?q=${encodeURIComponent(query)}`);
  if (!response.ok) return;
  const rows = (await response.json()).conversations;
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
  $("#new-title").value = $("#title").textContent;
  $("#rename").showModal();
  $("#new-title").select();
}

$("#rename-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { ok, value } = await post(`/c/${current.id}/rename`, new FormData(event.target));
  if (!ok) return problem(Object.values(value.errors ?? {}).flat().join(" ") || say("somethingWrong"));
  entitle(value.title);
  $("#rename").close();
  listConversations();
});

$("#delete-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { ok } = await post(`/c/${current.id}/delete`, {});
  if (!ok) return problem(say("somethingWrong"));
  sessionStorage.removeItem(draftKey());
  location.assign(data.urls.new);
});
