// The tensors that pass the filters, a page at a time.

const table = { sort: "order", down: false, page: 0, order: [] };
const PAGE = 50;

// In order of the computation, those that failed in front.
const inOrder = () => {
  const failed = visible.filter((i) => statusOf(i) === "failed");
  const rest = visible.filter((i) => statusOf(i) !== "failed");
  return table.down ? [...rest.reverse(), ...failed.reverse()] : [...failed, ...rest];
};

const sorted = () => {
  if (table.sort === "order") return inOrder();
  const column = data.columns[table.sort];
  const value = (i) => (column[i] === null ? -Infinity : Number.isNaN(column[i]) ? Infinity : column[i]);
  const sign = table.down ? -1 : 1;
  return [...visible].sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    return x === y ? a - b : sign * (x < y ? -1 : 1);
  });
};

const tensorButton = (i) => element("button", { type: "button", class: "id open",
  onclick: () => openDetails(i) }, ...brokenId(idOf(i)));

const tableRow = (i) => {
  const { rel_err: errors, tolerance: tolerances, margin } = data.columns;
  const status = statusOf(i);
  return element("tr", { class: `row-${status}` },
    element("td", {}, tensorButton(i)),
    ...[errors, tolerances, margin].map((column) =>
      element("td", { class: "num" }, figure(column[i]))),
    element("td", {}, element("span", { class: `badge badge-${status}` }, status), " ",
      element("span", { class: "clamp" }, shortened(text("reason", i), 240))));
};

const drawPage = () => {
  const start = table.page * PAGE;
  const rows = table.order.slice(start, start + PAGE);
  const body = byId("table").tBodies[0];
  body.replaceChildren(...rows.map(tableRow));
  if (rows.length === 0)
    body.append(element("tr", {}, element("td", { colspan: 5 }, "No tensor passes the filter.")));
  byId("page-said").textContent = rows.length === 0 ? ""
    : `${start + 1} to ${start + rows.length} of ${table.order.length}`;
  byId("page-back").disabled = table.page === 0;
  byId("page-on").disabled = start + PAGE >= table.order.length;
};

const drawTable = () => {
  table.page = 0;
  table.order = sorted();
  drawPage();
};

const startTable = () => {
  for (const button of byId("table").querySelectorAll("button[data-sort]"))
    button.addEventListener("click", () => {
      const { sort } = button.dataset;
      table.down = table.sort === sort ? !table.down : sort !== "order";
      table.sort = sort;
      for (const head of byId("table").tHead.rows[0].cells) head.removeAttribute("aria-sort");
      button.parentElement.setAttribute("aria-sort", table.down ? "descending" : "ascending");
      drawTable();
    });
  const turn = (pages) => {
    table.page += pages;
    drawPage();
  };
  byId("page-back").addEventListener("click", () => turn(-1));
  byId("page-on").addEventListener("click", () => turn(1));
  drawers.push(drawTable);
};
