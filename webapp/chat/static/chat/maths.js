// Mathematics in answers: \(…\), \[…\], $$…$$, and $…$ where it cannot be a sum of money. What stands between is TeX.
// KaTeX makes MathML of it, which browsers set themselves: it needs no fonts and no styles that the page's policy forbids.

/** For these KaTeX writes a style into the page, which the policy forbids. */
const STYLED = /\\(?:pmb|fcolorbox)\b/;

const PAIRS = [["\\(", "\\)"], ["\\[", "\\]"], ["$$", "$$"]];

/** Teach a markdown-it parser to find mathematics; it comes out as `<span class="math">` with its source. */
export function findMaths(parser) {
  // Before the escapes, to which \( is a bracket and \, a comma.
  parser.inline.ruler.before("escape", "math", inline);
  // Before all that begins with - or = in a line.
  parser.block.ruler.before("fence", "math", block, { alt: ["paragraph", "reference", "blockquote", "list"] });
  parser.renderer.rules.math = (tokens, index) => {
    const { content } = tokens[index];
    const kind = content.startsWith("\\(") || /^\$[^$]/.test(content) ? "math" : "math display";
    return `<span class="${kind}">${parser.utils.escapeHtml(content)}</span>`;
  };
}

function inline(state, silent) {
  const end = endOfMaths(state.src, state.pos, state.posMax, (state.unclosed ??= new Map()));
  if (!end) return false;
  if (!silent) state.push("math", "", 0).content = state.src.slice(state.pos, end);
  state.pos = end;
  return true;
}

/** Where the mathematics ends that begins here, or 0. `unclosed`: from where on there is no closing mark any more. */
function endOfMaths(text, from, most, unclosed) {
  const pair = PAIRS.find(([open]) => text.startsWith(open, from));
  if (from >= unclosed.get(pair)) return 0;
  if (pair) {
    const close = text.indexOf(pair[1], from + 2);
    if (close < 0) unclosed.set(pair, from);
    return close > from + 2 && close + 2 <= most && text.slice(from + 2, close).trim() ? close + 2 : 0;
  }
  // Not US$5, "$5 dan $6", $5-$10: no letter before, no blank inside at either end, no digit after.
  if (text[from] !== "$" || /[\p{L}\p{N}\\]/u.test(text[from - 1] ?? "")) return 0;
  const found = /^\$(?![\s$])((?:\\.|[^$\\\n])*?(?:\\.|[^\s\\$]))\$(?![\p{L}\p{N}])/u.exec(text.slice(from, Math.min(most, from + 1_000)));
  return found ? from + found[0].length : 0;
}

function block(state, first, last, silent) {
  const line = (number) => state.src.slice(state.bMarks[number] + state.tShift[number], state.eMarks[number]).trimEnd();
  const pair = PAIRS.find(([open]) => open !== "\\(" && line(first).startsWith(open));
  if (!pair || state.sCount[first] - state.blkIndent >= 4) return false;
  // Where one formula found no end, neither does one that begins on the way there.
  const vain = (state.env.vain ??= new Map());
  const [from, to] = vain.get(pair) ?? [];
  if (first >= from && first < to) return false;
  const lines = [line(first)];
  const ended = () => lines.at(-1).slice(lines.length > 1 ? 0 : 2).includes(pair[1]);
  // A formula has no empty line.
  while (!ended() && first + lines.length < last && line(first + lines.length)) lines.push(line(first + lines.length));
  const text = lines.join("\n");
  if (!ended() || text.slice(2).indexOf(pair[1]) !== text.length - 4 || !text.slice(2, -2).trim()) {
    vain.set(pair, [first, first + lines.length - 1]);
    return false;
  }
  if (silent) return true;
  state.line = first + lines.length;
  const open = state.push("paragraph_open", "p", 1);
  open.map = [first, state.line];
  state.push("math", "", 0).content = text;
  state.push("paragraph_close", "p", -1);
  return true;
}

let loading;

/** Set the mathematics in an element; what KaTeX does not understand stays as it was written. */
export async function setMaths(element) {
  const places = element.querySelectorAll(".math");
  if (!places.length) return;
  loading ??= import("./vendor/katex.min.js");
  await loading;
  for (const place of places) {
    const source = place.textContent;
    if (STYLED.test(source)) continue;
    const cut = /^\$[^$]/.test(source) ? 1 : 2;
    const set = document.createElement("span");
    const display = place.classList.contains("display");
    try {
      globalThis.katex.render(source.slice(cut, -cut), set, {
        output: "mathml", displayMode: display, strict: "ignore", maxSize: 20, maxExpand: 1_000,
      });
    } catch {
      continue;
    }
    place.replaceChildren(...set.childNodes);
    // Wide ones scroll, so they take the keyboard.
    if (display) place.tabIndex = 0;
  }
}
