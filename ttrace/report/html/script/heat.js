// Heat maps: modules downwards, and steps, kinds or ranks across; the worst margin.

const HEAT_ROWS = 24; // as many rows as modules are unfolded into
const FEW_ROWS = 4; // that say too little: these are unfolded into any number
const MOST_ROWS = 300; // of one module with very many below
const MOST_COLUMNS = 48; // steps beyond that share columns

const heat = { across: "kind", column: 0, row: 0 };

// The modules below a node that make about HEAT_ROWS rows. A module that is unfolded
// and has tensors of its own keeps a row for these.
const rowsBelow = (top) => {
  const { children, hasOwn } = data.nodes;
  let rows = [{ node: top, own: false }];
  for (;;) {
    const next = rows.flatMap((row) =>
      row.own || children[row.node].length === 0
        ? [row]
        : [...(hasOwn[row.node] ? [{ node: row.node, own: true }] : []),
           ...children[row.node].map((node) => ({ node, own: false }))]);
    if (next.length === rows.length && next.every((row, i) => row.node === rows[i].node))
      return rows;
    if (next.length > HEAT_ROWS && rows.length > FEW_ROWS) return rows;
    rows = next;
  }
};

const rowOfNodes = (rows) => {
  const found = data.nodes.parent.map(() => -1);
  rows.forEach((row, number) => { found[row.node] = number; });
  const own = new Set(rows.filter((row) => row.own).map((row) => row.node));
  data.nodes.parent.forEach((parent, node) => {
    if (found[node] < 0 && parent >= 0 && !own.has(parent)) found[node] = found[parent];
  });
  return found;
};

const heatColumns = () => {
  const { columns, tables } = data;
  if (heat.across === "rank")
    return { names: data.ranks.names, of: null, filter: null };
  if (heat.across === "kind") {
    const there = new Set(visible.map((i) => columns.kind[i]));
    const names = data.kinds.filter((kind) => there.has(tables.kind.indexOf(kind)));
    names.push(...tables.kind.filter((kind, k) => there.has(k) && !names.includes(kind)));
    const place = tables.kind.map((kind) => names.indexOf(kind));
    return { names, of: (i) => place[columns.kind[i]], filter: (name) => ({ kind: name }) };
  }
  const steps = [...new Set(visible.map((i) => columns.step[i]))].sort((a, b) => a - b);
  const each = Math.ceil(steps.length / MOST_COLUMNS);
  const place = new Map(steps.map((step, s) => [step, Math.floor(s / each)]));
  const names = [];
  for (let s = 0; s < steps.length; s += each) {
    const last = steps[Math.min(s + each, steps.length) - 1];
    names.push(steps[s] === last ? `${steps[s]}` : `${steps[s]}–${last}`);
  }
  return { names, of: (i) => place.get(columns.step[i]),
    filter: each > 1 ? null : (name) => ({ step: name }) };
};

const heatCells = (rowOf, columns, size) => {
  const cells = Array.from({ length: size * columns.names.length }, () =>
    ({ worst: null, failed: 0, total: 0 }));
  const width = columns.names.length;
  if (heat.across === "rank") {
    const { node: nodes, rank, level } = data.ranks;
    nodes.forEach((node, k) => {
      if (rowOf[node] < 0) return;
      const cell = cells[rowOf[node] * width + rank[k]];
      const margin = level[k] >= 10000 ? Infinity : level[k] <= -10000 ? 0 : 10 ** (level[k] / 10);
      cell.worst = worse(cell.worst, margin);
    });
    return cells;
  }
  for (const i of visible) {
    const row = rowOf[nodeOf(i)];
    if (row < 0) continue;
    const cell = cells[row * width + columns.of(i)];
    cell.total += 1;
    cell.failed += statusOf(i) === "failed";
    cell.worst = worse(cell.worst, data.columns.margin[i]);
  }
  return cells;
};

const HEAT_LEVELS = [0.01, 0.1, 0.5, 1, 10, 100, 10000];

const heatLevel = (worst) => {
  if (worst === null) return "none";
  const level = HEAT_LEVELS.findIndex((limit) => worst <= limit);
  return level < 0 ? HEAT_LEVELS.length : level;
};

const heatWords = (cell, row, column) => {
  const where = `${row}, ${heat.across} ${column}`;
  if (cell.worst === null)
    return `${where}: ${cell.total ? `${plural(cell.total, "tensor")}, none compared` : "nothing"}`;
  const counts = heat.across === "rank" ? "" : `, ${cell.failed} of ${plural(cell.total, "tensor")} failed`;
  return `${where}: worst margin ${figure(cell.worst)}${counts}`;
};

const rowName = (row) => {
  const path = pathOf(row.node) || "the model";
  return row.own ? `${path} (itself)` : path;
};

