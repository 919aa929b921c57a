// Which adapter answers: the chat's own, or any other that a worker offers.

import { $ } from "./page.js";

const choice = $("#adapter");
let offered = "";

/** The name of the chosen adapter; empty: the chat's own. */
export const adapter = () => (choice.hidden ? "" : choice.value);

/** These workers are there: what they offer can be chosen. */
export function offer(workers) {
  const adapters = new Map((workers ?? []).flatMap((worker) => worker.adapters ?? []).map((one) => [one.name, one.scores]));
  const now = JSON.stringify([...adapters]);
  if (now === offered) return;
  offered = now;
  const chosen = choice.value;
  choice.replaceChildren(choice.options[0], ...[...adapters].map(([name, scores]) => {
    const option = document.createElement("option");
    option.value = name;
    option.textContent = scores ? `${name} (${scores})` : name;
    return option;
  }));
  choice.value = adapters.has(chosen) ? chosen : "";
  choice.hidden = !adapters.size;
}
