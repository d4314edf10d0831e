const form = document.querySelector("#playground form");
const controls = [...form.querySelectorAll("[name]")];
const options = { actions: false, renderer: "svg", tooltip: false };
const views = await Promise.all(
  Object.entries(charts).map(async ([name, chart]) => {
    const drawn = await vegaEmbed(`#playground-${name}`, chart, options);
    return drawn.view;
  }),
);

function state() {
  return Object.fromEntries(controls.map((control) => [control.name, Number(control.value)]));
}

function set(values) {
  for (const control of controls) {
    if (control.name in values) control.value = Number(values[control.name]);
  }
}

async function draw() {
  const values = state();
  for (const control of controls) {
    const output = control.parentElement.querySelector("output");
    if (output) output.value = values[control.name];
  }
  for (const view of views) {
    for (const [name, value] of Object.entries(values)) view.signal(name, value);
  }
  await Promise.all(views.map((view) => view.runAsync()));
  form.dataset.drawn = new URLSearchParams(values).toString();
}

function readAddress() {
  const wanted = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  if (!("temperature" in wanted)) return;
  set(wanted);
  form.parentElement.scrollIntoView();
}

form.addEventListener("input", () => {
  draw();
  history.replaceState(null, "", "#" + new URLSearchParams(state()));
});
form.addEventListener("reset", (event) => {
  event.preventDefault();
  set(start);
  history.replaceState(null, "", "#" + new URLSearchParams(start));
  draw();
});
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("hashchange", () => {
  readAddress();
  draw();
});
set(start);
readAddress();
draw();
