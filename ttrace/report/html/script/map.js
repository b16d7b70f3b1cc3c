// Pictures of one tensor: where it differs, and by how many units in the last place.

const MAP_SIZE = 300; // longer side of an error map
const BAR_HEIGHT = 70; // of a profile or a histogram

const bordersOf = (closer, dim) => closer.borders.filter((border) => border.dim === dim);

const cellLevel = (error, tolerance) => {
  if (!Number.isFinite(error)) return Number.isNaN(error) ? "none" : HEAT_LEVELS.length;
  if (error === 0) return 0;
  return tolerance > 0 ? heatLevel(error / tolerance) : HEAT_LEVELS.length;
};

// Lines where shards meet, of a dim that lies downwards or across.
const borderLines = (closer, dim, length, along, across, isDown) =>
  bordersOf(closer, dim).flatMap(({ side, positions }) => positions.map((position) => {
    const at = (position / length) * along;
    const ends = isDown ? { x1: 0, x2: across, y1: at, y2: at } : { x1: at, x2: at, y1: 0, y2: across };
    return element("line", { class: `border border-${side}`, ...ends });
  }));

const worstMark = (x, y) => element("g", { class: "worst" },
  element("circle", { cx: x, cy: y, r: 6 }), element("circle", { cx: x, cy: y, r: 1.5 }));

const drawErrorMap = (closer, figures, tolerance) => {
  const { dims, edges, errors } = closer.error_map;
  const lengths = edges.map((some) => some[some.length - 1]);
  const longest = Math.max(...lengths);
  // A side is never so short that its cells cannot be seen.
  const [height, width] = lengths.map((length) => Math.max(48, (length / longest) * MAP_SIZE));
  const rects = errors.flatMap((row, r) => row.map((value, c) => {
    const error = numberOf(value);
    const [y, x] = [(edges[0][r] / lengths[0]) * height, (edges[1][c] / lengths[1]) * width];
    const rect = element("rect", { class: `heat-${cellLevel(error, tolerance)}`, x, y,
      width: ((edges[1][c + 1] - edges[1][c]) / lengths[1]) * width + 0.3,
      height: ((edges[0][r + 1] - edges[0][r]) / lengths[0]) * height + 0.3 });
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = `dim ${dims[0]}: ${edges[0][r]}–${edges[0][r + 1] - 1}, ` +
      `dim ${dims[1]}: ${edges[1][c]}–${edges[1][c + 1] - 1}: error ${figure(error)}`;
    rect.append(title);
    return rect;
  }));
  const place = figures.max_abs_err_at;
  const mark = Array.isArray(place) && place.length > dims[1]
    ? worstMark(((place[dims[1]] + 0.5) / lengths[1]) * width,
      ((place[dims[0]] + 0.5) / lengths[0]) * height) : null;
  const svg = element("svg", { class: "map", role: "img",
    "aria-label": `error over dims ${dims[0]} and ${dims[1]}`,
    viewBox: `-8 -8 ${width + 16} ${height + 16}`, width: width + 16, height: height + 16 },
  ...rects,
  ...borderLines(closer, dims[0], lengths[0], height, width, true),
  ...borderLines(closer, dims[1], lengths[1], width, height, false),
  mark);
  return element("figure", {},
    element("figcaption", {}, `Where it differs: dim ${dims[0]} downwards (${lengths[0]}), ` +
      `dim ${dims[1]} across (${lengths[1]})`), svg);
};

const bars = (values, colours, titles, extras, label) => {
  const width = MAP_SIZE;
  const each = width / values.length;
  const rects = values.map((share, k) => {
    const height = share <= 0 ? 1 : Math.max(2, share * BAR_HEIGHT);
    const rect = element("rect", { class: colours[k], x: k * each, y: BAR_HEIGHT - height,
      width: Math.max(each - (each > 6 ? 2 : 0), 0.5), height });
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = titles[k];
    rect.append(title);
    return rect;
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

const drawProfile = (closer, profile, tolerance) => {
  const { dim, edges } = profile;
  const errors = profile.errors.map(numberOf);
  const length = edges[edges.length - 1];
  const titles = errors.map((error, k) =>
    `${edges[k]}–${edges[k + 1] - 1}: error ${figure(error)}`);
  return element("figure", {},
    element("figcaption", {}, `Error along dim ${dim} (${length})`),
    bars(logShares(errors), errors.map((error) => `heat-${cellLevel(error, tolerance)}`), titles,
      borderLines(closer, dim, length, MAP_SIZE, BAR_HEIGHT, false), `error along dim ${dim}`));
};

const drawHistogram = (histogram) => {
  const bins = histogram.counts.map((count, k) => {
    const [from, to] = k === 0 ? [0, 0] : [2 ** (k - 1), 2 ** k - 1];
    return { count, words: from === to ? `${from}` : `${from} to ${to}` };
  });
  const titles = bins.map(({ count, words }) => `${words} ulp: ${plural(count, "element")}`);
  const rest = histogram.num_not_comparable
    ? `; ${plural(histogram.num_not_comparable, "element")} not finite` : "";
  return element("figure", {},
    element("figcaption", {}, `Elements by their distance in units in the last place of ` +
      `${histogram.dtype}, doubling from 0 on (log scale)${rest}`),
    bars(logShares(histogram.counts), histogram.counts.map(() => "bar-fill"), titles, [],
      "distances in units in the last place"),
    element("p", { class: "axis" }, element("span", {}, "equal"),
      element("span", {}, bins.length ? `${bins[bins.length - 1].words} ulp` : "")));
};

const drawPictures = (figures, tolerance) => {
  const closer = figures.details;
  if (!closer) return null;
  closer.borders ??= [];
  closer.profiles ??= [];
  const mapped = closer.error_map ? closer.error_map.dims : [];
  const pictures = [
    closer.error_map ? drawErrorMap(closer, figures, tolerance) : null,
    ...closer.profiles
      .filter(({ dim }) => !mapped.includes(dim) || closer.profiles.length <= 2)
      .map((profile) => drawProfile(closer, profile, tolerance)),
    closer.ulp_histogram ? drawHistogram(closer.ulp_histogram) : null,
  ];
  const legend = closer.borders.length || closer.error_map
    ? element("p", { class: "legend" },
      ...["reference", "candidate"]
        .filter((side) => closer.borders.some((border) => border.side === side))
        .map((side) => element("span", { class: `key key-border-${side}` },
          `shards of the ${side} meet`)),
      " colours as in the table above: error of the part over the tolerance",
      closer.error_map && figures.max_abs_err_at ? "; the ring is the largest difference" : "")
    : null;
  return element("div", {}, element("div", { class: "pictures" },
    ...pictures.filter((picture) => picture !== null)), ...(legend ? [legend] : []));
};
