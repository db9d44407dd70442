"use strict";
// Draws the plots from the data in the page, in the page's colours, and lets people switch,
// point at and walk through them. Everything it shows is in tables too.
(async () => {
  const root = document.documentElement;
  const plots = [...document.querySelectorAll("[data-chart]")];
  const dark = matchMedia("(prefers-color-scheme: dark)");

  async function load() {
    const packed = Uint8Array.from(
      atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  // figures name the page's colours; only the page knows what they are now
  function coloured(value, style) {
    if (typeof value === "string") {
      const name = /^var\((--[a-z]+(?:-\d)?)\)$/.exec(value);
      return name ? style.getPropertyValue(name[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => coloured(item, style));
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(
      Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  }

  // what all plots look like, in Plotly's words
  const axis = { fixedrange: true, automargin: true, zeroline: false, ticks: "",
    gridcolor: "var(--rule)", linecolor: "var(--rule)" };
  const look = {
    margin: { l: 8, r: 12, t: 24, b: 8 },
    paper_bgcolor: "var(--surface)",
    plot_bgcolor: "var(--surface)",
    font: { family: "system-ui, sans-serif", size: 13, color: "var(--text)" },
    hoverlabel: { bgcolor: "var(--raised)", bordercolor: "var(--muted)", align: "left",
      font: { color: "var(--text)" } },
    dragmode: false,
  };
  const title = (text) => ({ text, font: { size: 13 } });
  const ticks = (labels) => ({ tickvals: [...labels.keys()], ticktext: labels, showgrid: false });
  const downwards = (labels) => ({ ...ticks(labels), range: [labels.length - 0.5, -0.5] });

  // A grid of numbers; cells without a number stay open.
  function grid({ values, texts, rows, columns, limits: [low, high], scale, height }) {
    const cells = { type: "heatmap", z: values, zmin: low, zmax: high, hoverinfo: "text",
      xgap: columns.length <= 20 ? 2 : 0, ygap: rows.length <= 20 ? 2 : 0,
      colorscale: [0, 1, 2, 3, 4].map((k) => [k / 4, `var(--${scale}-${k})`]),
      colorbar: { orientation: "h", thickness: 8, len: 1, outlinewidth: 0,
        x: 0, xanchor: "left", y: 1, yanchor: "bottom" } };
    const layout = { height, showlegend: false, yaxis: downwards(rows),
      xaxis: { ...ticks(columns), range: [-0.5, columns.length - 0.5] } };
    const small = rows.length * columns.length <= 120;
    return { data: small ? [cells, numbers(values, texts, low, high, scale)] : [cells], layout };
  }

  // The numbers of a grid, each in the ink that is legible on its colour: .63 into a scale the
  // other ink becomes the legible one; both keep a contrast of 4.3.
  function numbers(values, texts, low, high, scale) {
    const cells = values.flatMap((row, y) => row.map((z, x) => ({ x, y, z, text: texts[y][x] })))
      .filter(({ z }) => z !== null);
    const ink = ({ z }) => {
      const place = high > low ? (z - low) / (high - low) : 0;
      const depth = scale === "diverging" ? Math.abs(2 * place - 1) : place;
      return `var(--ink-${Number(depth > 0.63)})`;
    };
    return { type: "scatter", mode: "text", hoverinfo: "skip", cliponaxis: false,
      x: cells.map(({ x }) => x), y: cells.map(({ y }) => y),
      text: cells.map(({ text }) => text),
      textfont: { size: 12, color: cells.map(ink) } };
  }

  // One row per expert; of every kind of number a mark, a little off the middle, and its interval.
  const marks = {
    states: ["diamond-open", "var(--grey)", -0.27],
    surrogate: ["circle-open", "var(--green)", -0.09],
    merged: ["circle", "var(--blue)", 0.09],
    upper: ["line-ns-open", "var(--blue)", 0.09],
    loss: ["square", "var(--orange)", 0.27],
  };
  const lines = { disagreement: ["var(--blue)", "dash"], loss: ["var(--orange)", "dot"] };

  function damage({ rows, series, limits, height }) {
    const data = series.map(([kind, name, points]) => {
      const [symbol, colour, offset] = marks[kind];
      return { type: "scatter", name, mode: "markers", cliponaxis: false,
        x: points.map(({ value }) => value), y: points.map(({ row }) => row + offset),
        error_x: { type: "data", symmetric: false, thickness: 1.5, width: 0, color: colour,
          array: points.map(({ value, ends }) => Math.max(ends[1] - value, 0)),
          arrayminus: points.map(({ value, ends }) => Math.max(value - ends[0], 0)),
          visible: points.some(({ ends }) => ends[0] !== ends[1]) },
        marker: { symbol, size: 11, color: colour, line: { width: 2, color: colour } },
        hovertext: points.map(({ text }) => text), hoverinfo: "text" };
    });
    const all = series.flatMap(([, , points]) => points)
      .flatMap(({ value, ends }) => [value, ...ends]);
    return { data, layout: { height, yaxis: downwards(rows),
      legend: { orientation: "h", x: 0, y: 1, xanchor: "left", yanchor: "bottom" },
      shapes: Object.entries(limits).map(([of, x]) => ({
        type: "line", x0: x, x1: x, y0: 0, y1: 1, yref: "y domain",
        line: { color: lines[of][0], width: 1.5, dash: lines[of][1] } })),
      xaxis: { title: title("% of answers, or of the score"), ticksuffix: " %",
        range: [Math.min(0, ...all) - 3, Math.max(100, ...all) + 3] } } };
  }

  // What so many merged models leave; across it, what one with equal shares does.
  function distortion({ models, values, texts, uniform, note, height }) {
    const layout = { height, showlegend: false,
      xaxis: { title: title("merged models"), tickformat: "d" },
      yaxis: { title: title("distortion (squared)"), rangemode: "tozero" } };
    if (models.length <= 15) layout.xaxis.dtick = 1;
    if (uniform !== null) {
      const across = { x0: 0, x1: 1, xref: "x domain", y0: uniform, y1: uniform };
      layout.shapes = [{ type: "line", ...across,
        line: { color: "var(--orange)", width: 1.5, dash: "dash" } }];
      layout.annotations = [{ text: note, font: { color: "var(--orange)" },
        showarrow: false, x: 1, xref: "x domain", xanchor: "right",
        y: uniform, yanchor: "bottom" }];
    }
    return { layout, data: [{ type: "scatter", x: models, y: values, mode: "lines+markers",
      line: { color: "var(--blue)", width: 2 }, marker: { size: 9, color: "var(--blue)" },
      hovertext: texts, hoverinfo: "text", cliponaxis: false }] };
  }

  const kinds = { grid, damage, distortion };
  function figureOf({ kind, ...given }) {
    const { data, layout } = kinds[kind](given);
    return { data, layout: { ...look, ...layout,
      xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis } } };
  }

  // Plotly reads tags, entities and formulas in what it is given
  const entities = { "&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;" };
  const literal = (text) => text.replace(/[&<>$]/g, (c) => entities[c]);

  class Plot {
    constructor(element) {
      this.element = element;
      this.variants = JSON.parse(document.getElementById(element.dataset.chart).textContent);
      this.chosen = 0;
      this.cell = null;
      this.output = document.getElementById(element.id + "-reading");
      this.figure = element.closest("figure");
      for (const button of this.figure.querySelectorAll("input[type=radio]")) {
        button.addEventListener("change", () => this.choose(Number(button.value)));
        if (button.checked) this.chosen = Number(button.value);  // as restored by the browser
      }
      if (this.output) {
        element.addEventListener("keydown", (event) => this.walk(event));
        element.addEventListener("blur", () => this.mark(null));
      }
    }

    get readings() { return this.variants[this.chosen].readings; }

    choose(chosen) {
      this.chosen = chosen;
      for (const line of this.figure.querySelectorAll("[data-variant]")) {
        const shown = Number(line.dataset.variant) === chosen;
        line.hidden = !shown;
        if (shown && line.dataset.alternative) this.element.setAttribute("aria-label", line.dataset.alternative);
      }
      this.draw();
      if (this.cell) this.say(...this.cell);
    }

    async draw() {
      const figure = coloured(figureOf(this.variants[this.chosen]), getComputedStyle(root));
      figure.layout.shapes = [...(figure.layout.shapes || []), ...this.outline()];
      if (this.output) figure.data[0].hovertext = this.readings.map((row) => row.map(literal));
      // numbers that would run into each other say less than none
      if (this.output && figure.data[1]) {
        figure.data[1].visible = (this.element.clientWidth - 140) / this.readings[0].length > 36;
      }
      this.element.style.minHeight = figure.layout.height + "px";
      // Plotly looks at its container later than the printer does
      if ("print" in root.dataset) figure.layout.width = this.element.clientWidth;
      await Plotly.react(this.element, figure.data, figure.layout,
        { displayModeBar: false, responsive: true });
      if (this.output && !this.listening) {
        this.listening = true;
        this.element.on("plotly_hover", (event) => {
          const [row, column] = event.points[0].pointIndex;
          this.say(row, column);
        });
      }
    }

    outline() {
      if (!this.cell) return [];
      const [row, column] = this.cell;
      const line = { color: getComputedStyle(root).getPropertyValue("--focus").trim(), width: 3 };
      return [{ type: "rect", line,
        x0: column - 0.5, x1: column + 0.5, y0: row - 0.5, y1: row + 0.5 }];
    }

    walk(event) {
      const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
      const step = steps[event.key];
      if (!step || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      const from = this.cell || [-step[0], -step[1]];
      const rows = this.readings.length, columns = this.readings[0].length;
      this.mark([
        Math.min(Math.max(from[0] + step[0], 0), rows - 1),
        Math.min(Math.max(from[1] + step[1], 0), columns - 1),
      ]);
      this.say(...this.cell);
    }

    mark(cell) {
      if (cell === this.cell) return;
      this.cell = cell;
      this.draw();
    }

    say(row, column) { this.output.textContent = this.readings[row][column]; }
  }

  // of the cases those that are asked for: of an expert, under a merge
  for (const filter of document.querySelectorAll(".filter")) {
    const groups = [...filter.parentElement.querySelectorAll(".changed")];
    const choices = [...filter.querySelectorAll("select")];
    const output = filter.querySelector("output");
    const choose = () => {
      const asked = choices.filter((choice) => choice.selectedIndex > 0);
      for (const group of groups) {
        group.hidden = asked.some(({ value, dataset: { by } }) => group.dataset[by] !== value);
        if (asked.length && !group.hidden) group.open = true;
      }
      const shown = groups.filter((group) => !group.hidden);
      const count = shown.flatMap((group) => [...group.querySelectorAll(".case")]).length;
      output.textContent = `${count} case${count === 1 ? "" : "s"}`;
    };
    for (const choice of choices) choice.addEventListener("change", choose);
    filter.hidden = false;
    choose();
  }

  const drawn = plots.map((element) => new Plot(element));
  const redraw = () => Promise.all(drawn.map((plot) => plot.draw()));

  // paper is white and narrow, and folds nothing out
  // except for cases, of which those that are open are printed
  const folds = () => document.querySelectorAll("details:not([open]):not(.changed)");
  addEventListener("beforeprint", () => {
    root.dataset.print = "";
    for (const fold of folds()) {
      if (fold.querySelectorAll("tr").length > 60) continue;
      fold.open = true;
      fold.dataset.unfolded = "";
    }
    redraw();
  });
  addEventListener("afterprint", () => {
    delete root.dataset.print;
    for (const fold of document.querySelectorAll("details[data-unfolded]")) {
      fold.open = false;
      delete fold.dataset.unfolded;
    }
    redraw();
    drawn.forEach((plot) => Plotly.Plots.resize(plot.element));
  });

  try {
    if (!drawn.length) return;
    await load();
    await redraw();
    dark.addEventListener("change", redraw);
  } catch (error) {
    console.error(error);
    for (const plot of drawn) {
      plot.element.textContent = "This browser cannot draw the plot; the table has its numbers.";
      plot.element.style.minHeight = "0";
    }
  } finally {
    root.dataset.ready = "";
  }
})();
