// The page: what the person does goes to the socket, what the socket says goes into the tree, the tree is drawn.

import { Announcer } from "./announce.js";
import { Connection } from "./connection.js";
import { Tree } from "./tree.js";
import { View } from "./view.js";

const $ = (selector, within = document) => within.querySelector(selector);
const data = JSON.parse($("#data").textContent);
const token = $("[name=csrfmiddlewaretoken]").value;

/** A sentence of the page's language, with its {places} filled. */
function say(name, values = {}) {
  return data.strings[name].replace(/\{(\w+)\}/g, (place, key) => values[key] ?? place);
}

const tree = new Tree();
const view = new View($("#turns"), say);
const announcer = new Announcer($("#announcer"));
const scroll = $("#scroll");
const text = $("#text");
const followed = new Set(); // answers that began while this page was open: those are read out
let conversation = data.conversation;
let since = data.now;
let trouble = "connecting";
let status = { online: true, workers: null };
let sent = null; // the cid of what is on its way
let sticking = true; // to the end of what is written

const connection = new Connection(
  data.urls.socket.replace(/^/, location.origin.replace(/^http/, "ws")),
  () => ({ conversation, cursors: tree.cursors(), since }),
  { frame: receive, state: (state) => { trouble = state === "open" ? "" : state; showStatus(); } },
);

// --- What the server says ---------------------------------------------------------------------------------------------

function receive(frame) {
  switch (frame.type) {
    case "ready":
      since = frame.now;
      status = frame;
      take(frame.messages);
      showStatus();
      break;
    case "status":
      status = frame;
      showStatus();
      break;
    case "accepted":
      accept(frame);
      break;
    case "queued": {
      const message = tree.messages.get(frame.gid);
      if (message?.state === "queued" && !message.text) {
        message.place = frame;
        view.touch(message, settle);
      }
      break;
    }
    case "events":
      hear(tree.apply(frame.gid, frame.items));
      break;
    case "message":
      take([frame.message]);
      break;
    case "busy":
      refused(frame);
      break;
    case "error":
      if (frame.code === "sockets" || frame.code === "version") break;
      // Deleted in another tab.
      if (frame.code === "unknown" && !frame.cid) return location.assign(data.urls.new);
      if (frame.code === "unavailable") status = { ...status, online: false };
      else refused(frame);
      showStatus();
      break;
  }
}

function take(messages) {
  if (!messages.length) return;
  for (const message of messages) tree.put(message);
  draw();
}

function accept(frame) {
  const messages = frame.messages.map((message) => tree.put(message));
  for (const gid of frame.gids) followed.add(gid);
  tree.show([messages.at(-1).id]);
  if (frame.cid === sent?.cid) {
    sent = null;
    text.value = "";
    text.readOnly = false;
    grow();
    saveDraft();
  }
  if (!conversation) {
    conversation = frame.conversation.id;
    history.pushState(null, "", address());
  }
  title(frame.conversation.title);
  if (frame.gids.length) announcer.say(say("writing"));
  sticking = true;
  draw();
  listConversations();
}

/** A frame came to nothing: what was written is still there, to be sent again. */
function refused(frame) {
  if (frame.cid && frame.cid === sent?.cid) {
    sent = null;
    text.readOnly = false;
  }
  problem(frame.message);
  draw();
}

function hear(message) {
  if (!message) return;
  if (followed.has(message.id) && !message.pair) announcer.follow(message.id, message.text, message.state === "ended");
  const ended = message.state === "ended";
  view.touch(message, settle);
  if (!ended) return;
  const group = tree.path().find((one) => one.messages.includes(message));
  if (followed.has(message.id) && group?.messages.every((one) => one.state === "ended")) {
    announcer.say(say(message.pair && !message.pair.choice ? "bothFinished" : "finished"));
  }
  controls();
}

// --- What is shown ----------------------------------------------------------------------------------------------------

function draw() {
  const path = tree.path();
  view.draw(path);
  $("#welcome").hidden = path.length > 0 || Boolean(conversation);
  document.body.classList.toggle("empty", path.length === 0);
  const leaf = tree.leaf();
  if (conversation) {
    $("#menu").hidden = false;
    $("[data-export=md]").href = `/c/${conversation}/export.md${leaf ? `?leaf=${leaf.id}` : ""}`;
    $("[data-export=json]").href = `/c/${conversation}/export.json`;
  }
  controls();
  settle();
}

function controls() {
  const live = tree.live().length > 0;
  $("#stop").hidden = !live;
  $("#send").hidden = live;
  $("#send").disabled = !text.value.trim() || text.value.length > data.limit || Boolean(sent);
}

