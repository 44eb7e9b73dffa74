// What the page asks for only where it shows it: key, stages, shape and further figures of each trial, by row of the store.

const NO_STAGE = 2 ** 32 - 1;
const READ_SECONDS = 5;
const NO_FIGURES = /^(number|finished|shape|stage\d+)$/;

export function createArchitectures(store, source) {
  let data = null;
  let at = new Int32Array(0); // place in `data` by row of the store
  let asking = null;

  async function ask() {
    if (data) await new Promise((resolve) => setTimeout(resolve, 1000 * READ_SECONDS));
    data = await source.architectures();
    at = new Int32Array(store.count).fill(-1);
    data.rows.number.forEach((number, i) => {
      const row = store.rowOf.get(number);
      if (row !== undefined) at[row] = i;
    });
    for (const [name, values] of Object.entries(data.rows)) {
      if (!NO_FIGURES.test(name)) store.further[name] = Float32Array.from(at, (place) => (place < 0 ? NaN : values[place]));
    }
  }

  // resolves once what is new is there; asked for not more often than it takes to read
  function refresh() {
    asking ??= ask().finally(() => (asking = null));
    return asking;
  }

  const placeOf = (row) => at[row] ?? -1;
  const numStages = () => Object.keys(data.rows).filter((name) => name.startsWith("stage")).length;
  // the stage of a row as a place in `stages`, -1 where it has none
  const stageAt = (row, i) => {
    const stage = placeOf(row) < 0 ? NO_STAGE : data.rows[`stage${i}`][at[row]];
    return stage === NO_STAGE ? -1 : stage;
  };
  return {
    refresh,
    numStages,
    stageAt,
    ready: () => data !== null,
    rows: () => at.length,
    stages: () => data.stages,
    // "stage 1"; behind the last stage a detector has its neck and its head
    placeName: (i) => data.places[i],
    shapes: () => data.shapes,
    keyOf: (row) => data.keys[placeOf(row)],
    finishedOf: (row) => data.rows.finished[placeOf(row)],
    // kind and width of each stage, as a place in `shapes`, -1 where it is not known
    shapeAt: (row) => (placeOf(row) < 0 ? -1 : data.rows.shape[at[row]]),
    shapeOf: (row) => (placeOf(row) < 0 ? [] : data.shapes[data.rows.shape[at[row]]]),
    stagesOf: (row) => Array.from({ length: numStages() }, (_, i) => stageAt(row, i)).filter((stage) => stage >= 0).map((stage) => data.stages[stage]),
  };
}
