// Reads what is embedded in the page, and makes elements. Text of the report only ever
// becomes text: nothing here or below sets markup.

const byId = (id) => document.getElementById(id);

const element = (tag, attributes = {}, ...children) => {
  const svg = ["svg", "rect", "line", "circle", "g", "path"].includes(tag);
  const made = svg
    ? document.createElementNS("http://www.w3.org/2000/svg", tag)
    : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
};

const unpack = async (text) => {
  const bytes = Uint8Array.from(atob(text.trim()), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream();
  const whole = stream.pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(whole).text());
};

const NONFINITE = { inf: Infinity, "-inf": -Infinity, nan: NaN,
  Infinity: Infinity, "-Infinity": -Infinity, NaN: NaN };

const numberOf = (value) =>
  typeof value === "string" ? (value in NONFINITE ? NONFINITE[value] : NaN) : value;

// As Python's format(value, ".3g") writes it, which is what all other reports show.
const figure = (value) => {
  if (value === null || value === undefined) return "–";
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (value === 0) return "0";
  const [digits, exponent] = value.toExponential(2).split("e");
  const power = Number(exponent);
  if (power >= -4 && power < 3) return String(Number(value.toPrecision(3)));
  const sign = power < 0 ? "-" : "+";
  return `${Number(digits)}e${sign}${String(Math.abs(power)).padStart(2, "0")}`;
};

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

const shortened = (text, most = 160) =>
  text.length <= most ? text : `${text.slice(0, most / 2)} … ${text.slice(-most / 2)}`;

// A tensor id, which may be broken behind a slash or a dot, and not within a word.
const brokenId = (id) => shortened(id).split(/(?<=[/.])/)
  .flatMap((part) => [part, element("wbr")]).slice(0, -1);

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
