// A table without its page: the order of its rows, and its text for other programs.
// A table here is {caption, groups: [{text, span}], head: [text], rows: [[text]], numeric: [whether a column is]}.

const MISSING = new Set(["", "–", "—", "-"]);

// A number where the text begins with one ("99.4 ±0.4", "~0", "1,222"), else the text.
const sortKey = (text) => {
  const plain = text.trim().replace(/−/g, "-").replace(/(\d),(?=\d{3}(?!\d))/g, "$1");
  const found = /^[~≈≤≥<>±]?\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(?![\w.])/i.exec(plain);
  return found ? Number(found[1]) : plain;
};

const compareKeys = (a, b) => {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
};

// Places of the texts in rising (direction 1) or falling (-1) order; equal ones keep theirs, missing ones come last.
const sortedPlaces = (texts, direction) => {
  const keys = texts.map(sortKey);
  const places = [...texts.keys()];
  const there = places.filter((place) => !MISSING.has(texts[place].trim()));
  there.sort((a, b) => direction * compareKeys(keys[a], keys[b]));
  return [...there, ...places.filter((place) => MISSING.has(texts[place].trim()))];
};

// One heading a column: "clean: on y", since CSV and Markdown have no headings of several columns.
const flatHead = ({ groups, head }) => {
  const above = groups.flatMap(({ text, span }) => Array(span).fill(text));
  return head.map((text, place) => (above[place] ? `${above[place]}: ${text}` : text));
};

const csv = (table) => {
  const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
  const line = (cells) => cells.map((text) => quoted(text.replace(/−/g, "-"))).join(",");  // programs know no "−"
  return [flatHead(table), ...table.rows].map(line).join("\n") + "\n";
};

const markdown = (table) => {
  const escaped = (text) => text.replace(/[\\|*`<]/g, "\\$&");
  const line = (cells) => `| ${cells.join(" | ")} |`;
  const rule = line(table.numeric.map((is) => (is ? "---:" : "---")));
  const rows = table.rows.map((cells) => line(cells.map(escaped)));
  return [escaped(table.caption), "", line(flatHead(table).map(escaped)), rule, ...rows].join("\n") + "\n";
};

const IN_LATEX = {
  "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "−": "$-$",
  "[": "{[}", "*": "{*}", "“": "``", "”": "''", "…": "\\dots{}", "±": "$\\pm$", "×": "$\\times$", "·": "$\\cdot$", "≤": "$\\leq$",
  "≥": "$\\geq$", "<": "$<$", ">": "$>$", "≈": "$\\approx$", "‖": "$\\Vert$", "∞": "$\\infty$", "→": "$\\to$",
  "₂": "$_2$", "²": "$^2$", "ᵀ": "$^T$", "⁻": "$^-$", "¹": "$^1$", "α": "$\\alpha$", "γ": "$\\gamma$", "δ": "$\\delta$",
  "λ": "$\\lambda$", "μ": "$\\mu$", "ρ": "$\\rho$", "σ": "$\\sigma$", "Σ": "$\\Sigma$",
};
const inLatex = (text) =>
  [...text].map((sign) => ("{}$&#_%".includes(sign) ? `\\${sign}` : IN_LATEX[sign] ?? sign)).join("");

// A booktabs table, groups with a rule below each.
const latex = (table) => {
  const line = (cells) => `${cells.map(inLatex).join(" & ")} \\\\`;
  const above = [], rules = [];
  let column = 1;
  for (const { text, span } of table.groups) {
    above.push(span > 1 ? `\\multicolumn{${span}}{c}{${inLatex(text)}}` : inLatex(text));
    if (text) rules.push(`\\cmidrule(lr){${column}-${column + span - 1}}`);
    column += span;
  }
  return [
    "\\begin{table}", "\\centering", `\\caption{${inLatex(table.caption)}}`,
    `\\begin{tabular}{${table.numeric.map((is) => (is ? "r" : "l")).join("")}}`, "\\toprule",
    ...(above.length ? [`${above.join(" & ")} \\\\`, rules.join(" ")] : []),
    line(table.head), "\\midrule", ...table.rows.map(line), "\\bottomrule", "\\end{tabular}", "\\end{table}",
  ].join("\n") + "\n";
};
