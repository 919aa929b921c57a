// How the connection, the queue and the models are: the banner, and the model's name above the conversation.

import { offer } from "./adapters.js";
import { $, loginLink, say } from "./page.js";

let trouble = "connecting";
let server = { online: true, workers: null };

/** The connection is "open", or this is why not. */
export function connectionIs(state) {
  if (trouble === "expired") return;
  trouble = state === "open" ? "" : state;
  show();
}

/** Whether the queue responds (`online`), and which workers there are; what is not given is as before. */
export function serverIs(given) {
  server = { ...server, ...given };
  offer(server.workers);
  show();
}

function show() {
  const { online, workers } = server;
  const model = workers?.[0];
  $("#model").textContent = trouble === "connecting" ? say("connecting") : model ? model.model : "";
  let banner = "";
  if (trouble && trouble !== "connecting") banner = say({ closed: "offline" }[trouble] ?? trouble);
  else if (!online) banner = say("redisDown");
  else if (workers && !workers.length) banner = say("noWorker");
  const element = $("#banner");
  if (element.textContent === banner && trouble !== "expired") return;
  element.textContent = banner;
  element.hidden = !banner;
  if (trouble === "expired") element.append(" ", loginLink());
}

show();
