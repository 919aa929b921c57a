// Word differences between two answers, marked in what is shown of them.

/** Longer texts than this, in words, are not compared: the table of the comparison would take too long to fill. */
const MOST = 2_500;

/** Mark the words of each element that the other lacks. Returns "marked", "identical" or "tooLong". */
export function mark(left, right) {
  unmark(left);
  unmark(right);
  const [a, b] = [words(left), words(right)];
  if (Math.max(a.length, b.length) > MOST) return "tooLong";
  const [onlyA, onlyB] = differences(a.map((word) => word.text), b.map((word) => word.text));
  wrap(onlyA.map((index) => a[index]));
  wrap(onlyB.map((index) => b[index]));
  return onlyA.length + onlyB.length ? "marked" : "identical";
}

export function unmark(element) {
  for (const one of element.querySelectorAll("mark")) one.replaceWith(...one.childNodes);
  element.normalize();
}

function words(element) {
  const found = [];
  const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT, (node) =>
    node.parentElement.closest(".code-bar, .math") ? NodeFilter.FILTER_REJECT : NodeFilter.FILTER_ACCEPT);
  while (walker.nextNode()) {
    for (const match of walker.currentNode.data.matchAll(/[\p{L}\p{N}\p{M}]+|[^\s\p{L}\p{N}\p{M}]/gu)) {
      found.push({ node: walker.currentNode, at: match.index, text: match[0] });
    }
  }
  return found;
}

/** The indices of the words that are not part of a longest common subsequence. */
export function differences(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let endA = a.length;
  let endB = b.length;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) [endA, endB] = [endA - 1, endB - 1];
  const [rows, columns] = [endA - start, endB - start];
  const width = columns + 1;
  const length = new Uint16Array((rows + 1) * width); // of the common subsequence of what is left from here on
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      length[i * width + j] = a[start + i] === b[start + j]
        ? length[(i + 1) * width + j + 1] + 1
        : Math.max(length[(i + 1) * width + j], length[i * width + j + 1]);
    }
  }
  const [onlyA, onlyB] = [[], []];
  let [i, j] = [0, 0];
  while (i < rows || j < columns) {
    if (i < rows && j < columns && a[start + i] === b[start + j]) [i, j] = [i + 1, j + 1];
    else if (j >= columns || (i < rows && length[(i + 1) * width + j] >= length[i * width + j + 1])) onlyA.push(start + i++);
    else onlyB.push(start + j++);
  }
  return [onlyA, onlyB];
}

function wrap(found) {
  // From the end, so that the places of earlier words in the same node stay right.
  for (const { node, at, text } of found.reverse()) {
    const word = node.splitText(at);
    word.splitText(text.length);
    const marked = document.createElement("mark");
    word.replaceWith(marked);
    marked.append(word);
  }
}
