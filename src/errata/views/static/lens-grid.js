// A token × layer grid: one module without dependencies, for the offline page, for notebooks and for the web page.
//
//   import { mount } from "./lens-grid.js";
//   const view = mount(element, grid);      // `grid` is the JSON of errata.views.grid.Grid
//   view.select(layer, position);           // indices into grid.layers and grid.tokens
//   element.addEventListener("cell", (event) => event.detail);   // {side, layer, position, sheet}
//
// Backward on the left, forward on the right, cell against cell. Every cell can be clicked or reached with the arrow
// keys; what it holds is shown below. Text is only ever set as text, so a token cannot become markup.

const CONTROL = { " ": "·", "\n": "⏎", "\t": "⇥", "\r": "␍", "\u00a0": "⍽", "\u00ad": "‧" };

export function visible(text) {
  let out = "";
  for (const char of text) {
    const code = char.codePointAt(0);
    if (char in CONTROL) out += CONTROL[char];
    else if (code < 0x20) out += String.fromCodePoint(0x2400 + code);
    else if (/[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Zs}]/u.test(char)) out += `‹${code.toString(16).toUpperCase()}›`;
    else out += char;
  }
  return out || "∅";
}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in element && name !== "role") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const number = (value) => {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  return size !== 0 && (size < 0.01 || size >= 1e5) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
};
const grouped = (value) => value.toLocaleString("en-US");
const distinct = (values) => [...new Set(values)];

// A single hue from paper to ink, even in lightness, so that it reads without colour vision and in print.
function shade(amount) {
  const t = Math.max(0, Math.min(1, amount));
  // No lightness between 50 and 62 %: there neither ink would stand out.
  const lightness = t > 0.65 ? 50 - (15 * (t - 0.65)) / 0.35 : 97 - (35 * t) / 0.65;
  return { background: `oklch(${lightness}% ${0.01 + 0.1 * t} 250)`, ink: t > 0.65 ? "#fff" : "#17202a" };
}

// A second hue, for what lies below zero.
function signedShade(amount) {
  const { background, ink } = shade(Math.abs(amount));
  return { background: amount < 0 ? background.replace(/250\)$/, "60)") : background, ink };
}

const HEADINGS = {
  backward: ["Backward lens", "Backward: what the gradient says"],
  forward: ["Forward lens", "Forward: what the model says"],
  effect: ["Causal trace", "Causal trace: what restoring one state brings back"],
};

class Side {
  constructor(view, side) {
    this.view = view;
    this.side = side;
    this.sheets = view.grid.sheets.filter((sheet) => sheet.side === side);
    this.choice = { ...this.sheets[0] };
    this.extreme = this.sheets[0].shows;
    this.colour = "norm";
    this.cells = [];
    this.controls = {};
    this.root = make("section", { className: `side ${side}` });
    const [label, heading] = HEADINGS[side];
    this.root.setAttribute("aria-label", label);
    this.toolbar = make("div", { className: "toolbar" });
    this.scroller = make("div", { className: "scroller" });
    this.root.append(make("h2", {}, heading), this.toolbar, this.scroller);
    this.buildToolbar();
    this.buildTable();
    this.fill();
  }

  get sheet() {
    return (
      this.sheets.find((one) => ["name", "mode", "sign"].every((key) => one[key] === this.choice[key])) ||
      this.sheets.find((one) => one.name === this.choice.name && one.mode === this.choice.mode) ||
      this.sheets.find((one) => one.name === this.choice.name)
    );
  }

  buildToolbar() {
    const names = { name: this.side === "backward" ? "matrix" : "stream", mode: "mode", sign: "sign" };
    for (const [key, label] of Object.entries(names)) {
      const values = distinct(this.sheets.map((sheet) => sheet[key]));
      if (key === "sign" && this.side === "forward") continue;
      this.addSelect(key, label, values.map((value) => [value, value === "-vjp" ? "−vjp" : value]), (value) => {
        if (key === "mode") this.view.linkMode(this, value);
        const before = this.sheet.shows;
        this.choice[key] = value;
        this.choice.sign = this.sheet.sign;
        if (this.sheet.shows !== before || key === "name") this.extreme = this.sheet.shows;
        this.fill();
      });
    }
    this.addSelect("extreme", "shown", [["top", "most probable"], ["bottom", "least probable"]], (value) => {
      this.extreme = value;
      this.fill();
    });
    const colours = [["norm", "norm (log scale)"], ["share", "share of ‖G‖²"]].filter(
      ([key]) => key !== "share" || this.sheets.some((sheet) => sheet.share)
    );
    this.sheets[0].tracked.forEach((token, i) => colours.push([`rank:${i}`, `rank of ${visible(token.text)}`]));
    this.addSelect("colour", "colour", colours, (value) => {
      this.colour = value;
      this.fill();
    });
  }

