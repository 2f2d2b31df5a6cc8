// Tables are sorted by the head that is clicked; the values of all lines stand beside the pointer.
for (const table of document.querySelectorAll("table.sorted")) {
  const body = table.tBodies[0];
  table.tHead.querySelectorAll("th").forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending";
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.v;
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === undefined || y === undefined) {
          if (x !== undefined || y !== undefined) return x === undefined ? 1 : -1;
          const [s, t] = [a, b].map((row) => row.cells[column].textContent);
          return (down ? -1 : 1) * -s.localeCompare(t, undefined, { numeric: true });
        }
        return (down ? -1 : 1) * (x - y);
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}

const tip = document.createElement("div");
tip.id = "tip";
tip.hidden = true;
document.body.append(tip);

function light(name) {
  for (const part of document.querySelectorAll("svg.lines, svg.dots, .legend")) {
    part.classList.toggle("faded", name !== null);
    for (const one of part.querySelectorAll("[data-name]")) one.classList.toggle("lit", one.dataset.name === name);
  }
}
for (const one of document.querySelectorAll(".legend li, svg.dots .series")) {
  one.addEventListener("pointerenter", () => light(one.dataset.name));
  one.addEventListener("pointerleave", () => light(null));
}

function show(event, head, rows) {
  tip.replaceChildren(head, ...rows.map(([colour, name, value]) => {
    const line = document.createElement("div"), left = document.createElement("span"), key = document.createElement("i");
    key.className = `key ${colour}`;
    left.append(key, name);
    line.append(left, value);
    return line;
  }));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const x = event.clientX + 16 + width > innerWidth ? event.clientX - 16 - width : event.clientX + 16;
  tip.style.left = `${Math.max(4, x)}px`;
  tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 4))}px`;
}

for (const svg of document.querySelectorAll("svg.lines")) {
  const xs = svg.dataset.x.split(" ").map((one) => one.split(":").map(Number));
  const series = [...svg.querySelectorAll(".series")].map((one) => ({
    name: one.dataset.name, colour: one.getAttribute("class"),
    values: new Map(one.dataset.y.split(" ").map((v) => v.split(":")).map(([x, y, text]) => [Number(x), [Number(y), text]])),
  }));
  const guide = svg.querySelector(".guide");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), at = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const [x, place] = xs.reduce((a, b) => Math.abs(b[1] - at) < Math.abs(a[1] - at) ? b : a);
    for (const end of ["x1", "x2"]) guide.setAttribute(end, place);
    guide.style.visibility = "visible";
    const there = series.filter((one) => one.values.has(x)).sort((a, b) => b.values.get(x)[0] - a.values.get(x)[0]);
    show(event, `epoch ${x}`, there.map((one) => [one.colour.replace("series", ""), one.name, one.values.get(x)[1]]));
  });
  svg.addEventListener("pointerleave", () => { tip.hidden = true; guide.style.visibility = "hidden"; });
}
