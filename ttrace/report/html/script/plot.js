// The depth plot: relative error of every compared tensor, in order of the computation.

const plot = { points: [], at: -1, left: 58, right: 12, top: 22, bottom: 24, height: 320 };

// A few figures far below all others (the floor under the tolerance of one scalar) would
// take most of the axis: it begins above a gap of so many decades that so few lie below.
const GAP = 3;
const FEW = 0.05;

const plotScale = () => {
  const { rel_err: errors, tolerance: tolerances } = data.columns;
  const logs = [];
  let failed = Infinity;
  for (const i of plot.points)
    for (const value of [errors[i], tolerances[i]])
      if (Number.isFinite(value) && value > 0) {
        logs.push(Math.log10(value));
        if (statusOf(i) === "failed") failed = Math.min(failed, Math.log10(value));
      }
  logs.sort((a, b) => a - b);
  let cut = 0;
  for (let k = 1; k <= FEW * logs.length; k += 1)
    if (logs[k] - logs[k - 1] > GAP && logs[k] <= failed) cut = k;
  const [low, high] = logs.length === 0 ? [-8, 0] : [logs[cut], logs[logs.length - 1]];
  plot.low = Math.floor(low - 0.2);
  plot.high = Math.ceil(high + 0.2);
  byId("plot-cut").textContent = cut === 0 ? ""
    : `The axis begins at 1e${plot.low}: ` + (cut === 1
      ? `one figure far below all others, ${figure(10 ** logs[0])}, is`
      : `${cut} figures far below all others, down to ${figure(10 ** logs[0])}, are`) +
      " drawn at its lower edge.";
};

// Zero lies on a line of its own below, NaN and infinity on one above.
const plotY = (value) => {
  const bottom = plot.height - plot.bottom;
  if (!Number.isFinite(value)) return plot.top - 10;
  if (value === 0) return bottom - 4;
  const share = Math.max(0, (Math.log10(value) - plot.low) / (plot.high - plot.low));
  return bottom - 16 - share * (bottom - 16 - plot.top);
};

const plotX = (place) =>
  plot.left + ((place + 0.5) / plot.points.length) * (plot.width - plot.left - plot.right);

const drawPlotAxes = (pen) => {
  pen.font = `11px ${css("--mono")}`;
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  pen.lineWidth = 1;
  const every = Math.ceil((plot.high - plot.low) / 8);
  for (let power = plot.low; power <= plot.high; power += every) {
    const y = Math.round(plotY(10 ** power)) + 0.5;
    pen.strokeStyle = css("--line");
    pen.beginPath();
    pen.moveTo(plot.left, y);
    pen.lineTo(plot.width - plot.right, y);
    pen.stroke();
    pen.fillStyle = css("--soft");
    pen.fillText(power === 0 ? "1" : `1e${power}`, plot.left - 6, y);
  }
  pen.fillText("0", plot.left - 6, plotY(0));
  const { rel_err: errors } = data.columns;
  if (plot.points.some((i) => !Number.isFinite(errors[i])))
    pen.fillText("inf/nan", plot.left - 6, plotY(NaN));
};

const drawPlotSteps = (pen) => {
  const { step } = data.columns;
  const bottom = plot.height - plot.bottom;
  let last = -Infinity;
  pen.textAlign = "left";
  pen.textBaseline = "top";
  plot.points.forEach((i, place) => {
    if (place > 0 && step[i] === step[plot.points[place - 1]]) return;
    const x = Math.round(place === 0 ? plot.left : plotX(place - 0.5)) + 0.5;
    if (x - last < 46 && place > 0) return;
    last = x;
    pen.strokeStyle = css("--line-strong");
    pen.beginPath();
    pen.moveTo(x, plot.top);
    pen.lineTo(x, bottom + 8);
    pen.stroke();
    pen.fillStyle = css("--soft");
    if (step[i] >= 0) pen.fillText(`step ${step[i]}`, x + 3, bottom + 8);
  });
};

const drawPlotPhases = (pen) => {
  const colours = { start: "--start", forward: "--forward", backward: "--backward",
    optimizer: "--optimizer", any: "--soft" };
  const bottom = plot.height - plot.bottom;
  const width = Math.max(1, plotX(1) - plotX(0) + 0.5);
  plot.points.forEach((i, place) => {
    pen.fillStyle = css.cache[colours[phaseOf(i)]];
    pen.fillRect(plotX(place) - width / 2, bottom + 1, width, 5);
  });
};

