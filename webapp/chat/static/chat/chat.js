// The page: what the person does goes to the socket, what the socket says goes into the tree, the tree is drawn.

import { Acts } from "./acts.js";
import { Announcer } from "./announce.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { current, enter, listConversations } from "./conversations.js";
import { keep, kept } from "./drafts.js";
import { carrySystem, showSystem } from "./given.js";
import { withThought } from "./markdown.js";
import { $, data, problem, say } from "./page.js";
import { settle, steady, stick } from "./scroll.js";
import { asked } from "./settings.js";
import { connectionIs, serverIs } from "./status.js";
import { surround } from "./surroundings.js";
import { isBlind, Tree } from "./tree.js";
import { View } from "./view.js";

const tree = new Tree();
const view = new View($("#turns"), say, steady);
const announcer = new Announcer($("#announcer"));
const followed = new Set(); // answers that began while this page was open: those are read out
let since = data.now;
let gone = false; // deleted in another tab

const connection = new Connection(
  data.urls.socket.replace(/^/, location.origin.replace(/^http/, "ws")),
  () => ({ user: data.user, conversation: current.id, cursors: tree.cursors(), since }),
  { frame: receive, state: connectionIs },
);

// --- What the server says ---------------------------------------------------------------------------------------------

function receive(frame) {
  switch (frame.type) {
    case "ready":
      since = frame.now;
      take(frame.messages);
      serverIs({ online: frame.online, workers: frame.workers });
      break;
    case "status":
      serverIs({ online: frame.online, workers: frame.workers });
      break;
    case "accepted":
      accept(frame);
      break;
    case "queued": {
      const message = tree.place(frame);
      if (message) view.touch(message, settle);
      break;
    }
    case "events":
      hear(tree.apply(frame.gid, frame.items));
      break;
    case "messages":
      take(frame.messages);
      break;
    case "busy":
      refused(frame);
      break;
    case "error":
      if (frame.code === "sockets" || frame.code === "version") break;
      if (frame.code === "unknown" && !frame.cid) return deletedElsewhere();
      if (frame.code === "unavailable") serverIs({ online: false });
      else refused(frame);
      // Perhaps all of it is gone.
      if (frame.code === "unknown" && current.id) connection.refresh();
      break;
  }
}

function take(messages) {
  if (!messages.length) return;
  for (const message of messages) {
    tree.put(message);
    if (message.state === "ended") connection.seen(message.id);
  }
  draw();
}

function accept(frame) {
  const messages = frame.messages.map((message) => tree.put(message));
  for (const gid of frame.gids) followed.add(gid);
  // Who asks for the rest of an answer has heard its beginning.
  for (const { id, given } of messages) if (given) announcer.skip(id, withThought(given).said);
  tree.show([messages.at(-1).id]);
  // Before the conversation has an id: the draft was kept without one.
  composer.stored(frame.cid, frame.conversation.id);
  acts.answered(frame.cid, true);
  if (messages[0].role === "user") carrySystem(frame.conversation.id, messages.at(-1).system);
  enter(frame.conversation);
  if (frame.gids.length) announcer.say(say("writing"));
  stick();
  draw();
  listConversations();
}

/** The conversation is gone; what was being written is not. The next page finds it as its draft. */
function deletedElsewhere() {
  keep("draft:", $("#text").value || kept("draft:"));
  keep(`draft:${current.id}`, "");
  carrySystem(null);
  current.id = null;
  gone = true;
  $("#menu").hidden = true;
  const link = document.createElement("a");
  [link.href, link.textContent] = [data.urls.new, say("writeAnew")];
  problem(say("deletedElsewhere"), " ", link);
  listConversations();
}

function refused(frame) {
  composer.refused(frame.cid);
  acts.answered(frame.cid, false);
  problem(frame.message);
  draw();
}

function hear(message) {
  if (!message) return;
  if (followed.has(message.id) && !message.pair) announcer.follow(message.id, withThought(message.text).said, message.state === "ended");
  const ended = message.state === "ended";
  view.touch(message, settle);
  if (!ended) return;
  connection.seen(message.id);
  const group = tree.path().find((one) => one.messages.includes(message));
  if (followed.has(message.id) && group?.messages.every((one) => one.state === "ended")) {
    const counts = group.messages.every((one) => one.finish === "stop");
    announcer.say(say(!isBlind(message) ? "finished" : counts ? "bothFinished" : "noVote"));
  }
  composer.controls();
}

function draw() {
  const path = tree.path();
  view.draw(path);
  $("#welcome").hidden = path.length > 0 || Boolean(current.id);
  document.body.classList.toggle("empty", path.length === 0);
  const leaf = tree.leaf();
  showSystem(current.id, leaf?.system ?? "");
  if (current.id) {
    // Where nothing was chosen, the newest is shown, whatever that is by then.
    keep(`leaf:${current.id}`, path.some((group) => group.index < group.of - 1) ? leaf.id : "");
    $("#menu").hidden = false;
    $("[data-export=md]").href = `/c/${current.id}/export.md${leaf ? `?leaf=${leaf.id}` : ""}`;
    $("[data-export=html]").href = `/c/${current.id}/export.html${leaf ? `?leaf=${leaf.id}` : ""}`;
    $("[data-export=json]").href = `/c/${current.id}/export.json`;
  }
  composer.controls();
  settle();
}

// --- What the person does ---------------------------------------------------------------------------------------------

const acts = new Acts({ tree, view, announcer, ask: (frame) => connection.ask(frame), draw });

const composer = new Composer({
  ask(text) {
    if (gone) return location.assign(data.urls.new);
    const place = { conversation: current.id, parent: tree.leaf()?.id ?? null };
    return connection.ask({ type: "send", ...place, text, ...asked() });
  },
  writing: () => tree.live().length > 0,
  editLast() {
    const last = tree.path().findLast((group) => group.messages[0].role === "user");
    const turn = last && view.turns.get(last.key);
    if (turn) acts.edit(turn);
    return Boolean(turn);
  },
});

surround({
  announcer,
  stops: () => composer.settled(),
  stop() {
    for (const message of tree.live()) connection.insist({ type: "stop", cid: message.id, gid: message.id });
  },
  copyLast() {
    const last = view.sides.get(tree.leaf()?.id);
    // Which of two is copied would say whose it is.
    if (last && !isBlind(last.message)) acts.copy(last.message.text, $("[data-act=copy]", last.element));
  },
});

document.addEventListener("click", (event) => {
  const sample = event.target.closest("[data-sample]");
  if (sample) composer.send(sample.dataset.sample);
});

for (const message of data.messages) {
  tree.put(message);
  announcer.skip(message.id, withThought(message.text).said);
}
tree.show([kept(`leaf:${current.id}`)]);
draw();
acts.reopen();
composer.grow();
