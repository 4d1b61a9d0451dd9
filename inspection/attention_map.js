// One head, large: cells or lines, with one cursor (a pair of tokens) that pointer, touch and arrow keys all move.

function buildMap(model) {
  const part = model.part;
  part.title = element("h3");
  part.views = ["Cells", "Lines"].map((name, place) => {
    const button = element("button", {}, name);
    button.addEventListener("click", () => { view.lines = place === 1; update(); });
    return button;
  });
  const views = element("div", { class: "views", role: "group", "aria-label": "how to draw it" }, ...part.views);
  arrowKeys(views, 1);
  part.readout = element("p", { class: "readout", "aria-live": "polite" });
  part.drawing = element("div", { class: "drawing", tabindex: 0, role: "application", "aria-label": "attention map: arrow keys move" });
  part.habit = element("p", { class: "caption" });
  part.drawing.addEventListener("keydown", (event) => moveCursor(model, event));
  panel("map", model).append(part.title, views, part.readout, part.drawing, part.habit);
}

function moveCursor(model, event) {
  const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
  if (!down && !right) return;
  event.preventDefault();
  const { from, to } = model.cursor ?? { from: view.at, to: view.at };
  const row = Math.min(T - 1, Math.max(0, from + down));
  point(model, row, Math.min(row, Math.max(0, (to ?? row) + right)));
  model.part.drawing.querySelector(".frame")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

// Put the cursor on a pair of tokens and say what it shows there.
function point(model, from, to) {
  model.cursor = { from, to };
  const said = to === null ? strongest(model, from) : [quoted(from), " looks at ", from === to ? "itself" : quoted(to),
    ` with ${percent(model.weight(model.layer, model.head, from, to))} of its attention.`];
  model.part.readout.replaceChildren(...said);
  model.part.mark(from, to);
}

function strongest(model, from) {
  const weights = tokens.slice(0, from + 1).map((_, to) => [model.weight(model.layer, model.head, from, to), to]);
  const best = weights.sort((a, b) => b[0] - a[0]).slice(0, 3);
  return [quoted(from), " looks most at ", ...best.flatMap(([weight, to], place) =>
    [place ? ", " : "", to === from ? "itself" : quoted(to), ` (${percent(weight)})`]), "."];
}

function drawHead(model) {
  const part = model.part;
  part.title.textContent = headName(model);
  part.habit.textContent = habit(model);
  press(part.views, view.lines ? 1 : 0);
  (view.lines ? drawLines : drawCells)(model, Math.max(240, part.drawing.clientWidth));
  point(model, view.at, null);
}

// What every drawing shares: an empty SVG, and labels that turn bold under the cursor.
function canvas(model, width, height) {
  const picture = drawn("svg", { width, height });
  model.part.drawing.replaceChildren(picture);
  return picture;
}

function reactive(node, model, from, to) {
  for (const event of ["pointerenter", "pointerdown"]) node.addEventListener(event, () => point(model, from, to));
  node.addEventListener("click", () => { view.at = from; update(); point(model, from, to); });
  return node;
}

function drawCells(model, width) {
  const margin = 8 + 7.3 * Math.max(...tokens.map(({ text }) => short(text).length));
  const side = Math.min(40, Math.max(12, (width - margin - 2) / T));
  const picture = canvas(model, margin + side * T + 2, margin + side * T + 2);
  const place = (t) => margin + side * t;
  const rows = tokens.map(({ text }, t) => drawn("text", { x: margin - 5, y: place(t) + side / 2 + 4, "text-anchor": "end" }, short(text)));
  const columns = tokens.map(({ text }, t) =>
    drawn("text", { transform: `translate(${place(t) + side / 2 + 4} ${margin - 5}) rotate(-90)` }, short(text)));
  for (let from = 0; from < T; from++) {
    for (let to = 0; to <= from; to++) {
      const box = { x: place(to) + 0.5, y: place(from) + 0.5, width: side - 1, height: side - 1, rx: 2 };
      const opacity = shade(model.weight(model.layer, model.head, from, to)).toFixed(3);
      const cell = drawn("rect", { ...box, "fill-opacity": opacity, "data-cell": `${from},${to}`, "pointer-events": "all" });
      picture.append(drawn("rect", { ...box, class: "ground" }), reactive(cell, model, from, to));
    }
  }
  const chosen = { x: margin - 1, y: place(view.at) - 1, width: side * (view.at + 1) + 2, height: side + 2, rx: 3 };
  const frame = drawn("rect", { class: "frame", width: side, height: side, rx: 3 });
  picture.append(...rows, ...columns, drawn("rect", { ...chosen, class: "chosen" }), frame);
  model.part.mark = (from, to) => {
    rows.forEach((label, t) => label.classList.toggle("on", t === from));
    columns.forEach((label, t) => label.classList.toggle("on", t === to));
    frame.setAttribute("visibility", to === null ? "hidden" : "visible");
    if (to === null) return;
    frame.setAttribute("x", place(to));
    frame.setAttribute("y", place(from));
  };
}

function drawLines(model, width) {
  const [step, margin] = [24, 95];
  const picture = canvas(model, width, step * T + 26);
  const right = Math.min(width, 520) - margin;
  const y = (t) => 34 + step * t;
  const label = (x, anchor) => (text, t) => drawn("text", { x, y: y(t) + 4, "text-anchor": anchor }, text);
  const lookers = tokens.map(({ text }, t) => label(margin - 6, "end")(short(text), t));
  const targets = tokens.map(({ text }, t) => label(right + 6, "start")(short(text), t));
  picture.append(drawn("text", { x: margin - 6, y: 12, "text-anchor": "end" }, "looks"), drawn("text", { x: right + 6, y: 12 }, "at"));
  const lines = [];
  for (let from = 0; from < T; from++) {
    for (let to = 0; to <= from; to++) {
      const weight = model.weight(model.layer, model.head, from, to);
      if (weight < 0.02) continue;
      const line = drawn("line", { x1: margin, y1: y(from), x2: right, y2: y(to), "stroke-width": 1 + 6 * weight });
      lines.push({ line, from, to, weight });
    }
  }
  picture.append(...lines.map(({ line }) => line), ...lookers, ...targets);
  tokens.forEach((_, t) => {
    const band = { y: y(t) - step / 2, height: step, class: "hit" };
    const answer = drawn("rect", { ...band, x: right, width: margin });
    for (const event of ["pointerenter", "pointerdown"]) {
      answer.addEventListener(event, () => t <= model.cursor.from && point(model, model.cursor.from, t));
    }
    picture.append(reactive(drawn("rect", { ...band, x: 0, width: right - 40 }), model, t, null), answer);
  });
  model.part.mark = (from, to) => {
    lookers.forEach((text, t) => text.classList.toggle("on", t === from));
    targets.forEach((text, t) => text.classList.toggle("on", t === to));
    for (const each of lines) {
      const strength = each.from !== from ? 0.06 : to === null || to === each.to ? 1 : 0.25;
      each.line.setAttribute("stroke-opacity", strength * shade(each.weight));
    }
  };
}

build();
