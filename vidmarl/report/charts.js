"use strict";
// Plotly charts in the looks of the page, each drawn when it is needed, and saved on request.
const charts = (() => {
  const NARROW = 560; // px below which names at the ends of curves have no room
  const PAPER = 600; // px that a chart has on a printed page, within the frame of a clip

  // Plotly is most of a page without clips, so it is packed, and unpacked once the page is shown.
  let unpacking;
  function library() {
    return (unpacking ??= unpack());
  }
  async function unpack() {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent), (c) => c.charCodeAt(0));
    const text = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(text).text();
    document.head.append(script);
  }
  addEventListener("load", () => setTimeout(library)); // a page may be printed before a chart is seen

  /** A layout in the colours of the page. */
  function themed(layout) {
    const css = getComputedStyle(document.documentElement);
    const [ink, gridcolor] = ["--ink", "--grid"].map((name) => css.getPropertyValue(name).trim());
    const look = { ...layout, font: { ...layout.font, color: ink } };
    for (const key of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      look[key] = { ...layout[key], gridcolor };
    }
    return look;
  }

  /** Draws a chart, at once where Plotly is there. */
  function draw(element, figure, width = element.clientWidth) {
    element.figure = figure;
    if (window.Plotly) return plot(element, figure, width);
    return library().then(() => element.figure === figure && plot(element, figure, width));
  }

  function plot(element, figure, width) {
    const narrow = width < NARROW;
    const layout = { ...themed(figure.layout), width, height: element.clientHeight };
    if (narrow) layout.margin = { ...layout.margin, r: 12 };
    const data = narrow ? figure.data.filter((trace) => trace.mode !== "text") : figure.data;
    Plotly.react(element, data, layout, { displayModeBar: false });
  }

  function redraw() {
    for (const element of document.querySelectorAll(".chart")) {
      if (element.figure && element.clientWidth) draw(element, element.current());
    }
  }

  // A chart costs a noticeable moment, so each is drawn when it comes near the window.
  const near = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((e) => e.isIntersecting)) {
        near.unobserve(entry.target);
        entry.target.draw();
      }
    },
    { rootMargin: "600px" },
  );
  function later(element, drawing) {
    element.draw = drawing;
    near.observe(element);
  }

  /** Shows `figure()`, which may be another one by then, when the chart is needed. */
  function chart(element, figure) {
    element.current = figure;
    later(element, () => draw(element, figure()));
  }

  async function save(button) {
    await library();
    const element = button.closest(".plot").querySelector(".chart");
    const { data, layout } = element.current();
    const light = { ...layout, paper_bgcolor: "#fff", font: { ...layout.font, color: "#222" } };
    const { save: format, name: filename } = button.dataset;
    const size = { width: 1000, height: Math.round(1.1 * element.clientHeight) };
    return Plotly.downloadImage({ data, layout: light }, { format, filename, scale: 2, ...size });
  }

  for (const button of document.querySelectorAll("[data-save]")) button.addEventListener("click", () => save(button));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(redraw, 200);
  });

  // On paper everything is there: nothing folded, every chart drawn, as wide as the page.
  let folded = [];
  addEventListener("beforeprint", () => {
    folded = [...document.querySelectorAll("details:not([open])")];
    for (const details of folded) details.open = true;
    for (const element of document.querySelectorAll(".chart")) draw(element, element.current(), PAPER);
  });
  addEventListener("afterprint", () => {
    for (const details of folded) details.open = false;
    redraw();
  });
  return { chart, draw, later };
})();