/** Stay at the end while it grows, unless the person looked away from it. */
function settle() {
  // The welcome is read from its beginning.
  if (sticking && view.turns.size) scroll.scrollTop = scroll.scrollHeight;
  atEnd();
}

function atEnd() {
  $("[data-do=down]").hidden = !view.turns.size || scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120;
}

function showStatus() {
  const workers = status.workers;
  const model = workers?.[0];
  $("#model").textContent = trouble === "connecting" ? say("connecting") : model ? model.model : "";
  let banner = "";
  if (trouble && trouble !== "connecting") banner = say({ closed: "offline" }[trouble] ?? trouble);
  else if (!status.online) banner = say("redisDown");
  else if (workers && !workers.length) banner = say("noWorker");
  const element = $("#banner");
  if (element.textContent === banner && trouble !== "expired") return;
  element.textContent = banner;
  element.hidden = !banner;
  if (trouble === "expired") {
    const link = document.createElement("a");
    link.href = `${data.urls.login}?next=${encodeURIComponent(location.pathname)}`;
    link.textContent = say("logInAgain");
    element.append(" ", link);
  }
}

/** The path of the conversation that is shown. */
function address() {
  return conversation ? `${data.urls.new}c/${conversation}/` : data.urls.new;
}

function title(value) {
  $("#title").textContent = value;
  document.title = `${value} · Klepon`;
}

function problem(sentence) {
  $("#problem").textContent = sentence;
}

async function listConversations() {
  const query = $("#search").value;
  const response = await fetch(`${data.urls.conversations}?q=${encodeURIComponent(query)}`);
  if (!response.ok) return;
  const rows = (await response.json()).conversations;
  $("#conversations").replaceChildren(...rows.map((row) => {
    const [item, link] = [document.createElement("li"), document.createElement("a")];
    [link.href, link.textContent] = [row.url, row.title];
    if (row.id === conversation) link.setAttribute("aria-current", "page");
    item.append(link);
    return item;
  }));
  $("#none").hidden = rows.length > 0;
  $("#none").textContent = say(query ? "nothingFound" : "none");
}

// --- What the person does ---------------------------------------------------------------------------------------------

function settings() {
  const values = {};
  for (const field of $("#settings-form").elements) {
    if (!field.name || field.name === "csrfmiddlewaretoken") continue;
    if (field.type === "checkbox") values[field.name] = field.checked;
    else if (field.value !== "") values[field.name] = Number(field.value);
  }
  return values;
}

const target = () => $("[name=target]:checked").value;

function send(value) {
  if (sent || !value.trim() || value.length > data.limit || tree.live().length) return;
  problem("");
  const cid = connection.ask({
    type: "send", conversation, parent: tree.leaf()?.id ?? null, text: value, settings: settings(), target: target(),
  });
  // It stays where it was written until the server has it.
  sent = { cid };
  text.value = value;
  text.readOnly = true;
  grow();
  saveDraft();
}

function stop() {
  for (const message of tree.live()) connection.write({ type: "stop", gid: message.id });
}

function again(message, given = {}) {
  problem("");
  connection.ask({ type: "regenerate", message: message.id, ...given });
}

function edit(turn) {
  const { element } = turn;
  const form = $(".editor", element);
  const field = $("textarea", form);
  field.value = turn.group.messages[0].text;
  form.hidden = false;
  element.classList.add("editing");
  size(field);
  field.focus();
  field.setSelectionRange(field.value.length, field.value.length);
}

function endEdit(turn) {
  $(".editor", turn.element).hidden = true;
  turn.element.classList.remove("editing");
  text.focus();
}

async function copy(value, button) {
  await navigator.clipboard.writeText(value);
  button.classList.add("done");
  announcer.say(say("copied"));
  setTimeout(() => button.classList.remove("done"), 1_500);
}

async function post(url, values) {
  const headers = { "X-CSRFToken": token, Accept: "application/json" };
  const response = await fetch(url, { method: "POST", headers, body: new URLSearchParams(values) });
  return { ok: response.ok, status: response.status, value: await response.json().catch(() => ({})) };
}

async function vote(turn, choice) {
  const { pair } = turn.group.messages[0];
  const { ok, status: code, value } = await post(`/pairs/${pair.id}/vote`, { choice });
  if (!ok && !(code === 409 && value.choice)) return problem(value.error ?? say("somethingWrong"));
  for (const message of turn.group.messages) message.pair = value;
  draw();
}