const drawPlot = () => {
  const canvas = byId("plot");
  plot.points = visible.filter((i) => data.columns.rel_err[i] !== null);
  plot.at = -1;
  byId("plot-tip").hidden = true;
  byId("plot-said").textContent =
    plot.points.length === 0 ? "No compared tensor passes the filter." : "";
  const ratio = window.devicePixelRatio || 1;
  plot.width = canvas.parentElement.clientWidth;
  canvas.width = plot.width * ratio;
  canvas.height = plot.height * ratio;
  canvas.style.width = `${plot.width}px`;
  canvas.style.height = `${plot.height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  css.cache = {};
  for (const name of ["--start", "--forward", "--backward", "--optimizer", "--soft"])
    css.cache[name] = css(name);
  plotScale();
  drawPlotAxes(pen);
  drawPlotSteps(pen);
  drawPlotPhases(pen);
  const { rel_err: errors, tolerance: tolerances } = data.columns;
  const many = plot.points.length > 4000;
  const dash = Math.max(2, Math.min(8, plotX(1) - plotX(0)));
  pen.fillStyle = css("--tolerance");
  plot.points.forEach((i, place) => {
    if (tolerances[i] !== null)
      pen.fillRect(plotX(place) - dash / 2, plotY(tolerances[i]) - 0.75, dash, 1.5);
  });
  const radius = many ? 1.5 : 2.5;
  pen.fillStyle = css("--passed");
  plot.points.forEach((i, place) => {
    if (statusOf(i) === "failed") return;
    pen.fillRect(plotX(place) - radius, plotY(errors[i]) - radius, 2 * radius, 2 * radius);
  });
  pen.fillStyle = css("--failed");
  const size = many ? 2.5 : 4.5;
  plot.points.forEach((i, place) => {
    if (statusOf(i) !== "failed") return;
    const [x, y] = [plotX(place), plotY(errors[i])];
    pen.beginPath();
    pen.moveTo(x, y - size);
    pen.lineTo(x + size, y + size * 0.8);
    pen.lineTo(x - size, y + size * 0.8);
    pen.fill();
  });
};

const pointAt = (x, y) => {
  const share = (x - plot.left) / (plot.width - plot.left - plot.right);
  const centre = Math.floor(share * plot.points.length);
  const reach = Math.ceil((12 / (plot.width - plot.left)) * plot.points.length) + 1;
  let [best, distance] = [-1, 24 ** 2];
  const last = Math.min(plot.points.length - 1, centre + reach);
  for (let place = Math.max(0, centre - reach); place <= last; place += 1) {
    const value = data.columns.rel_err[plot.points[place]];
    const here = (plotX(place) - x) ** 2 + (plotY(value) - y) ** 2;
    if (here < distance) [best, distance] = [place, here];
  }
  return best;
};

const figuresOf = (i) => {
  const { rel_err: errors, tolerance: tolerances, margin } = data.columns;
  return `rel. error ${figure(errors[i])}, tolerance ${figure(tolerances[i])}, ` +
    `margin ${figure(margin[i])}, ${statusOf(i)}`;
};

const showPoint = (place, aloud) => {
  const tip = byId("plot-tip");
  plot.at = place;
  tip.hidden = place < 0;
  if (place < 0) return;
  const i = plot.points[place];
  tip.replaceChildren(
    element("span", { class: "id" }, ...brokenId(idOf(i))), element("br"), figuresOf(i));
  const x = plotX(place);
  const y = plotY(data.columns.rel_err[i]);
  tip.style.left = `${Math.max(0, Math.min(x + 12, plot.width - tip.offsetWidth - 4))}px`;
  tip.style.top = `${y > plot.height / 2 ? y - tip.offsetHeight - 12 : y + 12}px`;
  if (aloud) byId("plot-said").textContent = `${shortened(idOf(i))}: ${figuresOf(i)}`;
};

const stepPoint = (direction, failedOnly) => {
  let place = plot.at;
  do place += direction;
  while (failedOnly && place >= 0 && place < plot.points.length &&
    statusOf(plot.points[place]) !== "failed");
  if (place >= 0 && place < plot.points.length) showPoint(place, true);
};

const startPlot = () => {
  const canvas = byId("plot");
  canvas.addEventListener("mousemove", (event) =>
    showPoint(pointAt(event.offsetX, event.offsetY), false));
  canvas.addEventListener("mouseleave", () => showPoint(-1, false));
  canvas.addEventListener("click", (event) => {
    const place = pointAt(event.offsetX, event.offsetY);
    if (place >= 0) openDetails(plot.points[place]);
  });
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
      stepPoint(event.key === "ArrowRight" ? 1 : -1, event.shiftKey);
      event.preventDefault();
    } else if (event.key === "Enter" && plot.at >= 0) openDetails(plot.points[plot.at]);
    else if (event.key === "Escape") showPoint(-1, false);
  });
  const phases = ["start", "forward", "backward", "optimizer"];
  byId("plot-legend").replaceChildren("phase: ",
    ...phases.flatMap((phase) =>
      [element("span", { class: `key key-${phase}` }, phase), " "]));
  let waiting = 0;
  const again = () => {
    clearTimeout(waiting);
    waiting = setTimeout(drawPlot, 80);
  };
  addEventListener("resize", again);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  drawers.push(drawPlot);
};
