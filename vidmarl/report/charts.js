"use strict";
// Plotly charts in the looks of the page, each drawn when it is needed.
const charts = (() => {
  function themed(figure) {
    const css = getComputedStyle(document.documentElement);
    const look = { "font.color": css.getPropertyValue("--ink").trim() };
    for (const key of Object.keys(figure.layout)) {
      if (/^[xy]axis/.test(key)) look[key + ".gridcolor"] = css.getPropertyValue("--grid").trim();
    }
    return look;
  }

  function draw(element, figure) {
    const layout = { ...figure.layout, autosize: true, height: element.clientHeight };
    Plotly.react(element, figure.data, layout, { responsive: true, displayModeBar: false }).then(() =>
      Plotly.relayout(element, themed(figure)),
    );
    element.figure = figure;
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
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const chart of document.querySelectorAll(".chart")) {
      if (chart.figure) Plotly.relayout(chart, themed(chart.figure));
    }
  });
  return { draw, later };
})();
