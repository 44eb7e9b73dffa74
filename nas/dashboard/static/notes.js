// A star and words of whoever looks, for the panel and the page of a trial.
import { element } from "./dom.js";

// name: what the trial is called there; noted: {star, text} or nothing; note(number, note): keeps one, null in a saved
// copy, which shows what there is
export function noteBox(number, name, noted, note) {
  const kept = noted ?? { star: false, text: "" };
  if (!note) return kept.star || kept.text ? element("p", { class: "note" }, kept.star ? "★ " : "", kept.text) : null;
  const words = element("textarea", { rows: 2, maxlength: 2000, "aria-label": `Note on ${name}`, placeholder: "Note" });
  words.value = kept.text;
  const star = element("button", { type: "button", class: "star-button", "aria-pressed": String(kept.star) });
  const said = element("small", { role: "status" });
  const drawStar = () => (star.textContent = star.getAttribute("aria-pressed") === "true" ? "★ Starred" : "☆ Star");
  const put = async () => {
    try {
      await note(number, { star: star.getAttribute("aria-pressed") === "true", text: words.value });
      said.textContent = "Saved in notes.json of the run.";
    } catch (error) {
      said.textContent = `Not saved: ${error.message}`;
    }
  };
  // one after the other: a click on the star ends the writing of words as well, and the last to come would win
  let saved = Promise.resolve();
  const save = () => (saved = saved.then(put));
  star.addEventListener("click", () => {
    star.setAttribute("aria-pressed", String(star.getAttribute("aria-pressed") !== "true"));
    drawStar();
    save();
  });
  words.addEventListener("change", save);
  drawStar();
  return element("div", { class: "notes" }, words, element("p", { class: "buttons" }, star, said));
}
