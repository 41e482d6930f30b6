// The browser's side of vidmarl.report.live: it shows what the kernel tells of an attack, and sends regions that are
// drawn by hand. Everything it needs is in this file.

const LABEL = "#0072b2", RIVAL = "#d55e00", MORE = "230,97,1", LESS = "131,82,224";
const FRAME_MS = 200;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function percent(p) {
  return p > 0 && p < 0.01 ? "< 1 %" : `${Math.round(100 * p)} %`;
}

/** Strengths in [-1, 1] of the bytes that the kernel sends. */
function strengths(view) {
  const codes = new Int8Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
  return Float32Array.from(codes, (code) => code / 127);
}

/** All frames of a clip, in one picture. */
class Film {
  constructor(changed) {
    this.image = new Image();
    this.image.onload = changed;
  }

  set source(url) {
    if (this.image.src !== url) this.image.src = url;
  }

  draw(context, frame, about) {
    const { image } = this;
    if (!image.complete || !image.naturalWidth) return false;
    const columns = about.columns, rows = Math.ceil(about.shape[0] / columns);
    const w = image.naturalWidth / columns, h = image.naturalHeight / rows;
    const { width, height } = context.canvas;
    context.imageSmoothingEnabled = w > width;
    context.drawImage(image, (frame % columns) * w, Math.floor(frame / columns) * h, w, h, 0, 0, width, height);
    return true;
  }
}

class View {
  constructor(model, el) {
    this.model = model;
    this.clip = 0;
    this.frame = 0;
    this.mine = false; // whether the drawn region is shown, rather than the attack's
    this.asking = false;
    this.cursor = [0, 0];
    this.drawn = new Map(); // the region of each clip, a number for each tubelet
    this.said = new Map(); // the last answer about each clip
    this.build(el);
    const about = model.get("about");
    this.films = Object.fromEntries(["clean", "attacked", "answered"].map((k) => [k, new Film(() => this.paint())]));
    this.handlers = { "change:about": () => this.renew(), "change:answer": () => this.answered() };
    about.clean.forEach((_, i) => (this.handlers[`change:clip_${i}`] = () => this.told(i)));
    for (const [event, handler] of Object.entries(this.handlers)) model.on(event, handler);
    this.renew();
    if (!this.state()) this.mine = true;
    const answer = model.get("answer");
    if (answer.classes) this.answered();
    this.follow();
  }

  remove() {
    for (const [event, handler] of Object.entries(this.handlers)) this.model.off(event, handler);
    clearInterval(this.playing);
  }

