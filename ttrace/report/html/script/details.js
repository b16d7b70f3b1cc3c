// All that the report knows of one tensor, in a dialog.

const opened = { at: -1, indices: null };

const firstIndex = () => {
  if (data.first === null) return -1;
  for (let i = 0; i < data.size; i += 1) if (idOf(i) === data.first) return i;
  return -1;
};

const indexOf = (id) => {
  if (opened.indices === null) {
    opened.indices = new Map();
    for (let i = data.size - 1; i >= 0; i -= 1) opened.indices.set(idOf(i), i);
  }
  return opened.indices.get(id) ?? -1;
};

const figuresIn = async (i) => {
  const chunk = data.chunk[i];
  if (chunk < 0) return null;
  data.unpacked ??= new Map();
  if (!data.unpacked.has(chunk))
    data.unpacked.set(chunk, await unpack(data.chunks[chunk].textContent));
  return data.unpacked.get(chunk)[i];
};

const pair = (values, show = String) => {
  if (!values) return null;
  const [reference, candidate] = values.map((value) => show(value));
  return reference === candidate ? `${reference} in both`
    : `reference ${reference}, candidate ${candidate}`;
};

const SHOW_NUMBER = (value) => figure(numberOf(value));

const countPair = (values) =>
  values && (values[0] || values[1]) ? `reference ${values[0]}, candidate ${values[1]}` : null;

// Label and value of every row; those without a value are left out.
const rowsOf = (i, figures) => {
  const { rel_err: errors, tolerance, margin } = data.columns;
  const some = figures ?? {};
  const number = (name) => (some[name] === undefined ? null : SHOW_NUMBER(some[name]));
  const part = some.failed_part;
  const share = (count) => `${count} of ${some.num_elements}`;
  return [
    ["kind", text("kind", i) + (phaseOf(i) === "any" ? "" : ` (${phaseOf(i)})`)],
    ["failed by", text("cause", i).replaceAll("_", " ") || null],
    ["relative error", errors[i] === null ? null : figure(errors[i])],
    ["tolerance", tolerance[i] === null ? null : figure(tolerance[i])],
    ["margin", margin[i] === null ? null : figure(margin[i])],
    ["tolerance from", some.tolerance_derivation ?? (text("tolerance_from", i) || null)],
    ["failed part", part ? `${part.name}: relative error ${SHOW_NUMBER(part.rel_err)}, ` +
      `tolerance ${SHOW_NUMBER(part.tolerance)} (${part.derivation})` : null],
    ["noise over value", number("noise_share")],
    ["compared in part", some.part ? `by ${some.part}` : null],
    ["largest difference", some.max_abs_err === undefined ? null
      : number("max_abs_err") + (some.max_abs_err_at ? ` at [${some.max_abs_err_at.join(", ")}]` : "")],
    ["elements that differ", some.num_unequal === undefined ? null : share(some.num_unequal)],
    ["elements off by more than the tolerance",
      some.details ? share(some.details.num_beyond) : null],
    ["place of the error", some.details && some.details.place ? placeWords(some.details.place) : null],
    ["cosine", number("cosine")],
    ["best fit", some.scale_fit === undefined ? null : `${number("scale_fit")} × reference`],
    ["norm of the reference", number("reference_norm")],
    ["replicas differ by", some.replica_spread ? spreadWords(some) : null],
    ["NaN", countPair(some.nan)],
    ["infinite", countPair(some.inf)],
    ["shape", some.shape ? (some.shape.join(" × ") || "a single number") : null],
    ["dtype", pair(some.dtypes)],
    ["layout", pair(some.layouts)],
    ["known scale", some.scales && some.scales.some((scale) => scale !== 1)
      ? pair(some.scales, SHOW_NUMBER) : null],
  ].filter(([, value]) => value !== null && value !== undefined);
};

// The largest spread, and over which axes there is any.
const spreadWords = ({ replica_spread: largest, replica_spreads: byAxes }) => {
  const some = Object.entries(byAxes ?? {}).filter(([, spread]) => numberOf(spread) !== 0);
  return some.length === 0 ? SHOW_NUMBER(largest)
    : some.map(([axes, spread]) => `${SHOW_NUMBER(spread)} over ${axes}`).join(", ");
};

const placeWords = ({ dim, ranges, share, ranks }) => {
  const where = ranges.map(([start, stop]) =>
    (stop - start === 1 ? `${start}` : `${start} to ${stop - 1}`)).join(", ");
  const who = ranks && ranks.length ? `, held by rank ${ranks.join(", ")} of the candidate` : "";
  return `index ${where} of dim ${dim} has ${figure(100 * numberOf(share))} % of the squared error${who}`;
};

const rankTable = (figures, tolerance) => {
  const ranks = Object.entries(figures.rank_rel_err ?? {});
  if (ranks.length < 2) return null;
  const values = ranks.map(([, value]) => numberOf(value));
  return element("figure", {},
    element("figcaption", {}, "Error of the part that each rank of the candidate holds"),
    element("div", { class: "ranks" }, ...ranks.map(([rank], k) =>
      element("span", { class: `rank heat-${rankLevel(values[k], tolerance)}` },
        element("b", {}, rank), ` ${figure(values[k])}`))));
};

const nextFailed = (from, direction) => {
  for (let i = from + direction; i >= 0 && i < data.size; i += direction)
    if (statusOf(i) === "failed") return i;
  return -1;
};

const openDetails = async (i) => {
  const dialog = byId("details");
  const figures = await figuresIn(i);
  opened.at = i;
  const status = statusOf(i);
  const reason = (figures && figures.reason) || text("reason", i);
  byId("details-title").replaceChildren(
    element("span", { class: `badge badge-${status}` }, status), " ",
    element("span", { class: "id" }, idOf(i)));
  const tolerance = data.columns.tolerance[i] ?? 0;
  byId("details-body").replaceChildren(...[
    reason ? element("p", { class: "reason" }, reason) : null,
    element("dl", { class: "figures" }, ...rowsOf(i, figures).map(([name, value]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, String(value))))),
    figures ? rankTable(figures, tolerance) : null,
    figures ? drawPictures(figures) : null,
    figures ? null : element("p", { class: "hint" },
      "To keep this page small, further figures of this tensor are in the JSON report only."),
  ].filter((part) => part !== null));
  byId("details-back").disabled = nextFailed(i, -1) < 0;
  byId("details-on").disabled = nextFailed(i, 1) < 0;
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
};

const startDetails = () => {
  const dialog = byId("details");
  byId("details-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close(); // beside it
  });
  const go = (direction) => {
    const next = nextFailed(opened.at, direction);
    if (next >= 0) openDetails(next);
  };
  byId("details-back").addEventListener("click", () => go(-1));
  byId("details-on").addEventListener("click", () => go(1));
};

// Ids in the text above become buttons, where the page has the tensor.
const linkIds = () => {
  for (const span of document.querySelectorAll(".tensor-link")) {
    const i = indexOf(span.textContent);
    if (i < 0) continue;
    span.replaceWith(element("button", { type: "button", class: "id open clamp",
      onclick: () => openDetails(i) }, ...span.childNodes));
  }
};