  addSelect(key, label, options, change) {
    const select = make("select", { name: `${this.side}-${key}` });
    for (const [value, text] of options) select.append(make("option", { value }, text));
    select.addEventListener("change", () => change(select.value));
    if (options.length < 2) select.disabled = true;
    this.controls[key] = select;
    this.toolbar.append(make("label", {}, make("span", {}, label), select));
  }

  buildTable() {
    const { tokens, layers } = this.view.grid;
    const table = make("table", { role: "grid" });
    table.style.minWidth = `${2.8 + 3.6 * tokens.length}rem`;
    table.setAttribute("aria-rowcount", layers.length + 1);
    const body = make("tbody");
    for (let layer = layers.length - 1; layer >= 0; layer--) {
      const row = make("tr", {}, make("th", { scope: "row" }, String(layers[layer])));
      this.cells[layer] = tokens.map((_, position) => {
        const cell = make("td", { tabIndex: -1, role: "gridcell" });
        cell.addEventListener("click", () => this.view.choose(this.side, layer, position, true));
        cell.addEventListener("keydown", (event) => this.view.key(event, this.side, layer, position));
        row.append(cell);
        return cell;
      });
      body.append(row);
    }
    const foot = make("tr", {}, make("th", {}, "layer"));
    tokens.forEach((_, position) => {
      const cell = make("th", { scope: "col", title: this.view.segment(position) }, make("bdi", {}, this.view.head(position)));
      foot.append(cell);
    });
    table.append(body, make("tfoot", {}, foot));
    this.scroller.append(table);
  }

  amount(sheet, layer, position) {
    if (sheet.null[layer][position]) return 0;
    if (this.colour.startsWith("rank:")) {
      const rank = sheet.tracked[Number(this.colour.slice(5))].ranks[layer][position];
      // Near either end is what matters: |V|/2 says nothing.
      const place = rank / Math.max(1, this.view.grid.vocabulary - 1);
      return Math.abs(2 * place - 1) ** 4;
    }
    if (this.colour === "share" && sheet.share) return Math.abs(sheet.share[layer][position]);
    // Norms spread over orders of magnitude; their logarithm shows all of them.
    const known = sheet.norm.flatMap((row, i) => row.filter((value, j) => value > 0 && !sheet.null[i][j]));
    const low = Math.log(Math.min(...known));
    const high = Math.log(Math.max(...known));
    return high > low ? (Math.log(sheet.norm[layer][position]) - low) / (high - low) : 1;
  }

  fill() {
    const sheet = this.sheet;
    for (const key of ["name", "mode", "sign"]) if (this.controls[key]) this.controls[key].value = sheet[key];
    this.controls.extreme.value = this.extreme;
    if (this.controls.sign) {
      const signs = this.sheets.filter((one) => one.name === sheet.name && one.mode === sheet.mode).map((one) => one.sign);
      for (const option of this.controls.sign.options) option.disabled = !signs.includes(option.value);
    }
    const texts = this.view.grid.texts;
    this.cells.forEach((row, layer) =>
      row.forEach((cell, position) => {
        const empty = sheet.null[layer][position];
        const text = empty ? "–" : visible(texts[sheet[this.extreme][layer][position][0]]);
        const { background, ink } = shade(this.amount(sheet, layer, position));
        cell.replaceChildren(make("bdi", {}, text));
        cell.style.background = empty ? "transparent" : background;
        cell.style.color = empty ? "inherit" : ink;
        cell.classList.toggle("empty", empty);
        const where = `layer ${this.view.grid.layers[layer]}, ${this.view.column(position)} ${this.view.head(position)}`;
        cell.setAttribute("aria-label", `${where}: ${empty ? "zero vector" : text}`);
        cell.title = `${where}\n‖v‖ ${number(sheet.norm[layer][position])}`;
      })
    );
    this.view.showDetail();
  }