  build(el) {
    const still = make("style");
    still.textContent = `.vidmarl-still-${this.model.get("about").key} { display: none; }`; // the picture for pages
    const own = Math.random().toString(36).slice(2); // there may be several views
    const radio = (group, value, text, checked, change) =>
      make("label", {}, make("input", { type: "radio", name: `${group}-${own}`, value, checked, onchange: change }), text);
    this.clips = make("select", { "aria-label": "clip", onchange: () => this.turn(+this.clips.value) });
    this.status = make("span", { class: "vl-said", role: "status", "aria-live": "polite" });
    this.which = make("span", { class: "vl-row", role: "group", "aria-label": "which region is shown" },
      radio("which", "attack", "the attack's region", true, () => this.choose(false)),
      radio("which", "mine", "my region", false, () => this.choose(true)));
    this.region = make("canvas", {
      class: "vl-region", tabindex: 0, role: "application",
      "aria-label": "Frame with the region. Arrow keys move the cursor, space paints, page up and page down change the frame, enter asks the victim.",
      onkeydown: (e) => this.key(e), onpointerdown: (e) => this.down(e), onpointermove: (e) => this.move(e),
      onpointerup: (e) => this.up(e), onpointercancel: (e) => this.up(e), onblur: () => this.paint(), onfocus: () => this.paint(),
    });
    this.attacked = make("canvas", { role: "img" });
    this.caption = make("figcaption");
    this.when = make("canvas", { class: "vl-when", role: "img", "aria-label": "strength in each frame" });
    this.slider = make("input", { type: "range", min: 0, value: 0, "aria-label": "frame", class: "vl-frame",
      oninput: () => this.go(+this.slider.value), onkeydown: (e) => this.slide(e) });
    this.play = make("button", { type: "button", "aria-label": "play", onclick: () => this.toggle() }, "▶");
    this.number = make("span");
    this.chart = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.chart.setAttribute("class", "vl-chart");
    this.chart.setAttribute("viewBox", "0 0 440 190");
    this.chart.setAttribute("role", "img");
    this.keys = make("div", { class: "vl-row vl-key" });
    this.curves = make("div", {}, this.keys, this.chart);

    const number = (label, change) => make("input", { type: "number", min: 1, step: 1, "aria-label": label, onchange: change });
    this.from = number("first frame", () => this.times());
    this.to = number("last frame", () => this.times());
    this.size = make("input", { type: "range", min: 0.02, max: 0.3, step: 0.02, value: 0.12, "aria-label": "brush size" });
    this.distortion = make("select", { "aria-label": "distortion", class: "vl-distortion", onchange: () => this.chosen() });
    this.amount = make("input", { type: "range", min: 0, max: 1, step: 0.05, value: 1, "aria-label": "strength", class: "vl-strength",
      oninput: () => this.strong(), onchange: () => this.changed() });
    this.amountText = make("output");
    this.button = make("button", { type: "button", class: "vl-ask", onclick: () => this.ask() }, "Ask the victim (1 query)");
    this.always = make("input", { type: "checkbox", checked: true });
    this.take = make("button", { type: "button", onclick: () => this.takeOver() }, "Start from the attack's region");
    this.tool = make("span", { class: "vl-row", role: "radiogroup", "aria-label": "tool" },
      radio("tool", "brush", "brush", true), radio("tool", "rectangle", "rectangle", false), radio("tool", "eraser", "eraser", false));
    this.answerText = make("p", { class: "vl-said vl-answer", role: "status", "aria-live": "polite" });
    this.asked = make("p", { class: "vl-hint" });
    this.bars = make("table", { class: "vl-bars" });
    this.error = make("p", { class: "vl-error", role: "alert", hidden: true });
    this.root = make("div", { class: "vidmarl-live", "data-lm-suppress-shortcuts": "true" }, still, // JupyterLab leaves its keys alone
      make("div", { class: "vl-row" }, this.clips, this.status),
      make("div", { class: "vl-body" },
        make("div", {}, this.which,
          make("div", { class: "vl-films" },
            make("figure", {}, this.region, make("figcaption", {}, "original, with the region")),
            make("figure", {}, this.attacked, this.caption)),
          this.when,
          make("div", { class: "vl-slide" }, this.play, this.slider, this.number)),
        make("div", {}, this.curves, this.answerText, this.bars, this.asked, this.error)),
      make("fieldset", {}, make("legend", {}, "What if? Draw a region on the frame"),
        make("div", { class: "vl-row" }, this.tool, make("label", {}, "size ", this.size),
          make("label", {}, "frames ", this.from, " to ", this.to)),
        make("div", { class: "vl-row" }, make("label", {}, "distortion ", this.distortion),
          make("label", {}, "strength ", this.amount, this.amountText)),
        make("div", { class: "vl-row" }, this.button, make("label", {}, this.always, "after each stroke"), this.take,
          make("button", { type: "button", class: "vl-clear", onclick: () => this.clear() }, "Clear"))));
    el.append(this.root);
  }

  // what the kernel tells

  get about() { return this.model.get("about"); }

  state(clip = this.clip) {
    const state = this.model.get(`clip_${clip}`);
    return state && state.queries ? state : null;
  }

