"use strict";
// The page's data is what inspection/page.py writes: see `ModelReader.values` there. Probabilities are in 1/10,000.

const data = JSON.parse(document.getElementById("data").textContent);
const { tokens, models } = data;
const T = tokens.length;
const FULL_SURPRISE = 14; // bits at which a box is darkest: 1 in 16,000
const view = { at: T - 1, lines: false };

// ---- small helpers -------------------------------------------------------------------------------------------------

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function drawn(tag, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return node;
}

const token = (text) => element("span", { class: "token", title: text }, text);
const quoted = (t) => element("b", { class: "token" }, tokens[t].text);
const short = (text) => (text.length > 11 ? text.slice(0, 10) + "…" : text);
const shade = (weight) => Math.pow(weight, 0.7); // small weights would hardly be seen otherwise
const heated = (node, heat) => (node.style.setProperty("--heat", heat.toFixed(3)), node);

function percent(share) {
  if (share >= 0.1) return `${Math.round(100 * share)}%`;
  return share >= 0.001 ? `${(100 * share).toFixed(1)}%` : "under 0.1%";
}

function oneIn(bits) {
  const odds = 2 ** bits;
  return `1 in ${odds < 10 ? odds.toFixed(1) : Number(odds.toPrecision(2)).toLocaleString("en")}`;
}

// Arrow keys move among the buttons of a box; only the pressed one is a tab stop.
function arrowKeys(box, columns) {
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns };
  box.addEventListener("keydown", (event) => {
    const buttons = [...box.querySelectorAll("button")];
    const next = buttons[buttons.indexOf(event.target) + (steps[event.key] ?? NaN)];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  });
}

function press(buttons, chosen) {
  buttons.forEach((button, place) => {
    button.setAttribute("aria-pressed", place === chosen);
    button.tabIndex = place === chosen ? 0 : -1;
  });
}

// ---- a model's numbers ---------------------------------------------------------------------------------------------

function prepare(model) {
  const bytes = Uint8Array.from(atob(model.weights), (character) => character.charCodeAt(0));
  const triangle = (T * (T + 1)) / 2;
  const weight = (layer, head, from, to) =>
    bytes[(layer * model.heads + head) * triangle + (from * (from + 1)) / 2 + to] / 255;
  model.weight = (layer, head, from, to) => {
    if (to > from) return 0;
    if (head < model.heads) return weight(layer, head, from, to);
    let sum = 0; // beyond the last head stands the mean of all
    for (let each = 0; each < model.heads; each++) sum += weight(layer, each, from, to);
    return sum / model.heads;
  };
  const effects = model.off.flatMap((layer) => layer.map((head) => head.moved[T - 1]));
  const strongest = effects.indexOf(Math.max(...effects));
  model.layer = Math.floor(strongest / model.heads);
  model.head = strongest % model.heads;
  model.part = {};
}

const headName = (model) =>
  model.head < model.heads ? `Layer ${model.layer + 1}, head ${model.head + 1}` : `Layer ${model.layer + 1}, mean of its heads`;

// What a head mostly does, in words: the mean weight on a few places that have a name.
function habit(model) {
  const shares = { "the ⟨end⟩ mark at the start": 0, "the token itself": 0, "the token just before": 0, "tokens further back": 0 };
  const rows = T - 2; // from the third token on all four places are different ones
  for (let from = 2; from < T; from++) {
    const at = (to) => model.weight(model.layer, model.head, from, to) / rows;
    shares["the ⟨end⟩ mark at the start"] += at(0);
    shares["the token itself"] += at(from);
    shares["the token just before"] += at(from - 1);
    for (let to = 1; to < from - 1; to++) shares["tokens further back"] += at(to);
  }
  const [first, second] = Object.entries(shares).sort((a, b) => b[1] - a[1]);
  return rows < 1 ? "" : `On average ${percent(first[1])} of this attention goes to ${first[0]}, ${percent(second[1])} to ${second[0]}.`;
}

// ---- the sections --------------------------------------------------------------------------------------------------

function panel(section, model) {
  const box = element("div");
  if (models.length > 1) box.append(element("h3", {}, model.name));
  document.querySelector(`#${section} .panels`).append(box);
  return box;
}