  get linked() {
    return true;
  }

  card(layer, position) {
    const sheet = this.sheet;
    const sign = sheet.sign === "-vjp" ? "−" : "";
    const name = this.side === "backward" ? `${sheet.name}: ${sign}${sheet.source}` : sheet.name;
    const card = make("div", { className: `card ${this.side}` }, make("h3", {}, `${name}, ${sheet.mode} mode`));
    const facts = [["‖v‖", number(sheet.norm[layer][position])]];
    if (sheet.share) facts.push(["share of ‖G‖²", `${number(100 * sheet.share[layer][position])} %`]);
    if (!sheet.null[layer][position])
      for (const one of sheet.tracked) {
        const rank = one.ranks[layer][position];
        const ties = one.ties[layer][position];
        const place = ties > 1 ? `${grouped(rank)}–${grouped(rank + ties - 1)}` : grouped(rank);
        facts.push([`rank of ${visible(one.text)}`, `${place} of ${grouped(this.view.grid.vocabulary)}`]);
      }
    const list = make("dl");
    for (const [term, value] of facts) list.append(make("div", {}, make("dt", {}, make("bdi", {}, term)), make("dd", {}, value)));
    card.append(list);
    if (sheet.null[layer][position]) {
      card.append(make("p", {}, "The vector is zero: every token ties on it."));
      return card;
    }
    const columns = make("div", { className: "columns" });
    columns.append(this.list("most probable", sheet.top[layer][position], sheet.top_values[layer][position]));
    columns.append(this.list("least probable", sheet.bottom[layer][position], sheet.bottom_values[layer][position]));
    card.append(columns);
    return card;
  }

  list(title, ids, values) {
    const table = make("table", {}, make("caption", {}, title));
    ids.forEach((id, i) => {
      const text = make("td", {}, make("bdi", {}, visible(this.view.grid.texts[id])));
      table.append(make("tr", {}, text, make("td", { className: "value" }, number(values[i]))));
    });
    return table;
  }
}

// Numbers instead of tokens: one a cell, coloured by its share of the sheet's limit.
class ValueSide extends Side {
  get sheet() {
    return this.sheets.find((one) => one.name === this.choice.name);
  }

  get linked() {
    return false;
  }

  buildToolbar() {
    const names = this.sheets.map((sheet) => [sheet.name, sheet.name]);
    this.addSelect("name", "restored", names, (value) => {
      this.choice.name = value;
      this.fill();
    });
  }

  fill() {
    const sheet = this.sheet;
    // Three digits of the limit, two decimals at least and four at most, as on a terminal.
    const digits = sheet.limit >= 1 || !sheet.limit ? 2 : Math.min(4, 2 - Math.floor(Math.log10(sheet.limit)));
    this.controls.name.value = sheet.name;
    this.cells.forEach((row, layer) =>
      row.forEach((cell, position) => {
        const value = sheet.values[layer][position];
        const empty = value === null;
        const text = empty ? "–" : value.toFixed(digits).replace(/^-(0\.0+)$/, "$1");
        const { background, ink } = signedShade(empty || !sheet.limit ? 0 : value / sheet.limit);
        cell.replaceChildren(text);
        cell.style.background = empty ? "transparent" : background;
        cell.style.color = empty ? "inherit" : ink;
        cell.classList.toggle("empty", empty);
        const where = `layer ${this.view.grid.layers[layer]}, ${this.view.column(position)} ${this.view.head(position)}`;
        cell.setAttribute("aria-label", `${where}: ${empty ? "not run" : text}`);
        cell.title = `${where}\n${sheet.label}`;
      })
    );
    this.view.showDetail();
  }

  card(layer, position) {
    const sheet = this.sheet;
    const card = make("div", { className: `card ${this.side}` }, make("h3", {}, sheet.name));
    const facts = [[sheet.label, number(sheet.values[layer][position])]];
    for (const [name, cells] of Object.entries(sheet.details)) facts.push([name, number(cells[layer][position])]);
    for (const [name, value] of Object.entries(sheet.facts)) facts.push([name, number(value)]);
    const list = make("dl");
    for (const [term, value] of facts) list.append(make("div", {}, make("dt", {}, term), make("dd", {}, value)));
    card.append(list);
    return card;
  }
}

