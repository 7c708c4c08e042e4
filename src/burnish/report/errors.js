"use strict";
// Sorting, filtering and marking the rows. Text reaches the page by textContent alone, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const rows = data.rows.map((row, place) => ({ ...row, place, key: row.id }));
const form = document.getElementById("filters");
const list = document.getElementById("list");
const more = document.getElementById("more");
const STEP = 50;
const STORE = `burnish-marks:${data.name}:${data.split}`;
let marks = recall();
let shown = STEP;

const percent = new Intl.NumberFormat("en", { style: "percent", maximumFractionDigits: 0 });
const integer = new Intl.NumberFormat("en");

// A page that is opened from a disk may have no storage: marks then last as long as the page is open.
function recall() {
  try {
    return new Map(JSON.parse(localStorage.getItem(STORE) || "[]"));
  } catch {
    return new Map();
  }
}
function remember() {
  try {
    localStorage.setItem(STORE, JSON.stringify([...marks]));
  } catch {
    // kept in memory
  }
}

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
function option(select, value, text) {
  const one = make("option", "", text ?? value);
  one.value = value;
  select.append(one);
}

const traits = new Map();
for (const row of rows) {
  for (const [trait, value] of Object.entries(row.traits)) {
    if (!traits.has(trait)) traits.set(trait, new Map());
    traits.get(trait).set(value, (traits.get(trait).get(value) || 0) + 1);
  }
}
for (const label of data.labels) {
  option(form.elements.true, label);
  option(form.elements.predicted, label);
}
for (const trait of traits.keys()) option(form.elements.trait, trait);

function offerValues() {
  const { trait, value } = form.elements;
  value.replaceChildren();
  value.parentElement.hidden = !trait.value;
  if (!trait.value) return;
  const found = [...traits.get(trait.value)].sort((a, b) => b[1] - a[1]);
  for (const [name, count] of found) option(value, name, `${name} (${integer.format(count)})`);
}

const KINDS = {
  "": () => true,
  wrong: (row) => row.true !== row.predicted,
  doubt: (row) => row.label_error_rank !== null,
  marked: (row) => marks.has(row.key),
  unmarked: (row) => !marks.has(row.key),
};
const last = Number.MAX_SAFE_INTEGER;
const ORDERS = {
  confidence: (a, b) => b.confidence - a.confidence,
  unsure: (a, b) => a.confidence - b.confidence,
  doubt: (a, b) => (a.label_error_rank ?? last) - (b.label_error_rank ?? last),
  short: (a, b) => a.text.length - b.text.length,
  long: (a, b) => b.text.length - a.text.length,
  file: (a, b) => a.id.localeCompare(b.id, "en", { numeric: true }),
};

function chosen() {
  const { search, trait, value, kind, order } = form.elements;
  const said = form.elements.predicted.value;
  const truth = form.elements.true.value;
  const wanted = search.value.trim().toLowerCase();
  const found = rows.filter(
    (row) =>
      (!wanted || `${row.text}\n${row.text_pair || ""}`.toLowerCase().includes(wanted)) &&
      (!truth || row.true === truth) &&
      (!said || row.predicted === said) &&
      (!trait.value || row.traits[trait.value] === value.value) &&
      KINDS[kind.value](row),
  );
  return found.sort((a, b) => ORDERS[order.value](a, b) || a.place - b.place);
}