function buildTokens(model) {
  const chips = tokens.map(({ text }, t) => {
    const bits = model.surprise[t];
    const chip = element("button", { class: "chip token" }, text, element("small", {}, bits === null ? "start" : bits.toFixed(1)));
    chip.addEventListener("click", () => { view.at = t; update(); });
    return heated(chip, Math.min(1, (bits ?? 0) / FULL_SURPRISE));
  });
  const box = element("div", { class: "chips", role: "group", "aria-label": "tokens with their bits of surprise" }, ...chips);
  arrowKeys(box, 1);
  model.part.chips = chips;
  model.part.surprise = element("p", { class: "readout", "aria-live": "polite" });
  const here = panel("tokens", model);
  (models.length > 1 ? here : document.querySelector("header")).append(element("p", { class: "facts" }, model.facts));
  here.append(box, model.part.surprise);
}

function updateTokens(model) {
  const bits = model.surprise[view.at];
  press(model.part.chips, view.at);
  model.part.surprise.replaceChildren(
    ...(bits === null
      ? ["Here the tweet starts; nothing came before."]
      : ["The model gave ", quoted(view.at), ` a chance of ${percent(2 ** -bits)} (${oneIn(bits)}): ${bits.toFixed(1)} bits of surprise.`])
  );
}

// The guesses at the chosen place, and what really came there if it is not among them.
function guesses(model, without) {
  const rows = model.guesses[view.at].map(([id, share], place) => ({ id, share, after: without?.shares[view.at][place] }));
  const real = tokens[view.at + 1]?.id;
  if (real !== undefined && !rows.some(({ id }) => id === real)) {
    rows.push({ id: real, share: 10000 * 2 ** -model.surprise[view.at + 1], after: without?.real[view.at] });
  }
  return rows.map((row) => ({ ...row, real: row.id === real }));
}

function bar(model, row, longest) {
  const track = element("div", { class: "track" });
  const stripe = (kind, share) => {
    const line = element("i", { class: kind });
    line.style.width = `${(100 * share) / longest}%`;
    track.append(line);
  };
  let number = percent(row.share / 10000);
  if (row.after === undefined) stripe("", row.share);
  else {
    track.classList.add("two");
    stripe("before", row.share);
    stripe("after", row.after);
    number += ` → ${percent(row.after / 10000)}`;
  }
  const label = token(model.pieces[row.id]);
  return element("div", { class: row.real ? "row real" : "row" }, label, track, element("span", { class: "number" }, number));
}

function bars(model, rows) {
  const longest = Math.max(...rows.map(({ share, after }) => Math.max(share, after ?? 0)), 1);
  return element("div", { class: "bars" }, ...rows.map((row) => bar(model, row, longest)));
}

// A note on the tokens that training never showed: they are no guess, but together they have some probability.
function unseen(model) {
  const share = model.unseen[view.at] / 10000;
  if (share < 0.001) return [];
  return [element("p", { class: "key" }, `All tokens that it never met in training together: ${percent(share)}.`)];
}

function updateLens(model) {
  const names = ["before any layer", ...Array.from({ length: model.layers }, (_, layer) => `after layer ${layer + 1}`)];
  const lines = model.lens.map((stage, place) => {
    const cells = stage[view.at].map(([id, share]) =>
      heated(element("td", {}, token(model.pieces[id]), element("small", {}, percent(share / 10000))), share / 10000)
    );
    return element("tr", {}, element("th", { scope: "row" }, names[place]), ...cells);
  });
  model.part.lens.replaceChildren(element("table", { class: "lens" }, ...lines));
}

function buildHeads(model) {
  const columns = model.heads + 1;
  const box = element("div", { class: "heads", role: "group", "aria-label": "heads, one row for each layer" }, element("span"));
  box.style.gridTemplateColumns = `max-content repeat(${columns}, minmax(2.7rem, 1fr))`;
  for (let head = 0; head < columns; head++) {
    box.append(element("span", { class: "top" }, head < model.heads ? `head ${head + 1}` : "mean"));
  }
  model.part.heads = [];
  for (let layer = 0; layer < model.layers; layer++) {
    box.append(element("span", {}, `layer ${layer + 1}`));
    for (let head = 0; head < columns; head++) {
      const button = element("button", { class: "head" }, element("canvas", { width: T, height: T }), element("i", {}, element("b")));
      button.addEventListener("click", () => { Object.assign(model, { layer, head }); update(); });
      model.part.heads.push(button);
      box.append(button);
    }
  }
  arrowKeys(box, columns);
  panel("heads", model).append(box);
}

