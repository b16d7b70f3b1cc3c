// The tree of modules, unfolded as far as somebody unfolds it.

const tree = { open: new Set([0]), counts: null };
const MOST_CHILDREN = 200;

const countTree = () => {
  const size = data.nodes.label.length;
  const counts = { total: new Array(size).fill(0), failed: new Array(size).fill(0),
    worst: new Array(size).fill(null) };
  for (const i of visible) {
    const node = nodeOf(i);
    counts.total[node] += 1;
    counts.failed[node] += statusOf(i) === "failed";
    counts.worst[node] = worse(counts.worst[node], data.columns.margin[i]);
  }
  for (let node = size - 1; node > 0; node -= 1) {
    const parent = data.nodes.parent[node];
    counts.total[parent] += counts.total[node];
    counts.failed[parent] += counts.failed[node];
    counts.worst[parent] = worse(counts.worst[parent], counts.worst[node]);
  }
  tree.counts = counts;
};

const treeFigures = (node) => {
  const { failed, total, worst } = tree.counts;
  return [
    element("span", { class: `tree-count${failed[node] ? " bad" : ""}` },
      `${failed[node]}/${total[node]}`),
    element("span", { class: `tree-margin heat-${heatLevel(worst[node])}` }, figure(worst[node])),
    element("button", { type: "button", class: "only", "aria-label":
      `only ${shortened(pathOf(node) || "all")}`,
      onclick: (event) => { event.preventDefault(); setFilters({ node }); } }, "only"),
  ];
};

const treeChildren = (node, most) => {
  const there = data.nodes.children[node].filter((child) => tree.counts.total[child] > 0);
  const made = there.slice(0, most).map(treeNode);
  if (there.length > most) made.push(element("button", { type: "button",
    onclick: (event) => event.target.replaceWith(
      ...there.slice(most).map(treeNode)) }, `${there.length - most} more`));
  return made;
};

const treeNode = (node) => {
  const label = () => element("span", { class: "id tree-label" },
    node === 0 ? "all" : shortened(data.nodes.label[node], 200));
  const inner = data.nodes.children[node].some((child) => tree.counts.total[child] > 0);
  if (!inner)
    return element("p", { class: "leaf" }, label(), ...treeFigures(node));
  const isOpen = tree.open.has(node);
  const made = element("details", { open: isOpen },
    element("summary", {}, label(), ...treeFigures(node)),
    ...(isOpen ? treeChildren(node, MOST_CHILDREN) : []));
  made.addEventListener("toggle", () => {
    if (made.open) tree.open.add(node);
    else tree.open.delete(node);
    if (made.open && made.children.length === 1)
      made.append(...treeChildren(node, MOST_CHILDREN));
  });
  return made;
};

const drawTree = () => {
  countTree();
  byId("tree").replaceChildren(treeNode(0));
};

const startTree = () => {
  const first = firstIndex();
  if (first >= 0)
    for (let at = nodeOf(first); at >= 0; at = data.nodes.parent[at]) tree.open.add(at);
  const inner = data.nodes.children[0];
  if (inner.length === 1) tree.open.add(inner[0]);
  drawers.push(drawTree);
};