// The text with its rare words underlined.
function textOf(text, rare) {
  const box = make("div", "text");
  box.dir = "auto";
  if (!rare.length) {
    box.textContent = text;
    return box;
  }
  const words = new Set(rare);
  for (const part of text.split(/([\p{L}'’]+)/u)) {
    box.append(words.has(part.toLowerCase()) ? make("u", "", part) : part);
  }
  return box;
}

function marker(row, item) {
  const select = make("select");
  select.setAttribute("aria-label", "Your judgement of this row");
  option(select, "", "no mark");
  option(select, `=${row.true}`, `label is right: ${row.true}`);
  for (const label of data.labels) {
    if (label !== row.true && label in row.probabilities) option(select, `>${label}`, `label should be: ${label}`);
  }
  option(select, "x", "leave this row out");
  select.value = marks.get(row.key) || "";
  select.addEventListener("change", () => {
    if (select.value) marks.set(row.key, select.value);
    else marks.delete(row.key);
    item.classList.toggle("done", Boolean(select.value));
    remember();
    count();
  });
  return select;
}

function draw(row) {
  const item = make("li", marks.has(row.key) ? "row done" : "row");
  const main = make("div");
  main.append(textOf(row.text, row.rare_words));
  if (row.text_pair) main.append(textOf(row.text_pair, []));
  const tags = make("div", "tags");
  if (row.label_error_rank !== null) tags.append(make("span", "doubt", `label may be ${row.suggested}`));
  const silent = ["unclear", "does not negate"];
  for (const name of ["length", "language", "negation", "meaning"]) {
    const value = row.traits[name];
    if (value && !silent.includes(value)) tags.append(make("span", "", value));
  }
  tags.append(make("span", "id", row.id));
  main.append(tags);
  const side = make("div", "side");
  const answer = make("p", "answer");
  if (row.true === row.predicted) answer.append(row.true);
  else answer.append(make("s", "", row.predicted), row.true);
  const bar = make("div", "bar");
  const fill = make("i", "fill");
  fill.style.setProperty("--at", row.confidence);
  bar.append(fill);
  const sure = `${percent.format(row.confidence)} sure of ${row.predicted}; ${percent.format(row.probability_of_true)} for ${row.true}`;
  side.append(answer, bar, make("p", "small", sure), marker(row, item));
  item.append(main, side);
  return item;
}

function count() {
  const known = rows.filter((row) => marks.has(row.key)).length;
  document.getElementById("marks").hidden = !known;
  document.getElementById("marked").textContent = `${integer.format(known)} marked`;
}

function show() {
  const found = chosen();
  list.replaceChildren(...found.slice(0, shown).map(draw));
  more.hidden = found.length <= shown;
  more.textContent = `Show ${integer.format(Math.min(STEP, found.length - shown))} more`;
  document.getElementById("tally").textContent =
    found.length === rows.length ? `${integer.format(rows.length)} rows` : `${integer.format(found.length)} of ${integer.format(rows.length)} rows`;
  count();
}

function again() {
  shown = STEP;
  show();
}

// A label as the data has it: where tasks have classes of their own, they are named task/label.
function plain(row, label) {
  return row.task === undefined ? label : label.slice(row.task.length + 1);
}

// What was marked, as rows to learn from; a row that is left out is said so, and has no label.
function corrected() {
  return rows
    .filter((row) => marks.has(row.key))
    .map((row) => {
      const mark = marks.get(row.key);
      const pair = row.text_pair === undefined ? {} : { text_pair: row.text_pair };
      const told = { id: row.id, text: row.text, ...pair, ...(row.task === undefined ? {} : { task: row.task }) };
      if (mark === "x") return { ...told, mark: "leave out", previous_label: plain(row, row.true) };
      const kind = mark[0] === "=" ? "confirmed" : "corrected";
      return { ...told, label: plain(row, mark.slice(1)), mark: kind, previous_label: plain(row, row.true) };
    });
}

function save() {
  const text = corrected().map((row) => `${JSON.stringify(row)}\n`).join("");
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/jsonl" }));
  link.download = `${data.name}-corrections.jsonl`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

form.addEventListener("input", (event) => {
  if (event.target === form.elements.trait) offerValues();
  again();
});
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(() => {
  offerValues();
  again();
}));
more.addEventListener("click", () => {
  shown += STEP;
  show();
});
document.getElementById("export").addEventListener("click", save);
document.getElementById("forget").addEventListener("click", () => {
  marks = new Map();
  remember();
  show();
});
// A group's own button: its errors, whatever was filtered before.
function filter(wanted) {
  for (const name of ["search", "true", "predicted", "trait", "kind"]) form.elements[name].value = wanted[name] || "";
  offerValues();
  if (wanted.trait) form.elements.value.value = wanted.value;
  again();
  document.getElementById("rows").scrollIntoView();
}
for (const button of document.querySelectorAll("button.show")) {
  button.addEventListener("click", () => filter({ kind: "wrong", ...button.dataset }));
}
show();