function paintHeads(model) {
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--attention");
  model.part.heads.forEach((button, place) => {
    const [layer, head] = [Math.floor(place / (model.heads + 1)), place % (model.heads + 1)];
    const brush = button.querySelector("canvas").getContext("2d");
    brush.clearRect(0, 0, T, T);
    brush.fillStyle = ink;
    for (let from = 0; from < T; from++) {
      for (let to = 0; to <= from; to++) {
        brush.globalAlpha = shade(model.weight(layer, head, from, to));
        brush.fillRect(to, from, 1, 1);
      }
    }
  });
}

function updateHeads(model) {
  press(model.part.heads, model.layer * (model.heads + 1) + model.head);
  const most = Math.max(...model.off.flatMap((layer) => layer.map((head) => head.moved[view.at])), 1);
  model.part.heads.forEach((button, place) => {
    const [layer, head] = [Math.floor(place / (model.heads + 1)), place % (model.heads + 1)];
    const moved = model.off[layer][head]?.moved[view.at];
    const name = head < model.heads ? `layer ${layer + 1} head ${head + 1}` : `layer ${layer + 1} mean`;
    const effect = moved === undefined ? "" : `: without it ${percent(moved / 10000)} of the guess changes`;
    button.setAttribute("aria-label", name + effect);
    button.title = name + effect;
    button.querySelector("i").style.visibility = moved === undefined ? "hidden" : "";
    button.querySelector("b").style.width = `${(100 * (moved ?? 0)) / most}%`;
  });
}

function updateOff(model) {
  const without = model.off[model.layer][model.head];
  if (!without) {
    model.part.off.replaceChildren("Only a single head can be switched off: pick one that is not a mean.");
    return;
  }
  const [id, before, after] = without.up[view.at];
  model.part.off.replaceChildren(
    element("p", {}, `Without ${headName(model).toLowerCase()}, ${percent(without.moved[view.at] / 10000)} of the probability moves `
      + "to other tokens. ", token(model.pieces[id]), ` gains most: ${percent(before / 10000)} → ${percent(after / 10000)}.`),
    bars(model, guesses(model, without)),
    element("p", { class: "key" }, element("i", { class: "before" }), "with the head", element("i", { class: "after" }), "without it")
  );
}

function update() {
  for (const node of document.querySelectorAll(".here")) node.textContent = tokens[view.at].text;
  for (const model of models) {
    updateTokens(model);
    model.part.guesses.replaceChildren(bars(model, guesses(model)), ...unseen(model));
    updateLens(model);
    updateHeads(model);
    updateOff(model);
    drawHead(model);
  }
}

function build() {
  document.querySelector("main").classList.toggle("single", models.length === 1);
  document.querySelector("#bytes").hidden = !tokens.some(({ text }) => text.startsWith("‹"));
  if (data.text) {
    document.querySelector("#text").textContent = `“${data.text}”`;
    document.title = `${data.text} – inside the model`;
  }
  for (const model of models) {
    prepare(model);
    buildTokens(model);
    model.part.guesses = panel("guesses", model);
    model.part.lens = panel("lens", model);
    for (const name of ["guesses", "lens"]) model.part[name] = model.part[name].appendChild(element("div"));
    buildHeads(model);
    buildMap(model);
    model.part.off = panel("off", model).appendChild(element("div"));
    paintHeads(model);
  }
  update();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => models.forEach(paintHeads));
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) models.forEach(drawHead); // a phone changes the height alone as it scrolls
    width = innerWidth;
  });
  if (parent !== window) tellHeight();
}

// In a frame: the page around it is told how high this one is, so that only that one scrolls.
function tellHeight() {
  document.documentElement.classList.add("framed");
  const tell = () => parent.postMessage({ height: document.documentElement.getBoundingClientRect().height }, "*");
  new ResizeObserver(tell).observe(document.body);
  tell();
}