  /** The victim, the clips or the tubelets are others. */
  renew() {
    const { about } = this, [t, height, width] = about.shape;
    const grid = about.grid.join();
    if (grid !== this.grid) {
      this.grid = grid;
      this.drawn.clear();
      this.cursor = [about.grid[1] >> 1, about.grid[2] >> 1];
    }
    const most = 2 ** Math.ceil(Math.log2(Math.max(1, 360 / Math.max(height, width)))); // sharp pixels
    for (const canvas of [this.region, this.attacked]) {
      if (canvas.width !== width * most) [canvas.width, canvas.height] = [width * most, height * most];
    }
    this.slider.max = t - 1;
    for (const input of [this.from, this.to]) input.max = t;
    this.from.value ||= 1;
    this.to.value ||= t;
    const chosen = this.distortion.value;
    this.distortion.replaceChildren(...Object.keys(about.distortions).map((name) =>
      make("option", { value: name }, name.replaceAll("_", " "))));
    this.distortion.value = about.distortion !== this.known || !chosen ? about.distortion : chosen;
    this.known = about.distortion;
    this.strong();
    this.title();
    this.show();
  }

  title() {
    const options = this.about.clean.map((_, i) => {
      const state = this.state(i);
      const how = !state ? "" : state.skipped ? ", skipped" : state.fooled ? ", fooled" : ", not fooled";
      return make("option", { value: i }, `clip ${i}${how}`);
    });
    this.clips.replaceChildren(...options);
    this.clips.value = this.clip;
    this.clips.hidden = options.length < 2;
  }

  told(clip) {
    if (!this.attackSeen) this.mine = false; // the first news of an attack
    this.attackSeen = true;
    this.title();
    if (clip === this.clip) this.follow();
  }

  answered() {
    const answer = this.model.get("answer"), mine = this.asking;
    this.asking = false;
    this.error.hidden = !answer.error;
    this.error.textContent = answer.error || "";
    if (answer.classes) {
      this.said.set(answer.clip, answer);
      this.clip = answer.clip;
      this.mine = true;
      if (!mine) { // `view.ask` in Python
        this.drawn.set(answer.clip, strengths(answer.strength));
        [this.amount.value, this.edited] = [1, false];
        this.strong();
      }
      this.title();
    }
    this.show();
    if (this.waiting) this.changed();
  }

  // where we are

  go(frame) {
    this.moved = true;
    this.frame = Math.max(0, Math.min(this.about.shape[0] - 1, frame));
    this.show();
  }

  /** Shows the frame that is distorted most, until another one is asked for. */
  follow() {
    const state = this.state();
    if (state && !this.moved && !this.mine) {
      const sums = new Float64Array(state.grid[0]), side = state.grid[1] * state.grid[2];
      strengths(state.strength).forEach((s, i) => (sums[Math.floor(i / side)] += Math.abs(s)));
      this.frame = Math.min(sums.indexOf(Math.max(...sums)) * state.cell[0], this.about.shape[0] - 1);
    }
    this.show();
  }

  turn(clip) {
    this.clip = clip;
    this.follow();
  }

