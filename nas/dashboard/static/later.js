// What the page asks for once it has drawn: noise, trust, what decides, how the search went.
import { drawDecides, drawEffects, drawTrust } from "./decides.js";
import { byId, show } from "./dom.js";
import { drawHealth } from "./health.js";
import { readNoise } from "./noise.js";
import { drawPredictions } from "./predictions.js";

const HEALTH_SECONDS = 5;
const FINDINGS_SECONDS = 15;
const EXPLAIN_SECONDS = 2;
const EXPLAIN_GROWTH = 1.2;

// page: {store, source, drawn(): resolves once the chart is, pick(number, second), judged(): draws with noise, failed(error)}
export function createLater(page) {
  const { store } = page;
  let findingsAt = 0;
  let waitingForFindings = null;

  // noise, trust and effects: asked for once the chart is drawn, and not more often than it takes to read
  function refreshFindings() {
    if (waitingForFindings || !store.front.length) return;
    const wait = Math.max(0, findingsAt + 1000 * FINDINGS_SECONDS - Date.now());
    waitingForFindings = setTimeout(async () => {
      try {
        await page.drawn();
        const found = await page.source.findings();
        store.noise = readNoise(found);
        drawTrust(found.trust, store.summary);
        drawEffects(found.effects, store);
        if (store.noise) page.judged();
        refreshExplained();
      } catch (error) {
        page.failed(error);
      }
      findingsAt = Date.now();
      waitingForFindings = null;
    }, wait);
  }

  let explainedAt = 0;

  // what decides takes the server seconds: asked for where somebody stays and sees its place, and again when the trials
  // have become a fifth more
  async function refreshExplained() {
    const { complete } = store.summary.counts;
    if (complete < EXPLAIN_GROWTH * explainedAt) return;
    if (!explainedAt) drawDecides(undefined, store);
    explainedAt = complete;
    if (!page.source.saved) await seen(byId("decides"));
    const why = await page.source.explained();
    show(byId("decides"), true);
    drawDecides(why, store);
    drawPredictions(why?.predictions, store, page.pick);
  }

  let healthAt = 0;
  let waitingForHealth = null;

  // asked for only while the panel is open, and not more often than it takes to read
  function refreshHealth(anew = false) {
    if (anew) healthAt = 0;
    if (!byId("health-details").open || waitingForHealth) return;
    const wait = Math.max(0, healthAt + 1000 * HEALTH_SECONDS - Date.now());
    waitingForHealth = setTimeout(async () => {
      try {
        drawHealth(await page.source.health(), store);
      } catch (error) {
        page.failed(error);
      }
      healthAt = Date.now();
      waitingForHealth = null;
    }, wait);
  }

  return { refreshFindings, refreshHealth };
}

// resolves once a node is in the window and the reader has stayed for a while
function seen(node) {
  return new Promise((resolve) => {
    const watch = new IntersectionObserver((entries) => {
      if (!entries.some(({ isIntersecting }) => isIntersecting)) return;
      watch.disconnect();
      setTimeout(resolve, 1000 * EXPLAIN_SECONDS);
    });
    watch.observe(node);
  });
}
