// What a trained network confuses: the matrix as a table whose cells are shaded, or the most confused pairs, and images.
import { element, fillTable } from "./dom.js";
import { capital, count, percent } from "./format.js";

const DARKEST = 45; // percent of the colour: the text stays readable on it

// trainings: [{of, found, command}] of the server; gives nodes, none where the network has no finished training
export function mistakesParts(trainings) {
  return trainings.flatMap(({ of, found, command }) => {
    const how = element("pre", { tabindex: "0", role: "group", "aria-label": `Command that evaluates the network: ${of}` }, command);
    if (!found) return [element("p", { class: "quiet" }, `Of the network, ${of}, what it confuses is shown here after:`), how];
    const { weights, data, resolution, num_images: images, num_wrong: wrong } = found;
    const words = `${count(wrong)} of ${count(images)} images of ${data} are wrong (${percent(wrong / images)}), at ${resolution} pixels, weights of the ${weights.replace(/^the /, "")}.`;
    return [element("h3", {}, capital(of)), element("p", {}, words), found.matrix ? matrix(found) : pairs(found), ...pictures(found)];
  });
}

function scroll(label, table) {
  return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label }, table);
}

// a row is what images are, a column what they are taken for; the shade is the share of the row
function matrix({ class_names: names, matrix: counts }) {
  const corner = element("td", { class: "quiet" }, "is ↓ taken for →");
  const head = element("tr", {}, corner, ...names.map((name) => element("th", { scope: "col", class: "number" }, name)), element("th", { scope: "col", class: "number" }, "right"));
  const rows = counts.map((row, i) => {
    const all = row.reduce((sum, one) => sum + one, 0);
    const cell = (number, j) => {
      const share = all ? number / all : 0;
      // of mistakes a few percent are to be seen, of what is right everything is
      const strength = Math.round(DARKEST * (i === j ? share : Math.min(1, 10 * share)));
      const words = i === j ? `${number} of ${all} images of ${names[i]} are right` : `${number} of ${all} images of ${names[i]} are taken for ${names[j]}`;
      const shade = strength ? `background:color-mix(in srgb, var(--${i === j ? "front" : "a"}) ${strength}%, var(--ground))` : undefined;
      return element("td", { class: number ? "number" : "number quiet", style: shade, title: words }, String(number));
    };
    return element("tr", {}, element("th", { scope: "row" }, names[i]), ...row.map(cell), element("td", { class: "number" }, all ? percent(row[i] / all) : "–"));
  });
  const table = element("table", { class: "matrix" }, element("caption", { class: "quiet" }, "Images by what they are (rows) and what they are taken for (columns)"), element("thead", {}, head), element("tbody", {}, ...rows));
  return scroll("Confusion matrix", table);
}

function pairs({ pairs: confused }) {
  if (!confused.length) return null;
  const table = element("table");
  const columns = [{ title: "is" }, { title: "taken for" }, { title: "images", number: true }, { title: "share of its images", number: true }];
  fillTable(table, columns, confused.map(({ label, predicted, count: times, of }) => ({ cells: [label, predicted, count(times), percent(times / of)] })));
  return scroll("The most confused classes", table);
}

function pictures({ images }) {
  if (!images.length) return [];
  const items = images.map(({ index, file, label, predicted, probability, png }) =>
    element(
      "li",
      { title: file ?? `image ${count(index)}` },
      element("img", { src: `data:image/png;base64,${png}`, alt: `${file ?? `image ${index}`}: ${label}, taken for ${predicted}`, loading: "lazy" }),
      element("span", { "aria-hidden": "true" }, element("b", {}, label), ` as ${predicted}`),
      element("small", {}, `${percent(probability)} · ${file ? file : `image ${index}`}`),
    ),
  );
  return [element("p", { class: "quiet note" }, "Wrong images, those of which the network was surest first: what each is, what it is taken for, how surely, and its place among the evaluation images or its file."), element("ul", { class: "mistakes", "aria-label": "Wrong images" }, ...items)];
}