class View {
  constructor(root, grid) {
    this.root = root;
    this.grid = grid;
    this.selected = { side: "backward", layer: grid.layers.length - 1, position: grid.tokens.length - 1 };
    this.ready = false;
    this.detail = make("section", { className: "detail" });
    this.detail.setAttribute("aria-live", "polite");
    const sides = distinct(grid.sheets.map((sheet) => sheet.side));
    this.selected.side = sides[0];
    root.classList.add("lens-grid");
    const header = make("header", {}, make("h1", {}, make("bdi", {}, grid.title)), make("p", {}, grid.subtitle));
    for (const note of grid.notes) header.append(make("p", { className: "note" }, note));
    const both = make("div", { className: "sides" });
    root.replaceChildren(header, both, this.detail);
    this.sides = {};
    for (const side of sides) {
      this.sides[side] = side === "effect" ? new ValueSide(this, side) : new Side(this, side);
      both.append(this.sides[side].root);
    }
    this.ready = true;
    this.choose(this.selected.side, this.selected.layer, this.selected.position, false);
  }

  // Cells are compared across the two grids, so they are read in one mode where both have it.
  linkMode(from, mode) {
    for (const side of Object.values(this.sides)) {
      if (side === from || !side.linked || !side.sheets.some((sheet) => sheet.mode === mode)) continue;
      side.choice.mode = mode;
      side.fill();
    }
  }

  head(position) {
    return this.grid.labels ? this.grid.tokens[position] : visible(this.grid.tokens[position]);
  }

  column(position) {
    return this.grid.labels ? "at" : `token ${position}`;
  }

  segment(position) {
    const names = Object.keys(this.grid.segments).filter((name) => this.grid.segments[name].includes(position));
    return names.join(", ");
  }

  select(layer, position, side = this.selected.side) {
    this.choose(side, layer, position, false);
  }

  choose(side, layer, position, focus) {
    for (const one of Object.values(this.sides)) {
      const old = one.cells[this.selected.layer][this.selected.position];
      old.classList.remove("selected");
      old.tabIndex = -1;
      old.setAttribute("aria-selected", "false");
    }
    this.selected = { side, layer, position };
    for (const one of Object.values(this.sides)) {
      const cell = one.cells[layer][position];
      cell.classList.add("selected");
      cell.setAttribute("aria-selected", "true");
      // One stop of the tab key for each grid; the arrow keys move within it.
      cell.tabIndex = 0;
    }
    if (focus) this.sides[side].cells[layer][position].focus();
    this.showDetail();
    const sheet = this.sides[side].sheet;
    this.root.dispatchEvent(new CustomEvent("cell", { bubbles: true, detail: { side, layer, position, sheet } }));
  }

  key(event, side, layer, position) {
    const top = this.grid.layers.length - 1;
    const end = this.grid.tokens.length - 1;
    const sides = Object.keys(this.sides);
    const moves = {
      ArrowUp: [layer + 1, position],
      ArrowDown: [layer - 1, position],
      ArrowLeft: [layer, position - 1],
      ArrowRight: [layer, position + 1],
      Home: [layer, 0],
      End: [layer, end],
      PageUp: [top, position],
      PageDown: [0, position],
    };
    if (event.key in moves && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      const [to, at] = moves[event.key];
      if (to >= 0 && to <= top && at >= 0 && at <= end) this.choose(side, to, at, true);
    } else if ((event.key === "Enter" || event.key === " ") && sides.length > 1) {
      event.preventDefault();
      this.choose(sides[(sides.indexOf(side) + 1) % sides.length], layer, position, true);
    }
  }

  showDetail() {
    if (!this.ready) return;
    const { layer, position } = this.selected;
    const segment = this.segment(position);
    const where = `Layer ${this.grid.layers[layer]}, ${this.column(position)}: `;
    const title = make("h2", {}, where, make("bdi", {}, this.head(position)));
    if (segment) title.append(make("span", { className: "segment" }, segment));
    this.detail.replaceChildren(title);
    for (const side of Object.values(this.sides)) this.detail.append(side.card(layer, position));
  }
}

export function mount(root, grid) {
  if (grid.format !== 1) throw new Error(`lens-grid reads format 1, not ${grid.format}`);
  return new View(root, grid);
}
