// What stands around the conversation: the list at the side, dialogs, menus, the theme; and the keys that work anywhere.

import { askForTitle, askToDelete, openRow } from "./conversations.js";
import { $, composing, data, say } from "./page.js";
import { settle, stick } from "./scroll.js";

const THEMES = ["auto", "light", "dark"];

/**
 * Listen to the page's buttons and keys.
 *
 * @param {{announcer: Announcer, stop: () => void, stops: () => boolean, copyLast: () => void}} chat
 *   stop: end the answers that are being written
 *   stops: whether a click on Stop is meant
 *   copyLast: copy the last answer
 */
export function surround({ announcer, stop, stops, copyLast }) {
  const dos = { // by data-do
    "open-side": () => side(true),
    "close-side": () => side(false),
    settings: () => $("#settings").showModal(),
    keys: () => $("#keys").showModal(),
    rename: askForTitle,
    delete: askToDelete,
    row: openRow,
    "close-dialog": (button) => button.closest("dialog").close(),
    stop: (button, event) => (stops() || !event.detail) && stop(), // no detail: by a key
    down() {
      stick();
      settle();
    },
    theme(button) {
      nextTheme(button);
      announcer.say(button.ariaLabel);
    },
  };
  document.addEventListener("click", (event) => {
    const { target } = event;
    const button = target.closest("[data-do]");
    if (button) dos[button.dataset.do](button, event);
    for (const open of document.querySelectorAll("details[open].menu, details[open].origin")) {
      if (!open.contains(target) || target.closest("[data-do], a, [data-act]")) open.open = false;
    }
  });
  const keys = {
    KeyN: () => location.assign(data.urls.new),
    KeyK: () => (matchMedia("(width < 56rem)").matches ? side(true) : $("#search").focus()),
    KeyC: copyLast,
  };
  document.addEventListener("keydown", (event) => {
    if (composing(event)) return;
    if (event.key === "Escape" && !$("dialog[open]")) escape(stop);
    if (!event.altKey || event.ctrlKey || event.metaKey) return;
    if (keys[event.code]) {
      event.preventDefault();
      keys[event.code]();
    }
  });
  nameTheme($("[data-do=theme]"));
}

function side(open) {
  document.body.classList.toggle("side-open", open);
  $("[data-do=open-side]").setAttribute("aria-expanded", String(open));
  if (open) $("#search").focus();
}

/** Close what is open; where nothing is, stop. */
function escape(stop) {
  const search = $("#search");
  const card = $("details[open]:is(.menu, .origin)");
  if (card) {
    card.open = false;
    $("summary", card).focus();
  } else if (document.activeElement === search) {
    search.value = "";
    search.dispatchEvent(new Event("input"));
    side(false);
    $("#text").focus();
  } else if (document.body.classList.contains("side-open")) side(false);
  else stop();
}

function nextTheme(button) {
  const root = document.documentElement;
  const next = THEMES[(THEMES.indexOf(root.dataset.theme) + 1) % THEMES.length];
  root.dataset.theme = next;
  document.cookie = `theme=${next};path=/;max-age=31536000;samesite=lax`;
  nameTheme(button);
}

function nameTheme(button) {
  const { theme } = document.documentElement.dataset;
  button.ariaLabel = button.title = say({ auto: "themeAuto", light: "themeLight", dark: "themeDark" }[theme]);
}