const acts = {
  copy(turn, button) {
    const side = button.closest("[data-message]");
    copy(tree.messages.get(side.dataset.message).text, button);
  },
  "copy-code": (turn, button) => copy($("code", button.closest(".code")).textContent, button),
  edit: (turn) => edit(turn),
  "cancel-edit": (turn) => endEdit(turn),
  previous: (turn) => branch(turn, -1),
  next: (turn) => branch(turn, 1),
  again: (turn) => again(turn.group.messages[0], { settings: { ...settings(), seed: null } }),
  retry: (turn) => again(turn.group.messages[0]),
  reproduce(turn, button) {
    const message = tree.messages.get(button.closest("[data-message]").dataset.message);
    again(message, { settings: { ...message.settings, seed: message.seed }, target: message.target });
  },
  compare(turn, button) {
    const on = button.getAttribute("aria-pressed") !== "true";
    const sentence = view.compare(turn, on);
    button.setAttribute("aria-pressed", String(on && !sentence));
    problem(sentence);
  },
  "vote-left": (turn) => vote(turn, turn.group.messages[0].pair.left),
  "vote-right": (turn) => vote(turn, turn.group.messages[0].pair.left === "base" ? "adapter" : "base"),
  "vote-tie": (turn) => vote(turn, "tie"),
  "vote-bad": (turn) => vote(turn, "both_bad"),
  reveal: (turn) => vote(turn, "seen"),
};

function branch(turn, step) {
  const { spot, keys, index } = turn.group;
  sticking = false;
  tree.choose(spot, keys[index + step]);
  draw();
}

$("#turns").addEventListener("click", (event) => {
  const button = event.target.closest("[data-act]");
  const turn = button && view.turnOf(button);
  if (turn) acts[button.dataset.act]?.(turn, button);
});

$("#turns").addEventListener("submit", (event) => {
  event.preventDefault();
  const turn = view.turnOf(event.target);
  const value = $("textarea", event.target).value;
  if (!value.trim() || tree.live().length) return;
  endEdit(turn);
  problem("");
  connection.ask({ type: "edit", message: turn.group.messages[0].id, text: value, settings: settings(), target: target() });
});

const themes = ["auto", "light", "dark"];
const dos = {
  "open-side": () => side(true),
  "close-side": () => side(false),
  settings: () => $("#settings").showModal(),
  keys: () => $("#keys").showModal(),
  rename() {
    $("#new-title").value = $("#title").textContent;
    $("#rename").showModal();
    $("#new-title").select();
  },
  delete: () => $("#delete").showModal(),
  "close-dialog": (button) => button.closest("dialog").close(),
  stop,
  down() {
    sticking = true;
    settle();
  },
  theme(button) {
    const root = document.documentElement;
    const next = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
    root.dataset.theme = next;
    document.cookie = `theme=${next};path=/;max-age=31536000;samesite=lax`;
    nameTheme(button);
    announcer.say(button.ariaLabel);
  },
};

function nameTheme(button) {
  const { theme } = document.documentElement.dataset;
  button.ariaLabel = button.title = say({ auto: "themeAuto", light: "themeLight", dark: "themeDark" }[theme]);
}

function side(open) {
  document.body.classList.toggle("side-open", open);
  $("[data-do=open-side]").setAttribute("aria-expanded", String(open));
  if (open) $("#search").focus();
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) dos[button.dataset.do](button);
  const sample = event.target.closest("[data-sample]");
  if (sample) send(sample.dataset.sample);
  for (const open of document.querySelectorAll("details[open].menu, details[open].origin")) {
    if (!open.contains(event.target) || event.target.closest("[data-do], a, [data-act]")) open.open = false;
  }
});

$("#composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send(text.value);
});

text.addEventListener("keydown", (event) => {
  // While an input method composes a letter, Enter belongs to it.
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send(text.value);
  } else if (event.key === "ArrowUp" && !text.value) {
    const turn = [...view.turns.values()].filter((one) => one.kind === "user").at(-1);
    if (turn) {
      event.preventDefault();
      edit(turn);
    }
  }
});

$("#turns").addEventListener("keydown", (event) => {
  const form = event.target.closest(".editor");
  if (!form) return;
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    form.requestSubmit();
  } else if (event.key === "Escape") {
    event.stopPropagation();
    endEdit(view.turnOf(form));
  }
});
$("#turns").addEventListener("input", (event) => size(event.target));

