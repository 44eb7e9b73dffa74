// The page of a run's configuration and environment, as its files have them.
import { byId, element, show } from "./dom.js";
import { getJson } from "./source.js";

const name = location.pathname.split("/")[2];

function part(title, content) {
  return element("section", {}, element("h2", {}, title), content);
}

function text(label, content, file) {
  if (content === null) return element("p", { class: "quiet" }, `There is no ${file} in the run's folder.`);
  return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label }, element("pre", {}, content));
}

async function start() {
  byId("run").href = `/run/${name}`;
  const found = await getJson(`/api/run/${name}/about`);
  document.title = `${found.run}: configuration`;
  byId("name").textContent = `${found.run}: configuration`;
  byId("path").textContent = found.path;
  const rows = found.environment.map(([title, value]) => element("tr", {}, element("th", { scope: "row" }, title), element("td", {}, value)));
  const environment = rows.length ? element("table", { class: "pairs" }, element("tbody", {}, ...rows)) : element("p", { class: "quiet" }, "There is no readable environment.json.");
  byId("parts").replaceChildren(
    part("Environment", environment),
    part("Experiment with every default", text("Resolved experiment", found.resolved, "resolved.yaml")),
    part("Experiment as given", text("Given experiment", found.given, "experiment.yaml")),
  );
}

start().catch((error) => {
  show(byId("problem"), true);
  byId("problem").textContent = `This page cannot be shown: ${error.message}`;
});
