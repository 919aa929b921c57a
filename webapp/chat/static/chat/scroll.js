// The end of the conversation: it stays in sight while it grows, unless the person looks away from it.

import { $ } from "./page.js";

const scroll = $("#scroll");
const turns = $("#turns");
let sticking = true;
let top = 0;
let finger = 0;

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

/** Change the height of turns without moving the one that is looked at. */
export function steady(change) {
  const one = sticking ? null : firstInSight();
  const before = one?.getBoundingClientRect().top;
  change();
  if (one) scroll.scrollTop += one.getBoundingClientRect().top - before;
  else settle();
}

function firstInSight() {
  const edge = scroll.getBoundingClientRect().top;
  let [low, high] = [0, turns.childElementCount - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (turns.children[middle].getBoundingClientRect().bottom > edge) high = middle;
    else low = middle + 1;
  }
  return turns.children[low];
}

const below = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight;

function offerTheEnd() {
  $("[data-do=down]").hidden = !turns.childElementCount || below() < 120;
}

scroll.addEventListener("scroll", () => {
  // Down to the end is to follow it; up by a key or the scroll bar is to look away.
  if (scroll.scrollTop > top) sticking ||= below() < 40;
  else if (below() >= 40) sticking = false;
  top = scroll.scrollTop;
  offerTheEnd();
}, { passive: true });
scroll.addEventListener("wheel", (event) => {
  if (event.deltaY < 0) unstick();
}, { passive: true });
scroll.addEventListener("touchstart", (event) => {
  finger = event.touches[0].clientY;
}, { passive: true });
scroll.addEventListener("touchmove", (event) => {
  if (event.touches[0].clientY > finger) unstick();
  finger = event.touches[0].clientY;
}, { passive: true });
new ResizeObserver(settle).observe(scroll);
