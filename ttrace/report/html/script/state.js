// What is shown: the tensors, the filters, and who has to draw again.

let data = null; // columns, tables and tree of ttrace.report.html.payload
let visible = []; // indices of the tensors that pass the filters
const NO_FILTERS = { status: "", kind: "", step: "", rank: "", node: 0, text: "" };
const filters = { ...NO_FILTERS };
const drawers = []; // functions that draw a part of the page again

const text = (name, index) => data.tables[name][data.columns[name][index]];
const idOf = (index) => text("prefix", index) + text("module", index) + text("suffix", index);
const statusOf = (index) => text("status", index);
const nodeOf = (index) => data.nodes.of_module[data.columns.module[index]];
const phaseOf = (index) => data.phases[text("kind", index)] ?? "any";
const isCompared = (index) => ["passed", "failed"].includes(statusOf(index));

// The larger margin: NaN is the worst that there is, and null no margin at all.
const worse = (left, right) => {
  if (left === null || right === null) return left === null ? right : left;
  if (Number.isNaN(left) || Number.isNaN(right)) return Infinity;
  return Math.max(left, right);
};

const prepare = (summary) => {
  data = summary;
  const { columns, nodes } = data;
  for (const name of ["rel_err", "tolerance", "margin"])
    columns[name] = columns[name].map(numberOf);
  data.size = columns.module.length;
  nodes.children = nodes.label.map(() => []);
  nodes.parent.forEach((parent, node) => parent >= 0 && nodes.children[parent].push(node));
  nodes.hasOwn = nodes.label.map(() => false);
  for (const node of nodes.of_module) nodes.hasOwn[node] = true;
  const chunks = [];
  for (const [chunk, count] of data.chunk)
    for (let i = 0; i < count; i += 1) chunks.push(chunk);
  data.chunk = chunks;
  data.chunks = [...document.querySelectorAll("script.chunk")];
};

const isBelow = (node, ancestor) => {
  for (let at = node; at >= 0; at = data.nodes.parent[at]) if (at === ancestor) return true;
  return false;
};

const pathOf = (node) => {
  const labels = [];
  for (let at = node; at > 0; at = data.nodes.parent[at]) labels.unshift(data.nodes.label[at]);
  return labels.join(".");
};

// A text is a part of an id; with * or ? it is a pattern of a whole one, as --allow has.
const textTest = (wanted) => {
  if (!/[*?]/.test(wanted)) {
    const low = wanted.toLowerCase();
    return (id) => id.toLowerCase().includes(low);
  }
  const parts = wanted.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  const pattern = new RegExp(
    `^${parts.replaceAll(/\*+/g, ".*").replaceAll("?", ".")}$`, "is");
  return (id) => pattern.test(id);
};

// A rank is chosen as "held 3", whatever it has a part of, or "beyond 3", of which its
// own part is beyond the tolerance.
const rankTest = (chosen) => {
  if (chosen === "") return null;
  const [how, number] = chosen.split(" ");
  const fits = data.ranks.sets.map((ranks) => ranks.includes(Number(number)));
  return (i) => fits[data.ranks[how][i]];
};

const startRanks = () => {
  const { names, sets, beyond } = data.ranks;
  byId("f-rank").parentElement.hidden = names.length < 2;
  const off = new Set(beyond.flatMap((set) => sets[set]));
  const options = (how, numbers) => numbers.map((k) => option(`${how} ${k}`, names[k]));
  const every = names.map((_, k) => k);
  byId("f-rank").replaceChildren(option("", "all"),
    element("optgroup", { label: "its own part is beyond the tolerance" },
      ...options("beyond", every.filter((k) => off.has(k)))),
    element("optgroup", { label: "holds a part of it" }, ...options("held", every)));
};

const applyFilters = () => {
  const { columns, tables, nodes } = data;
  const inside = nodes.parent.map(() => false);
  nodes.parent.forEach((parent, node) => {
    inside[node] = node === filters.node || (parent >= 0 && inside[parent]);
  });
  const status = tables.status.indexOf(filters.status);
  const kind = tables.kind.indexOf(filters.kind);
  const step = filters.step === "" ? null : Number(filters.step);
  const fits = filters.text === "" ? null : textTest(filters.text);
  const ofRank = rankTest(filters.rank);
  visible = [];
  for (let i = 0; i < data.size; i += 1) {
    if (filters.status !== "" && columns.status[i] !== status) continue;
    if (filters.kind !== "" && columns.kind[i] !== kind) continue;
    if (step !== null && columns.step[i] !== step) continue;
    if (ofRank !== null && !ofRank(i)) continue;
    if (filters.node !== 0 && !inside[nodes.of_module[columns.module[i]]]) continue;
    if (fits !== null && !fits(idOf(i))) continue;
    visible.push(i);
  }
  byId("f-count").textContent = `${visible.length} of ${plural(data.size, "tensor")}`;
  for (const draw of drawers) draw();
};

const setFilters = (changes) => {
  Object.assign(filters, changes);
  showFilters();
  applyFilters();
};

const option = (value, words) => element("option", { value }, words);

const showFilters = () => {
  for (const name of ["status", "kind", "step", "rank"]) byId(`f-${name}`).value = filters[name];
  byId("f-text").value = filters.text;
  const path = [];
  for (let at = filters.node; at >= 0; at = data.nodes.parent[at]) path.unshift(at);
  byId("f-node").replaceChildren(
    ...path.map((node) => option(node, node === 0 ? "all" : shortened(pathOf(node), 60))));
  byId("f-node").value = filters.node;
};

const countsOf = (name) => {
  const counts = new Map();
  for (const number of data.columns[name]) counts.set(number, (counts.get(number) ?? 0) + 1);
  return counts;
};

const startFilters = () => {
  const inOrder = { status: ["failed", "unmatched", "skipped", "passed"], kind: data.kinds };
  for (const name of ["status", "kind"]) {
    const counts = countsOf(name);
    const place = (word) => (inOrder[name].indexOf(word) + 1 || inOrder[name].length + 1);
    const words = [...data.tables[name]].sort((a, b) => place(a) - place(b));
    byId(`f-${name}`).replaceChildren(
      option("", "all"),
      ...words.map((word) =>
        option(word, `${word} (${counts.get(data.tables[name].indexOf(word))})`)));
  }
  const steps = [...countsOf("step").keys()].sort((a, b) => a - b);
  byId("f-step").replaceChildren(
    option("", "all"), ...steps.map((step) => option(step, step < 0 ? "none" : step)));
  startRanks();
  for (const name of ["status", "kind", "step", "rank"])
    byId(`f-${name}`).addEventListener("change", (event) =>
      setFilters({ [name]: event.target.value }));
  byId("f-node").addEventListener("change", (event) =>
    setFilters({ node: Number(event.target.value) }));
  let waiting = 0;
  byId("f-text").addEventListener("input", (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => setFilters({ text: event.target.value.trim() }), 150);
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", (event) => {
    event.preventDefault();
    setFilters({ ...NO_FILTERS });
  });
};
