// What trials can be filtered by, and what parallel coordinates show: their figures, and what was chosen of each stage.

// [{name, title, unit, decimals, stage and labels: of what is chosen, else absent, value(row): in the unit, or the place in labels}];
// choices once the architectures are there
export function dimensions(store, known) {
  const figures = store.knownFigures.map((metric) => ({ ...metric, value: (row) => store.value(row, metric) }));
  return known.ready() ? [...figures, ...stageChoices(store, known)] : figures;
}

const summed = new WeakMap();

// labels of all stages, the place of the most used one in each, and whether any stage has several
function labelsOf(store, stages) {
  if (!summed.has(stages)) {
    const labels = [...new Set(stages.flat())].sort((p, q) => store.labels.indexOf(p) - store.labels.indexOf(q));
    const most = stages.map((stage) => labels.indexOf(mostUsed(stage)));
    summed.set(stages, { labels, most, isMixed: stages.some((stage) => new Set(stage).size > 1) });
  }
  return summed.get(stages);
}

function stageChoices(store, known) {
  const stages = known.stages();
  const { labels, most, isMixed } = labelsOf(store, stages);
  return Array.from({ length: known.numStages() }, (_, i) => {
    const widths = known.shapes().map((shape) => shape[i]?.[1] ?? NaN);
    const stage = known.placeName(i);
    const at = (values, place) => (place < 0 ? NaN : (values[place] ?? NaN));
    const choices = [
      { name: `operator${i}`, stage: i, title: `${isMixed ? "most used operator" : "operator"}, ${stage}`, unit: "", labels, value: (row) => at(most, known.stageAt(row, i)) },
      { name: `depth${i}`, stage: i, title: `depth, ${stage}`, unit: "blocks", decimals: 0, value: (row) => at(stages, known.stageAt(row, i)).length ?? NaN },
      { name: `width${i}`, stage: i, title: `width, ${stage}`, unit: "channels", decimals: 0, value: (row) => at(widths, known.shapeAt(row)) },
    ];
    return stage.startsWith("stage") ? choices : choices.slice(0, 1);
  }).flat();
}

// the first of the most frequent
function mostUsed(labels) {
  const times = (label) => labels.filter((other) => other === label).length;
  return labels.reduce((best, label) => (times(label) > times(best) ? label : best), labels[0]);
}