  /** The arrow keys, which JupyterLab keeps from sliders. */
  slide(event) {
    const last = this.about.shape[0] - 1;
    const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, Home: -last, End: last }[event.key];
    if (!step) return;
    event.preventDefault();
    this.go(this.frame + step);
  }

  choose(mine) {
    this.mine = mine;
    this.show();
  }

  toggle() {
    if (this.playing) clearInterval(this.playing);
    this.playing = this.playing ? null : setInterval(() => this.go((this.frame + 1) % this.about.shape[0]), FRAME_MS);
    this.play.textContent = this.playing ? "◼" : "▶";
    this.play.setAttribute("aria-label", this.playing ? "stop" : "play");
  }

  show() {
    const { about } = this, state = this.state();
    const ink = getComputedStyle(this.root).color.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0];
    this.root.style.colorScheme = ink[0] + ink[1] + ink[2] > 382 ? "dark" : "light"; // of the controls
    this.which.hidden = !state;
    this.take.hidden = !state || state.grid.join() !== about.grid.join();
    const [attack, mine] = this.which.querySelectorAll("input");
    [attack.checked, mine.checked] = [!this.mine, this.mine];
    this.status.textContent = !state ? `${about.victim}: draw a region on the frame, and see what the victim says`
      : state.skipped ? `skipped: the goal held before the attack, the victim says ${state.says}`
      : `${state.fooled ? "fooled" : "not fooled"}: says ${state.says}` +
        (state.fooled ? `, L2 ${state.l2.toPrecision(3)}` : "") + `, ${state.queries} of ${state.budget} queries`;
    this.slider.value = this.frame;
    this.slider.setAttribute("aria-valuetext", `frame ${this.frame + 1} of ${about.shape[0]}`);
    this.number.textContent = `${this.frame + 1} / ${about.shape[0]}`;
    this.films.clean.source = about.clean[this.clip];
    if (state) this.films.attacked.source = state.attacked;
    const answer = this.said.get(this.clip);
    if (answer) this.films.answered.source = answer.attacked;
    this.curve(state);
    this.answers(answer);
    this.button.disabled = this.asking;
    this.paint();
  }

  answers(answer) {
    this.answerText.textContent = this.asking ? "asking the victim …" : answer ? answer.text : "";
    this.asked.textContent = answer
      ? `${answer.distortion.replaceAll("_", " ")}; answer ${answer.number} here; the victim has been asked ${answer.queries} times in all` : "";
    const bar = (p, colour) => make("div", { class: "vl-bar", style: `width:${100 * p}%;background:${colour}` });
    this.bars.replaceChildren(...(answer ? [make("tr", {}, make("th", { scope: "col" }, "class"), make("th", { scope: "col" }, "clean"),
      make("th", { scope: "col" }, "now"), make("td"))] : []), ...(answer?.classes ?? []).map(([name, now, before]) =>
      make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, percent(before)), make("td", {}, percent(now)),
        make("td", { "aria-hidden": "true" }, bar(before, LABEL), bar(now, RIVAL)))));
  }

  /** The map that is shown, its shape, and the size of a tubelet in px. */
  shown() {
    const { about } = this, state = this.state();
    if (this.mine || !state) {
      const drawn = this.drawn.get(this.clip);
      return { map: drawn && drawn.map((s) => s * this.signedAmount()), grid: about.grid, cell: about.cell };
    }
    return { map: strengths(state.strength), grid: state.grid, cell: state.cell, hulls: state.hulls };
  }

  paint() {
    const { about } = this, context = this.region.getContext("2d"), [t, height, width] = about.shape;
    const { map, grid, cell, hulls } = this.shown();
    const zoom = this.region.width / width;
    const any = map && map.some((s) => s);
    if ("filter" in context) context.filter = any ? "grayscale(1) brightness(0.75)" : "none";
    const ready = this.films.clean.draw(context, this.frame, about);
    if ("filter" in context) context.filter = "none";
    const k = Math.min(Math.floor(this.frame / cell[0]), grid[0] - 1), side = grid[1] * grid[2];
    const at = (y, x) => (y < 0 || x < 0 || y >= grid[1] || x >= grid[2] ? 0 : map[k * side + y * grid[2] + x]);
    const dy = cell[1] * zoom, dx = cell[2] * zoom;
    if (map) {
      for (let y = 0; y < grid[1]; y++) {
        for (let x = 0; x < grid[2]; x++) {
          const s = at(y, x);
          if (!s) continue;
          context.fillStyle = `rgba(${s > 0 ? MORE : LESS},${0.25 + 0.5 * Math.abs(s)})`;
          context.fillRect(x * dx, y * dy, dx, dy);
        }
      }
    }
    const path = new Path2D();
    if (hulls) {
      for (const hull of hulls[this.frame]) {
        hull.forEach(([x, y], i) => path[i ? "lineTo" : "moveTo"](x * zoom, y * zoom));
        path.closePath();
      }
    } else if (map) {
      const edge = (x0, y0, x1, y1) => (path.moveTo(x0 * dx, y0 * dy), path.lineTo(x1 * dx, y1 * dy));
      for (let y = 0; y <= grid[1]; y++) {
        for (let x = 0; x <= grid[2]; x++) {
          const here = !!at(y, x);
          if (here !== !!at(y - 1, x)) edge(x, y, x + 1, y);
          if (here !== !!at(y, x - 1)) edge(x, y, x, y + 1);
        }
      }
    }
    if (this.corner && this.end) {
      const [y0, x0, y1, x1] = this.box(this.corner, this.end);
      path.rect(x0 * dx, y0 * dy, (x1 - x0) * dx, (y1 - y0) * dy);
    }
    if (document.activeElement === this.region) path.rect(this.cursor[1] * dx, this.cursor[0] * dy, dx, dy);
    for (const [colour, thick] of [["#1e1e1e", 4], ["#ffffff", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = (thick * this.region.width) / (this.region.clientWidth || this.region.width);
      context.stroke(path);
    }
    const answer = this.said.get(this.clip), state = this.state(), right = this.attacked.getContext("2d");
    const which = this.mine ? (answer ? "answered" : "clean") : state ? "attacked" : "clean";
    const done = this.films[which].draw(right, this.frame, about);
    this.caption.textContent = which === "clean" ? "nothing asked yet" : which === "attacked" ? "under attack"
      : this.fresh() ? "with the region, as the victim saw it" : "as the victim saw it last: ask again";
    this.attacked.setAttribute("aria-label", `frame ${this.frame + 1}: ${this.caption.textContent}`);
    this.strip(map, grid, cell);
    if (ready && done) this.root.dataset.painted = `${this.clip} ${this.frame} ${which}`;
  }

  /** The strength in each frame, below the frames. */
  strip(map, grid, cell) {
    const canvas = this.when, t = this.about.shape[0];
    [canvas.width, canvas.height] = [1000, 68];
    const context = canvas.getContext("2d"), side = grid[1] * grid[2], wide = canvas.width / t;
    const means = Array.from({ length: grid[0] }, (_, k) => {
      let sum = 0;
      for (let j = 0; map && j < side; j++) sum += Math.abs(map[k * side + j]);
      return sum / side;
    });
    const most = Math.max(...means) || 1;
    context.clearRect(0, 0, canvas.width, canvas.height);
    for (let frame = 0; frame < t; frame++) {
      const high = 60 * means[Math.min(Math.floor(frame / cell[0]), grid[0] - 1)] / most;
      context.fillStyle = `rgba(128,128,128,${frame === this.frame ? 0.5 : 0.15})`;
      context.fillRect(frame * wide + 1, 0, wide - 2, 68);
      context.fillStyle = `rgb(${MORE})`;
      context.fillRect(frame * wide + 0.2 * wide, 66 - high, 0.6 * wide, high);
    }
  }

  curve(state) {
    this.curves.hidden = !state;
    if (!state) return;
    const left = 42, right = 428, top = 8, low = 160, last = Math.max(2, state.queries);
    const X = (q) => left + ((right - left) * (q - 1)) / (last - 1), Y = (p) => low - (low - top) * p;
    const line = (values) => {
      let path = "", pen = "M";
      values.forEach((p, i) => {
        if (p === null) pen = "M";
        else { path += `${pen}${X(state.asked[i]).toFixed(1)} ${Y(p).toFixed(1)}`; pen = "L"; }
      });
      return path;
    };
    const draw = (tag, attributes, text = "") => {
      const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
      for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
      node.textContent = text;
      return node;
    };
    const nodes = [
      draw("path", { class: "vl-axis", d: `M${left} ${top}V${low}H${right}M${left} ${Y(0.5)}H${right}` }),
      draw("text", { x: left - 6, y: top + 6, "text-anchor": "end" }, "100%"),
      draw("text", { x: left - 6, y: Y(0.5) + 4, "text-anchor": "end" }, "50%"),
      draw("text", { x: left - 6, y: low, "text-anchor": "end" }, "0%"),
      draw("text", { x: left, y: low + 18 }, "1"),
      draw("text", { x: right, y: low + 18, "text-anchor": "end" }, `${state.queries} queries`),
      draw("path", { d: line(state.rival), fill: "none", stroke: RIVAL, "stroke-width": 2, "stroke-dasharray": "6 3" }),
      draw("path", { d: line(state.p), fill: "none", stroke: LABEL, "stroke-width": 2 }),
    ];
    if (state.fooled && !state.skipped) {
      const x = X(state.first), past = x > 300;
      nodes.push(draw("path", { d: `M${x} ${top}V${low}`, stroke: "#808080", "stroke-dasharray": "2 3" }),
        draw("text", { x: x + (past ? -5 : 5), y: top + 22, "text-anchor": past ? "end" : "start" }, `fooled at query ${state.first}`));
    }
    this.chart.replaceChildren(...nodes);
    this.chart.setAttribute("aria-label", `Probability of ${state.label} and of the strongest other class after each of ${state.queries} queries`);
    const key = (colour, dash, text) => {
      const svg = draw("svg", { viewBox: "0 0 28 10", "aria-hidden": "true" });
      svg.append(draw("path", { d: "M0 5H28", stroke: colour, "stroke-width": 3, "stroke-dasharray": dash }));
      return make("span", {}, svg, text);
    };
    this.keys.replaceChildren(key(LABEL, "none", `${state.label} (${state.targeted ? "wanted" : "label"})`),
      key(RIVAL, "6 3", state.targeted ? "best other class" : "runner-up"));
  }

  // drawing

  signedAmount() { return +this.amount.value; }

  strong() {
    const signed = this.about.distortions[this.distortion.value];
    this.amount.min = signed ? -1 : 0;
    if (!signed && +this.amount.value < 0) this.amount.value = 1;
    this.amountText.textContent = ` ${(+this.amount.value).toFixed(2)}`;
    if (this.films) this.paint();
  }

  chosen() {
    this.strong();
    this.changed();
  }

  times() {
    const t = this.about.shape[0];
    this.from.value = Math.max(1, Math.min(t, Math.round(+this.from.value || 1)));
    this.to.value = Math.max(+this.from.value, Math.min(t, Math.round(+this.to.value || t)));
  }

  get toolName() { return this.tool.querySelector("input:checked").value; }

  cellAt(event) {
    const box = this.region.getBoundingClientRect(), { about } = this, [, height, width] = about.shape;
    const y = Math.floor(((event.clientY - box.top) / box.height) * height / about.cell[1]);
    const x = Math.floor(((event.clientX - box.left) / box.width) * width / about.cell[2]);
    return [Math.max(0, Math.min(about.grid[1] - 1, y)), Math.max(0, Math.min(about.grid[2] - 1, x))];
  }

  box([y0, x0], [y1, x1]) {
    return [Math.min(y0, y1), Math.min(x0, x1), Math.max(y0, y1) + 1, Math.max(x0, x1) + 1];
  }

  /** Sets the tubelets of a box in the chosen frames; a round one for the brush. */
  fill([y0, x0, y1, x1], value, round = null) {
    const { about } = this, [gt, gh, gw] = about.grid;
    if (!this.drawn.has(this.clip)) this.drawn.set(this.clip, new Float32Array(gt * gh * gw));
    const map = this.drawn.get(this.clip);
    const first = Math.floor((+this.from.value - 1) / about.cell[0]), last = Math.floor((+this.to.value - 1) / about.cell[0]);
    for (let k = first; k <= Math.min(last, gt - 1); k++) {
      for (let y = Math.max(0, y0); y < Math.min(gh, y1); y++) {
        for (let x = Math.max(0, x0); x < Math.min(gw, x1); x++) {
          if (round && Math.hypot((y - round[0]) * about.cell[1], (x - round[1]) * about.cell[2]) > round[2]) continue;
          map[(k * gh + y) * gw + x] = value;
        }
      }
    }
    this.mine = true;
    this.edited = true;
  }

  brush(cell) {
    const { about } = this, radius = (+this.size.value * Math.max(about.shape[1], about.shape[2])) / 2;
    const ry = Math.ceil(radius / about.cell[1]), rx = Math.ceil(radius / about.cell[2]);
    this.fill([cell[0] - ry, cell[1] - rx, cell[0] + ry + 1, cell[1] + rx + 1], this.toolName === "eraser" ? 0 : 1,
      [...cell, radius]);
  }

  down(event) {
    if (event.button) return;
    this.region.setPointerCapture?.(event.pointerId);
    this.region.focus({ preventScroll: true });
    event.preventDefault();
    this.stroke = true;
    this.cursor = this.cellAt(event);
    if (this.toolName === "rectangle") this.corner = this.end = this.cursor;
    else this.brush(this.cursor);
    this.show();
  }

  move(event) {
    if (!this.stroke) return;
    const from = this.cursor, to = this.cellAt(event);
    this.cursor = to;
    if (this.corner) this.end = to;
    else { // no gaps where the pointer is fast
      const steps = Math.max(1, Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]));
      for (let i = 1; i <= steps; i++) {
        this.brush([0, 1].map((a) => Math.round(from[a] + ((to[a] - from[a]) * i) / steps)));
      }
    }
    this.paint();
  }

  up() {
    if (!this.stroke) return;
    this.stroke = false;
    this.finishBox();
    this.changed();
  }

  finishBox() {
    if (this.corner && this.end) this.fill(this.box(this.corner, this.end), 1);
    this.corner = this.end = null;
  }

  key(event) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const [, gh, gw] = this.about.grid;
    if (step) {
      this.cursor = [Math.max(0, Math.min(gh - 1, this.cursor[0] + step[0])), Math.max(0, Math.min(gw - 1, this.cursor[1] + step[1]))];
      if (this.corner) this.end = this.cursor;
      this.paint();
    } else if (event.key === " ") {
      if (this.toolName !== "rectangle") { this.brush(this.cursor); this.changed(); }
      else if (this.corner) { this.finishBox(); this.changed(); }
      else { this.corner = this.end = this.cursor; this.paint(); }
    } else if (event.key === "PageUp" || event.key === "PageDown") {
      this.go(this.frame + (event.key === "PageUp" ? -1 : 1));
    } else if (event.key === "Enter" && !event.shiftKey && !event.ctrlKey && !event.metaKey) {
      this.ask();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  clear() {
    this.drawn.delete(this.clip);
    this.said.delete(this.clip);
    this.mine = true;
    this.show();
  }

  takeOver() {
    const state = this.state();
    this.drawn.set(this.clip, strengths(state.strength));
    this.amount.value = 1;
    this.strong();
    this.mine = this.edited = true;
    this.changed();
  }

  changed() {
    if (!this.drawn.get(this.clip)?.some((s) => s)) return this.show();
    this.edited = true;
    if (this.always.checked) this.ask();
    else this.show();
  }

  fresh() { return !this.edited && !this.asking; }

  ask() {
    const { about } = this, [gt, gh, gw] = about.grid;
    this.waiting = this.asking; // one after the other
    if (this.asking) return;
    const map = this.drawn.get(this.clip) ?? new Float32Array(gt * gh * gw);
    const codes = Int8Array.from(map, (s) => {
      const code = 127 * s * this.signedAmount();
      return code && Math.abs(code) < 1 ? Math.sign(code) : Math.round(code);
    });
    this.asking = true;
    this.edited = false;
    this.mine = true;
    this.error.hidden = true;
    this.model.send({ kind: "ask", clip: this.clip, distortion: this.distortion.value }, undefined, [codes.buffer]);
    this.show();
  }
}

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.remove();
  },
};