$("#turns").addEventListener("toggle", ({ target: card }) => {
  if (!card.open) return;
  const list = $(".origin-card", card);
  list.classList.remove("below");
  // Nobody can scroll to what stands above the beginning.
  list.classList.toggle("below", list.getBoundingClientRect().top < scroll.getBoundingClientRect().top);
  list.scrollIntoView({ block: "nearest" });
}, true);

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !$("dialog[open]")) {
    const card = $("details[open]");
    if (card) {
      card.open = false;
      $("summary", card).focus();
    } else if (document.body.classList.contains("side-open")) side(false);
    else stop();
  }
  if (!event.altKey || event.ctrlKey || event.metaKey) return;
  const last = [...view.sides.values()].at(-1);
  const keys = {
    KeyN: () => location.assign(data.urls.new),
    KeyK: () => (matchMedia("(width < 56rem)").matches ? side(true) : $("#search").focus()),
    KeyC: () => last && copy(last.message.text, $("[data-act=copy]", last.element)),
  };
  if (keys[event.code]) {
    event.preventDefault();
    keys[event.code]();
  }
});

function size(field) {
  field.rows = Math.min(12, Math.max(1, field.value.split("\n").length));
}

function grow() {
  size(text);
  const over = text.value.length > data.limit;
  $("#count").hidden = text.value.length < data.limit * 0.9;
  $("#count").textContent = `${text.value.length}/${data.limit}`;
  $("#count").classList.toggle("over", over);
  if (over) problem(say("tooMany", { have: text.value.length, most: data.limit }));
  controls();
}

text.addEventListener("input", () => {
  problem("");
  grow();
  saveDraft();
});

function saveDraft() {
  sessionStorage.setItem(`draft:${conversation ?? ""}`, text.value);
}

scroll.addEventListener("scroll", () => {
  sticking = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 40;
  atEnd();
}, { passive: true });
new ResizeObserver(settle).observe(scroll);

let searching;
$("#search").addEventListener("input", () => {
  clearTimeout(searching);
  searching = setTimeout(listConversations, 150);
});
$(".search").addEventListener("submit", (event) => {
  event.preventDefault();
  listConversations();
});

/** Say under each field of the settings what is wrong with it; the first such field is where to go on. */
function complain(errors) {
  const form = $("#settings-form");
  for (const place of form.querySelectorAll("[data-error]")) {
    const sentences = errors[place.dataset.error];
    place.textContent = sentences?.join(" ") ?? "";
    form.elements[place.dataset.error].ariaInvalid = sentences ? "true" : null;
  }
  $("[aria-invalid]", form)?.focus();
}

$("#settings-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  // What the browser cannot read it hands over as nothing, which would mean the model's default.
  const unread = [...form.elements].filter((field) => field.validity?.badInput);
  if (unread.length) return complain(Object.fromEntries(unread.map((field) => [field.name, [field.validationMessage]])));
  const { ok, value } = await post(form.action, new FormData(form));
  complain(value.errors ?? {});
  if (!ok) return;
  for (const field of form.elements) [field.defaultValue, field.defaultChecked] = [field.value, field.checked];
  form.closest("dialog").close();
});

// What was changed and not saved is not sent either.
$("#settings").addEventListener("close", () => {
  $("#settings-form").reset();
  complain({});
  greedyOnly();
});

$("#rename-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { ok, value } = await post(`/c/${conversation}/rename`, new FormData(event.target));
  if (!ok) return problem(Object.values(value.errors ?? {}).flat().join(" ") || say("somethingWrong"));
  title(value.title);
  $("#rename").close();
  listConversations();
});

$("#delete-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { ok } = await post(`/c/${conversation}/delete`, {});
  if (!ok) return problem(say("somethingWrong"));
  sessionStorage.removeItem(`draft:${conversation}`);
  location.assign(data.urls.new);
});

const greedy = $("#id_greedy");
function greedyOnly() {
  for (const name of ["temperature", "top_p", "top_k"]) $(`#id_${name}`).disabled = greedy.checked;
}
greedy.addEventListener("change", greedyOnly);
greedyOnly();

// The skip link leads to a place in this page, not to another conversation.
addEventListener("popstate", () => location.pathname === address() || location.reload());

for (const message of data.messages) {
  tree.put(message);
  announcer.skip(message.id, message.text);
}
const draft = sessionStorage.getItem(`draft:${conversation ?? ""}`) ?? "";
// A page that was left while its text was on its way may find it said already.
if (!data.messages.some((message) => message.role === "user" && message.text === draft)) text.value = draft;
nameTheme($("[data-do=theme]"));
draw();
grow();
showStatus();
