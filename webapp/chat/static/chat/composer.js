// Where a text is written and sent. It stays there until the server has it.

import { current } from "./conversations.js";
import { keep, kept } from "./drafts.js";
import { $, blank, composing, data, problem, say, sends, size } from "./page.js";

const text = $("#text");

/** A second click meets the button that has just taken the first one's place, and means nothing by it. */
const SECOND_CLICK_MS = 500;

const draft = () => `draft:${current.id ?? ""}`;

export class Composer {
  /**
   * @param {{ask: (text: string) => string, writing: () => boolean, editLast: () => boolean}} chat
   *   ask: send a text to the server; returns the cid of its frame
   *   writing: whether an answer is being written
   *   editLast: open the last text of the person for editing; returns whether there is one
   */
  constructor(chat) {
    this.chat = chat;
    this.sent = null; // the cid of what is on its way
    this.swapped = -Infinity; // when Send and Stop last took each other's place
    const before = kept(draft());
    // Somebody may write before this script is there.
    if (text.value) keep(draft(), text.value);
    // A page that was left while its text was on its way may find it said already.
    else if (!data.messages.some((message) => message.role === "user" && message.text === before)) text.value = before;
    const target = $(`[name=target][value="${kept("target")}"]`);
    if (target) target.checked = true;
    $(".targets").addEventListener("change", (event) => keep("target", event.target.value));
    $("#send").addEventListener("click", (event) => {
      if (event.detail && !this.settled()) event.preventDefault();
    });
    $("#composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(text.value);
    });
    text.addEventListener("keydown", (event) => this.key(event));
    text.addEventListener("input", () => {
      problem("");
      this.grow();
      keep(draft(), text.value);
    });
  }

  /** Whether a click on Send or Stop is meant for it. */
  settled() {
    return performance.now() - this.swapped > SECOND_CLICK_MS;
  }

  /** Send what is written here, or a sample, which leaves what is written here as it is. */
  send(value) {
    if (this.sent || blank(value) || value.length > data.limit) return;
    if (this.chat.writing()) return problem(say("stillWriting"));
    problem("");
    this.sent = this.chat.ask(value);
    text.readOnly = value === text.value;
    this.controls();
  }

  /** The server has stored in this conversation what came under this cid. A sample's draft goes along. */
  stored(cid, conversation) {
    if (cid !== this.sent) return;
    this.sent = null;
    keep(draft(), "");
    if (text.readOnly) text.value = "";
    text.readOnly = false;
    keep(`draft:${conversation}`, text.value);
    this.grow();
  }

  /** What came under this cid came to nothing: it is still there, to be sent again. */
  refused(cid) {
    if (!cid || cid !== this.sent) return;
    this.sent = null;
    text.readOnly = false;
  }

  grow() {
    size(text);
    const have = text.value.length;
    $("#count").hidden = have < data.limit * 0.9;
    $("#count").textContent = `${have}/${data.limit}`;
    $("#count").classList.toggle("over", have > data.limit);
    if (have > data.limit) problem(say("tooMany", { have, most: data.limit }));
    this.controls();
  }

  /** While an answer is written, the button stops it; else it sends, if there is something to send. */
  controls() {
    const writing = this.chat.writing();
    if (writing === $("#stop").hidden) this.swapped = performance.now();
    $("#stop").hidden = !writing;
    $("#send").hidden = writing;
    $("#send").disabled = blank(text.value) || text.value.length > data.limit || Boolean(this.sent);
  }

  key(event) {
    if (sends(event)) {
      event.preventDefault();
      this.send(text.value);
    } else if (event.key === "ArrowUp" && !composing(event) && !text.value && this.chat.editLast()) event.preventDefault();
  }
}