// A name that may be broken behind its underscores.
const breakable = (name) => name.split(/(?<=_)/).flatMap((part) => [part, element("wbr")]);

const drawHeat = () => {
  let rows = rowsBelow(filters.node);
  const rowOf = rowOfNodes(rows);
  const columns = heatColumns();
  const width = columns.names.length;
  const cells = heatCells(rowOf, columns, rows.length);
  const line = (number) => cells.slice(number * width, (number + 1) * width);
  let numbered = rows.map((row, number) => ({ row, cells: line(number) }))
    .filter(({ cells: some }) => some.some((cell) => cell.total > 0 || cell.worst !== null));
  const left = numbered.length - MOST_ROWS;
  numbered = numbered.slice(0, MOST_ROWS);
  const table = element("table", { class: "heat", role: "grid", "aria-label":
    `worst margin, modules by ${heat.across}` });
  table.append(element("thead", {}, element("tr", {}, element("th", {}),
    ...columns.names.map((name) => element("th", { scope: "col" }, ...breakable(shortened(name, 24)))))));
  const body = element("tbody");
  numbered.forEach(({ row, cells: some }, r) => {
    const name = rowName(row);
    const choose = () => setFilters({ node: row.node });
    const head = element("th", { scope: "row" },
      element("button", { type: "button", class: "id", title: shortened(name, 400),
        onclick: choose }, shortened(name, 56)));
    const tds = some.map((cell, c) => {
      const words = heatWords(cell, shortened(name), columns.names[c]);
      const failing = cell.worst > 1;
      return element("td", { class: `heat-${heatLevel(cell.worst)}`, role: "gridcell",
        tabindex: r === 0 && c === 0 ? 0 : -1, "data-r": r, "data-c": c,
        "aria-label": words, title: words,
        onclick: () => setFilters(
          { node: row.node, ...(columns.filter ? columns.filter(columns.names[c]) : {}) }),
      }, failing ? briefMargin(cell.worst) : "");
    });
    body.append(element("tr", {}, head, ...tds));
  });
  table.append(body);
  table.addEventListener("keydown", moveInHeat);
  byId("heat").replaceChildren(table);
  if (left > 0) byId("heat").append(element("p", { class: "words" },
    `${plural(left, "further module")} not shown: choose a part`));
  drawHeatPath();
  byId("heat-said").textContent = heat.across === "rank"
    ? "Of each rank, the error of its own part over the tolerance of the whole tensor; of all kinds and steps."
    : "";
};

const briefMargin = (margin) => {
  if (!Number.isFinite(margin)) return "inf";
  if (margin < 99.5) return margin < 9.95 ? margin.toFixed(1) : margin.toFixed(0);
  return `1e${Math.floor(Math.log10(margin))}`;
};

const drawHeatPath = () => {
  const path = [];
  for (let at = filters.node; at >= 0; at = data.nodes.parent[at]) path.unshift(at);
  byId("heat-path").replaceChildren(...path.flatMap((node, k) => [
    k ? " › " : "",
    element("button", { type: "button", class: "id", disabled: node === filters.node,
      onclick: () => setFilters({ node }) },
    node === 0 ? "all modules" : shortened(data.nodes.label[node], 60))]));
};

const moveInHeat = (event) => {
  const cell = event.target.closest("td");
  if (cell === null) return;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    cell.click();
    byId("heat").focus();
    return;
  }
  const move = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
  if (move === undefined) return;
  event.preventDefault();
  const [r, c] = [Number(cell.dataset.r) + move[0], Number(cell.dataset.c) + move[1]];
  const next = event.currentTarget.querySelector(`td[data-r="${r}"][data-c="${c}"]`);
  if (next === null) return;
  cell.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
};

const startHeat = () => {
  const steps = new Set(data.columns.step);
  const choices = [["kind", "by kind"], ["step", "by step"]];
  if (data.ranks.names.length > 1) choices.push(["rank", "by rank"]);
  if (steps.size < 2) choices.splice(1, 1);
  byId("heat-tabs").replaceChildren(...choices.map(([across, words]) =>
    element("label", {}, element("input", { type: "radio", name: "across", value: across,
      checked: across === heat.across,
      onchange: () => { heat.across = across; drawHeat(); } }), words)));
  const limits = [...HEAT_LEVELS.map(figure), ""];
  byId("heat-legend").replaceChildren("margin ", ...limits.map((limit, level) =>
    element("span", { class: `swatch heat-${level}` },
      level === limits.length - 1 ? `> ${limits[level - 1]}` : `≤ ${limit}`)),
    element("span", { class: "swatch heat-none" }, "not compared"));
  drawers.push(drawHeat);
};
