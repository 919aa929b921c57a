// The end of the conversation: it stays in sight while it grows, unless the person looks away from it.

import { $ } from "./page.js";

const scroll = $("#scroll");
const turns = $("#turns");
let sticking = true;

/** From now on the end stays in sight. */
export function stick() {
  sticking = true;
}

/** The person looks at something else. */
export function unstick() {
  sticking = false;
}

/** Something may have grown. */
export function settle() {
  // The welcome is read from its beginning.
  if (sticking && turns.childElementCount) scroll.scrollTop = scroll.scrollHeight;
  offerTheEnd();
}

const below = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight;

function offerTheEnd() {
  $("[data-do=down]").hidden = !turns.childElementCount || below() < 120;
}

scroll.addEventListener("scroll", () => {
  sticking = below() < 40;
  offerTheEnd();
}, { passive: true });
new ResizeObserver(settle).observe(scroll);
