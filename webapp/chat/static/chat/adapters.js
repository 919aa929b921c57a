// Which adapter answers: the chat's own, or any other that a worker offers; and which one beside it, in a pair.

import { $ } from "./page.js";

const choices = [$("#adapter"), $("#rival")];
let offered = "";

const chosen = (choice) => (choice.hidden ? "" : choice.value);

/** The name of the chosen adapter; empty: the chat's own. */
export const adapter = () => chosen(choices[0]);

/** The name of the adapter beside it in a pair; empty: the original model. */
export const rival = () => chosen(choices[1]);

/** These workers are there: what they offer can be chosen. */
export function offer(workers) {
  const adapters = new Map((workers ?? []).flatMap((worker) => worker.adapters ?? []).map((one) => [one.name, one.scores]));
  const now = JSON.stringify([...adapters]);
  if (now === offered) return;
  offered = now;
  for (const choice of choices) {
    const before = choice.value;
    choice.replaceChildren(choice.options[0], ...[...adapters].map(([name, scores]) => {
      const option = document.createElement("option");
      option.value = name;
      option.textContent = scores ? `${name} (${scores})` : name;
      return option;
    }));
    choice.value = adapters.has(before) ? before : "";
    choice.hidden = !adapters.size;
  }
}
