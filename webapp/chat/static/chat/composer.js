// Where a text is written and sent. It stays there until the server has it.

import { draft, keepDraft } from "./conversations.js";
import { $, data, problem, say, size } from "./page.js";

const text = $("#text");

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
    const kept = draft();
    // A page that was left while its text was on its way may find it said already.
    if (!data.messages.some((message) => message.role === "user" && message.text === kept)) text.value = kept;
    $("#composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(text.value);
    });
    text.addEventListener("keydown", (event) => this.key(event));
    text.addEventListener("input", () => {
      problem("");
      this.grow();
      keepDraft(text.value);
    });
  }

  send(value) {
    if (this.sent || !value.trim() || value.length > data.limit || this.chat.writing()) return;
    problem("");
    this.sent = this.chat.ask(value);
    this.put(value, true);
  }

  /** The server has stored what came under this cid. */
  stored(cid) {
    if (cid !== this.sent) return;
    this.sent = null;
    this.put("", false);
  }

  /** What came under this cid came to nothing: it is still there, to be sent again. */
  refused(cid) {
    if (!cid || cid !== this.sent) return;
    this.sent = null;
    text.readOnly = false;
  }

  put(value, readOnly) {
    text.value = value;
    text.readOnly = readOnly;
    this.grow();
    keepDraft(value);
  }

  grow() {
    size(text);
    const over = text.value.length > data.limit;
    $("#count").hidden = text.value.length < data.limit * 0.9;
    $("#count").textContent = `${text.value.length}/${data.limit}`;
    $("#count").classList.toggle("over", over);
    if (over) problem(say("tooMany", { have: text.value.length, most: data.limit }));
    this.controls();
  }

  /** While an answer is written, the button stops it; else it sends, if there is something to send. */
  controls() {
    const writing = this.chat.writing();
    $("#stop").hidden = !writing;
    $("#send").hidden = writing;
    $("#send").disabled = !text.value.trim() || text.value.length > data.limit || Boolean(this.sent);
  }

  key(event) {
    // While an input method composes a letter, Enter belongs to it.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send(text.value);
    } else if (event.key === "ArrowUp" && !text.value && this.chat.editLast()) event.preventDefault();
  }
}
