"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  document.querySelectorAll(".curves").forEach((element, i) => {
    charts.later(element, () => charts.draw(element, data.curves[i]));
  });
})();
