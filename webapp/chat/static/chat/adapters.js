// Which adapter answers: the chat's own, or any other that a worker offers; and which one beside it, in a pair.

import { keep, kept } from "./drafts.js";
import { $ } from "./page.js";

const choices = [$("#adapter"), $("#rival")];
let offered = ""; // what workers offered last, as JSON; empty: none was heard of yet

// What was chosen before a reload holds before any worker is heard of.
const chosen = (choice) => (offered ? choice.value : kept(choice.id));

/** The name of the chosen adapter; empty: the chat's own. */
export const adapter = () => chosen(choices[0]);

/** The name of the adapter beside it in a pair; empty: the original model. */
export const rival = () => chosen(choices[1]);

/** These workers are there: what they offer can be chosen. Where there is none, the next may offer what the last did. */
export function offer(workers) {
  if (!workers?.length) return;
  const adapters = new Map(workers.flatMap((worker) => worker.adapters).map((one) => [one.name, one.scores]));
  const now = JSON.stringify([...adapters]);
  if (now === offered) return;
  offered = now;
  for (const choice of choices) {
    choice.replaceChildren(choice.options[0], ...[...adapters].map(([name, scores]) => {
      const option = document.createElement("option");
      option.value = name;
      option.textContent = scores ? `${name} (${scores})` : name;
      return option;
    }));
    choice.value = adapters.has(kept(choice.id)) ? kept(choice.id) : "";
    choice.hidden = !adapters.size;
  }
}

for (const choice of choices) choice.addEventListener("change", () => keep(choice.id, choice.value));
