// Pictures of one tensor: where it differs, and by how many units in the last place.

const MAP_SIZE = 300; // longer side of an error map
const BAR_HEIGHT = 70; // of a profile or a histogram

const bordersOf = (closer, dim) => closer.borders.filter((border) => border.dim === dim);

const rankLevel = (error, tolerance) => {
  if (!Number.isFinite(error)) return Number.isNaN(error) ? "none" : HEAT_LEVELS.length;
  if (error === 0) return 0;
  return tolerance > 0 ? heatLevel(error / tolerance) : HEAT_LEVELS.length;
};

// Lines where shards meet, of a dim that lies downwards or across. Each has a pale line
// below it, to be seen on every colour.
const borderLines = (closer, dim, length, along, across, isDown) =>
  bordersOf(closer, dim).flatMap(({ side, positions }) => positions.flatMap((position) => {
    const at = (position / length) * along;
    const ends = isDown ? { x1: 0, x2: across, y1: at, y2: at } : { x1: at, x2: at, y1: 0, y2: across };
    return [element("line", { class: "halo", ...ends }),
      element("line", { class: `border border-${side}`, ...ends })];
  }));

const worstMark = (x, y) => element("g", { class: "worst" },
  element("circle", { class: "halo", cx: x, cy: y, r: 6 }),
  element("circle", { cx: x, cy: y, r: 6 }));

const titled = (shape, words) => {
  const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
  title.textContent = words;
  shape.append(title);
  return shape;
};

// How strongly each of some errors is painted: by its logarithm between the smallest and
// the largest of them, over three powers of ten at most. What is not finite is the largest.
const strengths = (errors) => {
  const logs = errors.filter((error) => Number.isFinite(error) && error > 0).map(Math.log10);
  const high = logs.reduce((a, b) => Math.max(a, b), -Infinity);
  const low = logs.reduce((a, b) => Math.min(a, b), Infinity);
  const span = Math.min(3, Math.max(0.3, high - low));
  return errors.map((error) => {
    if (Number.isNaN(error) || error === 0) return 0;
    if (error === Infinity) return 1;
    return Math.max(0.06, 1 - (0.94 * (high - Math.log10(error))) / span);
  });
};

const rangeWords = (errors) => {
  const there = errors.filter((error) => error > 0);
  if (there.length === 0) return "";
  const low = there.reduce((a, b) => Math.min(a, b), Infinity);
  const high = there.reduce((a, b) => Math.max(a, b), -Infinity);
  return `; error from ${figure(low)} to ${figure(high)}`;
};

const drawErrorMap = (closer, figures) => {
  const { dims, edges, errors } = closer.error_map;
  const lengths = edges.map((some) => some[some.length - 1]);
  const longest = Math.max(...lengths);
  // A side is never so short that its cells cannot be seen.
  const [height, width] = lengths.map((length) => Math.max(48, (length / longest) * MAP_SIZE));
  const flat = errors.flat().map(numberOf);
  const painted = strengths(flat);
  const rects = errors.flatMap((row, r) => row.map((_, c) => {
    const at = r * row.length + c;
    const [y, x] = [(edges[0][r] / lengths[0]) * height, (edges[1][c] / lengths[1]) * width];
    const rect = element("rect", { class: "cell", x, y, "fill-opacity": painted[at].toFixed(3),
      width: ((edges[1][c + 1] - edges[1][c]) / lengths[1]) * width,
      height: ((edges[0][r + 1] - edges[0][r]) / lengths[0]) * height });
    return titled(rect, `dim ${dims[0]}: ${edges[0][r]}–${edges[0][r + 1] - 1}, ` +
      `dim ${dims[1]}: ${edges[1][c]}–${edges[1][c + 1] - 1}: error ${figure(flat[at])}`);
  }));
  const place = figures.max_abs_err_at;
  const mark = Array.isArray(place) && place.length > dims[1]
    ? worstMark(((place[dims[1]] + 0.5) / lengths[1]) * width,
      ((place[dims[0]] + 0.5) / lengths[0]) * height) : null;
  const svg = element("svg", { class: "map", role: "img",
    "aria-label": `error over dims ${dims[0]} and ${dims[1]}`,
    viewBox: `-8 -8 ${width + 16} ${height + 16}`, width: width + 16, height: height + 16 },
  element("rect", { class: "map-frame", x: 0, y: 0, width, height }),
  ...rects,
  ...borderLines(closer, dims[0], lengths[0], height, width, true),
  ...borderLines(closer, dims[1], lengths[1], width, height, false),
  mark);
  return element("figure", {},
    element("figcaption", {}, `Where it differs: dim ${dims[0]} downwards (${lengths[0]}), ` +
      `dim ${dims[1]} across (${lengths[1]})${rangeWords(flat)}`), svg);
};

