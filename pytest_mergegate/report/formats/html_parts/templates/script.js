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
      const figure = coloured(this.variants[this.chosen].figure, getComputedStyle(root));
      figure.layout.shapes = [...(figure.layout.shapes || []), ...this.outline()];
      if (this.output) figure.data[0].hovertext = this.readings.map((row) => row.map(literal));
      // numbers that would run into each other say less than none
      if (this.output && figure.data[1]) {
        figure.data[1].visible = (this.element.clientWidth - 140) / this.readings[0].length > 36;
      }
      this.element.style.minHeight = figure.layout.height + "px";
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

  const drawn = plots.map((element) => new Plot(element));
  const redraw = () => Promise.all(drawn.map((plot) => plot.draw()));

  // paper is white and narrow, and folds nothing out
  const folds = () => document.querySelectorAll("details:not([open])");
  addEventListener("beforeprint", () => {
    root.dataset.print = "";
    for (const fold of folds()) {
      if (fold.querySelectorAll("tr").length > 60) continue;
      fold.open = true;
      fold.dataset.unfolded = "";
    }
    redraw();
    drawn.forEach((plot) => Plotly.Plots.resize(plot.element));
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
