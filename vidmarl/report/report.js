"use strict";
(() => {
  const { chart, draw, later } = charts;
  const data = JSON.parse(document.getElementById("data").textContent);
  const [MORE, LESS] = data.colours.map((rgb) => rgb.join(","));
  const ZOOM = 2; // canvas px per clip px, so that outlines are finer than pixels

  const loaded = new Map();
  function picture(of) {
    if (!loaded.has(of.url)) {
      const image = new Image();
      image.src = of.url;
      loaded.set(of.url, image.decode().then(() => image));
    }
    return loaded.get(of.url);
  }

  function overlay(context, run, frame, mode) {
    const [frames, height, width] = run.cell;
    const step = Math.floor(frame / frames);
    for (const [y, x, s] of run.strength[step] ?? []) {
      const opacity = mode === "heat" ? 0.15 + 0.6 * Math.abs(s) : 0.3 * Math.abs(s);
      context.fillStyle = `rgba(${s > 0 ? MORE : LESS},${opacity})`;
      context.fillRect(x * width * ZOOM, y * height * ZOOM, width * ZOOM, height * ZOOM);
    }
    if (mode !== "outline") return;
    context.lineJoin = "round";
    for (const hull of run.hulls[step] ?? []) {
      context.beginPath();
      for (const [x, y] of hull) context.lineTo(x * ZOOM, y * ZOOM);
      context.closePath();
      for (const [size, style] of [[4, "rgba(30,30,30,0.9)"], [2, "#fff"]]) {
        context.lineWidth = size; // a light line on a dark one is seen on any picture
        context.strokeStyle = style;
        context.stroke();
      }
    }
  }

  function setUp(article) {
    const clip = data.clips[article.dataset.clip];
    const find = (selector) => article.querySelector(selector);
    const slider = find(".slider input");
    const play = find(".play");
    const when = find(".when");
    let run = clip.runs[0];
    let timer = null;
    find(".gain").textContent = "×" + clip.gain;

    async function paint() {
      const frame = Number(slider.value);
      const mode = find(".region input:checked").value;
      const current = run;
      const sources = { clean: clip.clean, attacked: run.attacked, difference: run.difference };
      const images = await Promise.all(Object.values(sources).map(picture));
      if (frame !== Number(slider.value) || current !== run) return; // a later call has taken over
      Object.entries(sources).forEach(([name, source], i) => {
        const canvas = find("canvas." + name);
        if (canvas.width !== clip.width * ZOOM || canvas.height !== clip.height * ZOOM) {
          canvas.width = clip.width * ZOOM;
          canvas.height = clip.height * ZOOM;
        }
        const context = canvas.getContext("2d");
        context.imageSmoothingEnabled = false; // show pixels as they are
        const x = (frame % source.columns) * clip.width;
        const y = Math.floor(frame / source.columns) * clip.height;
        context.drawImage(images[i], x, y, clip.width, clip.height, 0, 0, canvas.width, canvas.height);
        if (name === "attacked" && mode !== "off") overlay(context, run, frame, mode);
        canvas.setAttribute("aria-label", `${canvas.dataset.name}, frame ${frame + 1} of ${clip.frames}`);
      });
      find("output").textContent = `${frame + 1} / ${clip.frames}`;
      [...when.children].forEach((bar, i) => bar.classList.toggle("now", i === frame));
      article.dataset.painted = `${frame} ${mode} ${clip.runs.indexOf(run)}`;
    }

    /** A picture with a row for each of some frames: original, attacked, difference, as they are. */
    async function sheet(frames) {
      const sources = [clip.clean, run.attacked, run.difference];
      const images = await Promise.all(sources.map(picture));
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [sources.length * clip.width, frames.length * clip.height];
      const context = canvas.getContext("2d");
      frames.forEach((frame, row) =>
        sources.forEach(({ columns }, column) => {
          const [x, y] = [(frame % columns) * clip.width, Math.floor(frame / columns) * clip.height];
          const at = [column * clip.width, row * clip.height, clip.width, clip.height];
          context.drawImage(images[column], x, y, clip.width, clip.height, ...at);
        }),
      );
      return new Promise((resolve) => canvas.toBlob(resolve));
    }
    for (const button of article.querySelectorAll("[data-frames]")) {
      button.addEventListener("click", async () => {
        const every = button.dataset.frames === "all";
        const frames = every ? [...Array(clip.frames).keys()] : [Number(slider.value)];
        const name = `clip-${article.dataset.clip}-${every ? "frames" : "frame-" + (frames[0] + 1)}.png`;
        download(name, await sheet(frames));
      });
    }

    function show(index) {
      run = clip.runs[index];
      const most = Math.max(...run.when) || 1;
      when.replaceChildren(
        ...run.when.map((size) => {
          const bar = document.createElement("i");
          bar.style.height = (100 * size) / most + "%";
          return bar;
        }),
      );
      for (const line of article.querySelectorAll(".outcome")) line.hidden = Number(line.dataset.run) !== index;
      if (find(".path").figure) draw(find(".path"), run.chart);
      paint();
    }

    function stop() {
      clearInterval(timer);
      timer = null;
      play.textContent = "Play";
      play.setAttribute("aria-pressed", "false");
    }
    play.addEventListener("click", () => {
      if (timer) return stop();
      play.textContent = "Pause";
      play.setAttribute("aria-pressed", "true");
      timer = setInterval(() => {
        slider.value = (Number(slider.value) + 1) % clip.frames;
        paint();
      }, 1000 / data.fps);
    });
    slider.addEventListener("input", () => {
      stop();
      paint();
    });
    for (const choice of article.querySelectorAll(".region input")) choice.addEventListener("change", paint);
    for (const choice of article.querySelectorAll(".runs input")) {
      choice.addEventListener("change", () => show(Number(choice.value)));
    }
    for (const canvas of article.querySelectorAll("canvas")) canvas.dataset.name = canvas.getAttribute("aria-label");
    const most = clip.runs[0].when.indexOf(Math.max(...clip.runs[0].when));
    slider.value = Math.max(most, 0); // begin where there is most to see
    later(article, () => show(0));
    chart(find(".path"), () => run.chart);
  }

  function sort(header) {
    const table = header.closest("table");
    const column = header.cellIndex;
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");
    const key = (row) => row.cells[column].dataset.value;
    const numeric = header.classList.contains("number");
    const order = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
    const body = table.tBodies[0];
    const rows = [...body.rows].sort((a, b) => {
      if ((key(a) === "") !== (key(b) === "")) return key(a) === "" ? 1 : -1; // what is missing comes last
      return (up ? 1 : -1) * order(key(a), key(b));
    });
    body.append(...rows);
  }

  for (const button of document.querySelectorAll(".sortable th button")) {
    button.addEventListener("click", () => sort(button.parentElement));
  }
  function download(name, blob) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  for (const button of document.querySelectorAll("[data-file]")) {
    const name = button.dataset.file;
    button.addEventListener("click", () => download(name, new Blob([data.files[name]], { type: "text/plain" })));
  }
  for (const kind of ["curves", "sizes"]) {
    document.querySelectorAll(".chart." + kind).forEach((element, i) => chart(element, () => data[kind][i]));
  }
  document.querySelectorAll(".clip").forEach(setUp);
})();