const bars = (values, colour, titles, extras, label) => {
  const width = MAP_SIZE;
  const each = width / values.length;
  const rects = values.map((share, k) => {
    const height = share <= 0 ? 1 : Math.max(2, share * BAR_HEIGHT);
    const rect = element("rect", { class: colour, x: k * each, y: BAR_HEIGHT - height,
      width: Math.max(each - (each > 6 ? 2 : 0), 0.5), height });
    return titled(rect, titles[k]);
  });
  return element("svg", { class: "bars", role: "img", "aria-label": label,
    viewBox: `0 -2 ${width} ${BAR_HEIGHT + 4}`, width, height: BAR_HEIGHT + 4 },
  ...rects, ...extras);
};

// Heights between 0 and 1 on a log scale, of figures over many powers of ten.
const logShares = (values) => {
  const there = values.filter((value) => Number.isFinite(value) && value > 0).map(Math.log10);
  const [low, high] = [Math.min(...there) - 0.5, Math.max(...there)];
  return values.map((value) => {
    if (value === Infinity) return 1;
    if (!(value > 0)) return 0;
    return high > low ? (Math.log10(value) - low) / (high - low) : 1;
  });
};

const drawProfile = (closer, profile) => {
  const { dim, edges } = profile;
  const errors = profile.errors.map(numberOf);
  const length = edges[edges.length - 1];
  const titles = errors.map((error, k) =>
    `${edges[k]}–${edges[k + 1] - 1}: error ${figure(error)}`);
  return element("figure", {},
    element("figcaption", {}, `Error along dim ${dim} (${length})${rangeWords(errors)}`),
    bars(logShares(errors), "cell", titles,
      borderLines(closer, dim, length, MAP_SIZE, BAR_HEIGHT, false), `error along dim ${dim}`));
};

const drawHistogram = (histogram) => {
  const bins = histogram.counts.map((count, k) => {
    const [from, to] = k === 0 ? [0, 0] : [2 ** (k - 1), 2 ** k - 1];
    const words = from < 1e6 ? String(from) : figure(from);
    return { count, words: from === to ? words : `${words} to ${to < 1e6 ? to : figure(to + 1)}` };
  });
  const titles = bins.map(({ count, words }) => `${words} ulp: ${plural(count, "element")}`);
  const rest = histogram.num_not_comparable
    ? `; ${plural(histogram.num_not_comparable, "element")} not finite` : "";
  return element("figure", {},
    element("figcaption", {}, `Elements by their distance in units in the last place of ` +
      `${histogram.dtype}, doubling from 0 on (log scale)${rest}`),
    bars(logShares(histogram.counts), "bar-fill", titles, [],
      "distances in units in the last place"),
    element("p", { class: "axis" }, element("span", {}, "equal"),
      element("span", {}, bins.length ? `${bins[bins.length - 1].words} ulp` : "")));
};

const drawPictures = (figures) => {
  const closer = figures.details;
  if (!closer) return null;
  closer.borders ??= [];
  closer.profiles ??= [];
  const beside = [
    ...closer.profiles.map((profile) => drawProfile(closer, profile)),
    ...(closer.ulp_histogram ? [drawHistogram(closer.ulp_histogram)] : []),
  ];
  const legend = closer.borders.length || closer.error_map
    ? element("p", { class: "legend" },
      ...["reference", "candidate"]
        .filter((side) => closer.borders.some((border) => border.side === side))
        .map((side) => element("span", { class: `key key-border-${side}` },
          `shards of the ${side} meet`)),
      "the stronger the colour, the larger the error (root mean square, over that of " +
      `the whole reference${closer.error_map && figures.max_abs_err_at
        ? "); the ring is the largest difference" : ")"}`)
    : null;
  return element("div", {}, element("div", { class: "pictures" },
    ...(closer.error_map ? [drawErrorMap(closer, figures)] : []),
    element("div", {}, ...beside)), ...(legend ? [legend] : []));
};
